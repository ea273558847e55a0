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

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/taskapi"
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
		_, _, err = runtimeOf(r)
	}
	return err
}

// runcType is a shim whose part ctr-shim plays where no program is named: it drives an OCI engine, too.
const runcType = "io.containerd.runc.v2"

// runtimeOf gives what a container's record says of its runtime. ctr-shim has the containers of a pod in the supervisor that has
// its namespaces; a shim of others has each container by itself, in those namespaces.
func runtimeOf(r config.Runtime) (name string, options *container.Any, err error) {
	ours := r.Path == "" || path.Base(r.Path) == "ctr-shim"
	likeRunc := r.Type == "" || r.Type == runcType || r.Type == container.DefaultRuntime
	if err := container.CheckRuntime(cmp.Or(r.Path, r.Type, container.DefaultRuntime)); err != nil {
		return "", nil, fmt.Errorf("runtime_handler: %w", err)
	}
	if !likeRunc {
		options, err = configOptions(r)
		return cmp.Or(r.Path, r.Type), options, err
	}
	var o taskapi.Options
	if err := r.DecodeOptions(&o); err != nil {
		return "", nil, fmt.Errorf("runtime_handler: %w", err)
	}
	if len(r.Options) > 0 {
		a := taskapi.NewAny(&o)
		options = &container.Any{Type: a.TypeURL, Value: a.Value}
	}
	if ours {
		return cmp.Or(r.Engine, o.BinaryName, container.DefaultRuntime), options, nil
	}
	return r.Path, options, nil
}

// configOptions gives the options of a shim that is not like runc's: the path of a configuration, or a text in TOML, as containerd
// gives them.
func configOptions(r config.Runtime) (*container.Any, error) {
	if len(r.Options) == 0 {
		return nil, nil
	}
	var o taskapi.ConfigOptions
	o.TypeURL, _ = r.Options["TypeUrl"].(string)
	o.ConfigPath, _ = r.Options["ConfigPath"].(string)
	if o.ConfigPath == "" {
		text, err := r.OptionsText()
		if err != nil {
			return nil, err
		}
		o.ConfigBody = text
	}
	a := taskapi.NewAny(&o)
	return &container.Any{Type: a.TypeURL, Value: a.Value}, nil
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
