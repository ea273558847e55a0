// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// mounts puts the pod's files and the mounts that were asked for in the place of what lib/spec has there.
func (a amendment) mounts(r *spec.Result) error {
	s := r.Spec
	asked := map[string]bool{}
	var own []specs.Mount
	for i, m := range a.c.Mounts {
		dst := filepath.Clean("/" + m.Destination)
		if asked[dst] {
			return bad("mounts.container_path", "%q is given twice", dst)
		}
		asked[dst] = true
		made, err := a.mount(i, m, dst, s)
		if err != nil {
			return err
		}
		own = append(own, made)
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		return asked[m.Destination] || sources[m.Destination] != ""
	})
	r.Etc = spec.Etc{}
	for i, m := range s.Mounts {
		if m.Destination == "/dev/shm" && a.p.Namespaces.IPC != Node {
			s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: task.SandboxFile + taskdir.PodShm, Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
		}
	}
	options := []string{"rbind", "rprivate"}
	if a.c.Security.ReadOnlyRoot {
		options = append(options, "ro")
	}
	for _, dst := range slices.Sorted(maps.Keys(sources)) {
		if !asked[dst] {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: dst, Type: "bind", Source: sources[dst], Options: options})
		}
	}
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	s.Mounts = append(s.Mounts, own...)
	return nil
}

// mount makes one mount.
func (a amendment) mount(i int, m Mount, dst string, s *specs.Spec) (specs.Mount, error) {
	if m.Image != "" {
		made := a.images[i]
		made.Destination = dst
		made.Options = append(made.Options, m.Options...)
		return made, nil
	}
	src, err := hostPath(m.Source)
	if err != nil {
		return specs.Mount{}, err
	}
	made := specs.Mount{Destination: dst, Type: "bind", Source: src, UIDMappings: m.UIDs, GIDMappings: m.GIDs, Options: []string{"rbind"}}
	switch m.Propagation {
	case "":
		made.Options = append(made.Options, "rprivate")
	default:
		if err := checkPropagation(src, m.Propagation); err != nil {
			return made, err
		}
		made.Options = append(made.Options, m.Propagation)
		if s.Linux.RootfsPropagation != "rshared" {
			s.Linux.RootfsPropagation = m.Propagation
		}
	}
	switch {
	case m.RecursiveReadOnly:
		made.Options = append(made.Options, "ro", "rro")
	case m.ReadOnly:
		made.Options = append(made.Options, "ro")
	}
	made.Options = append(made.Options, m.Options...)
	return made, nil
}

// hostPath follows the links of the source of a mount. A directory that is not there is made, as kubelets expect it.
func hostPath(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(path, 0o755); err == nil {
			real, err = filepath.EvalSymlinks(path)
		}
	}
	if err != nil {
		return "", bad("mounts.host_path", "%v", err)
	}
	return real, nil
}

// checkPropagation refuses a propagation that the mount of the host does not have.
func checkPropagation(path, propagation string) error {
	all, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return fmt.Errorf("mounts.propagation: %w", err)
	}
	var on *mountinfo.Info
	for _, m := range all {
		if on == nil || len(m.Mountpoint) >= len(on.Mountpoint) {
			on = m
		}
	}
	if on == nil {
		return bad("mounts.host_path", "%q is on no mount", path)
	}
	shared := strings.Contains(on.Optional, "shared:")
	if shared || propagation == "rslave" && strings.Contains(on.Optional, "master:") {
		return nil
	}
	return bad("mounts.propagation", "%q is on the mount %s, which is private: nothing propagates", path, on.Mountpoint)
}

// imageVolumes gives the mounts of images by the index of the mount that asks for it, and adds labels that keep their layers.
func (h Host) imageVolumes(_ context.Context, all []Mount, _ map[string]string) (map[int]specs.Mount, error) {
	for _, m := range all {
		if m.Image != "" {
			return nil, fmt.Errorf("mounts.image %q: %w", m.Image, errdefs.ErrNotImplemented)
		}
	}
	return nil, nil
}
