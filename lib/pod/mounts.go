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

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
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

// imageVolumes gives the mounts of images by the index of the mount that asks for it, adds labels that keep their layers as
// long as the container is there, and has a lease keep them until then.
func (h Host) imageVolumes(ctx context.Context, outer *lock.Lock, le *lease.Lease, all []Mount, driver string, labels map[string]string) (map[int]specs.Mount, error) {
	sn, err := snapshot.Named(driver)
	if err != nil {
		return nil, err
	}
	made := map[int]specs.Mount{}
	for i, m := range all {
		if m.Image == "" {
			continue
		}
		key, err := h.topLayer(ctx, m.Image)
		if err == nil {
			err = le.Hold(ctx, outer, lease.Snapshot, h.Namespace+"/"+key)
		}
		var layers []string
		if err == nil {
			err = h.Dir.View(ctx, func(tx *state.Tx) (err error) {
				layers, err = sn.Layers(ctx, tx, h.Dir, h.Namespace, key)
				return err
			})
		}
		if errdefs.IsNotImplemented(err) {
			err = fmt.Errorf("a volume of an image needs a snapshotter whose layers are directories, such as overlayfs, native or btrfs; a handler of the pod can have another one than %s: %w", sn.Name(), err)
		}
		if err == nil {
			if err := task.CheckImagePath(layers, m.SubPath); err != nil {
				return nil, bad("mounts.image_sub_path", "%q of image %q: %v", m.SubPath, m.Image, err)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("mounts.image %q: %w", m.Image, err)
		}
		labels[fmt.Sprintf("containerd.io/gc.ref.snapshot.%s/volume-%d", sn.Name(), i)] = key
		made[i] = specs.Mount{Type: "bind", Source: task.ImageSource(sn, key, m.SubPath)}
	}
	return made, nil
}

// topLayer gives the name of the snapshot that has all layers of an image.
func (h Host) topLayer(ctx context.Context, name string) (string, error) {
	platform, err := image.ParsePlatform("")
	if err != nil {
		return "", err
	}
	var img image.Image
	err = h.Dir.View(ctx, func(tx *state.Tx) (err error) {
		img, err = image.Find(tx, h.Namespace, name)
		return err
	})
	if err != nil {
		return "", err
	}
	m, err := image.Resolve(h.Dir, img.Target, platform)
	if err != nil {
		return "", err
	}
	if len(m.ChainIDs) == 0 {
		return "", fmt.Errorf("it has no layers: %w", errdefs.ErrInvalidArgument)
	}
	return m.ChainIDs[len(m.ChainIDs)-1].String(), nil
}
