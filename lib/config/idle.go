// SPDX-License-Identifier: Apache-2.0

package config

import "reflect"

// Idle tells which settings say something else than the defaults and have no effect, each as KEY: why.
func (c *Config) Idle() (all []string) {
	usual := Default()
	note := func(differs bool, key []string, why string) {
		if differs {
			all = append(all, keyText(key)+" has no effect: "+why)
		}
	}
	cri, was := c.CRI, usual.CRI
	for _, s := range []struct {
		was, is any
		key     []string
		why     string
	}{
		{was.SELinuxCategoryRange, cri.SELinuxCategoryRange, []string{"cri", "selinux_category_range"}, "labels are taken from the pod, and none are made"},
		{was.DrainExecSyncIOTimeout, cri.DrainExecSyncIOTimeout, []string{"cri", "drain_exec_sync_io_timeout"}, "output that others hold open is never waited for"},
		{was.DisableSnapshotAnnotations, cri.DisableSnapshotAnnotations, []string{"cri", "disable_snapshot_annotations"}, "snapshotters are told nothing of images"},
	} {
		note(!reflect.DeepEqual(s.was, s.is), s.key, s.why)
	}
	return all
}
