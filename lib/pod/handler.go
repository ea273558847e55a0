// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/container"
)

// config is what pods are made by.
func (h Host) config() *config.Config {
	if h.Config == nil {
		return config.Default()
	}
	return h.Config
}

// SystemdCgroups tells whether systemd makes the cgroups of pods, so that their parents are slices.
func (h Host) SystemdCgroups() bool {
	switch h.config().CgroupDriver {
	case string(cgroup.Systemd):
		return true
	case string(cgroup.Cgroupfs):
		return false
	}
	return cgroup.Booted()
}

// Handlers lists the names of what can run pods, the empty one among them for the default.
func (h Host) Handlers() []string {
	return append([]string{""}, slices.Sorted(maps.Keys(h.config().Runtimes))...)
}

// handler gives what runs a pod. A name that is not configured is errdefs.ErrInvalidArgument.
func (h Host) handler(name string) (config.Runtime, error) {
	c := h.config()
	r, ok := c.Runtimes[cmp.Or(name, c.DefaultRuntime)]
	if !ok {
		return r, bad("runtime_handler", "%q is not among the runtimes that are configured", name)
	}
	r.Snapshotter = cmp.Or(r.Snapshotter, c.Snapshotter)
	return r, nil
}

// checkHandler refuses what cannot run a pod.
func (h Host) checkHandler(name string) error {
	r, err := h.handler(name)
	if err == nil {
		_, err = runtimeOf(r)
	}
	return err
}

// A shim, and its program, whose part ctr-shim plays: it drives an OCI engine, too.
const (
	runcType    = "io.containerd.runc.v2"
	runcProgram = "containerd-shim-runc-v2"
)

// runtimeOf gives what a container's record says of its runtime. One that ctr-shim cannot stand in for is
// errdefs.ErrNotImplemented: a pod's containers are in the supervisor that has its namespaces.
func runtimeOf(r config.Runtime) (string, error) {
	engine := r.Engine
	if name, ok := r.Options["BinaryName"].(string); ok {
		engine = cmp.Or(engine, name)
	}
	foreign := r.Type != "" && r.Type != runcType && r.Type != container.DefaultRuntime
	if p := path.Base(r.Path); r.Path != "" && p != runcProgram && p != "ctr-shim" {
		foreign = true
	}
	if foreign {
		return "", fmt.Errorf("runtime_handler: a pod in the shim %s: %w", cmp.Or(r.Path, r.Type), errdefs.ErrNotImplemented)
	}
	return cmp.Or(engine, container.DefaultRuntime), nil
}

// pick gives those annotations that patterns let through.
func pick(annotations map[string]string, patterns []string) map[string]string {
	all := map[string]string{}
	for key, value := range annotations {
		if slices.ContainsFunc(patterns, func(p string) bool { return fits(p, key) }) {
			all[key] = value
		}
	}
	return all
}

// fits tells whether a key is what a pattern means: * at its end stands for any text, elsewhere for any without a slash.
func fits(pattern, key string) bool {
	if begin, ok := strings.CutSuffix(pattern, "*"); ok && !strings.ContainsAny(begin, `*?[\`) {
		return strings.HasPrefix(key, begin)
	}
	ok, err := filepath.Match(pattern, key)
	return err == nil && ok
}
