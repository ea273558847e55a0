// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"reflect"
	"slices"
)

// Idle tells which settings say something else than the defaults and have no effect, each as KEY: why.
func (c *Config) Idle() (all []string) {
	usual := Default()
	note := func(differs bool, key []string, why string) {
		if differs {
			all = append(all, keyText(key)+" has no effect: "+why)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		r := c.Runtimes[name]
		note(r.BaseRuntimeSpec != "", []string{"runtimes", name, "base_runtime_spec"}, "containers begin with ctrd's own spec")
		note(r.CNIMaxConfNum > 1, []string{"runtimes", name, "cni_max_conf_num"}, onlyOne)
	}
	cri, was := c.CRI, usual.CRI
	for _, s := range []struct {
		was, is any
		key     []string
		why     string
	}{
		{was.CNI.MaxConfNum, cri.CNI.MaxConfNum, []string{"cri", "cni", "max_conf_num"}, onlyOne},
		{was.SELinuxCategoryRange, cri.SELinuxCategoryRange, []string{"cri", "selinux_category_range"}, "labels are taken from the pod, and none are made"},
		{was.DrainExecSyncIOTimeout, cri.DrainExecSyncIOTimeout, []string{"cri", "drain_exec_sync_io_timeout"}, "output that others hold open is never waited for"},
		{was.DisableSnapshotAnnotations, cri.DisableSnapshotAnnotations, []string{"cri", "disable_snapshot_annotations"}, "snapshotters are told nothing of images"},
	} {
		note(!reflect.DeepEqual(s.was, s.is), s.key, s.why)
	}
	return all
}

const onlyOne = "a pod is attached to the first network alone, in the order of names"
