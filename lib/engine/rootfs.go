// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/taskdir"
)

// A container's rootfs is mounted in a mount namespace that lives as long as the start: that of the engine which
// creates the container. The container's own namespace is made from it, takes the rootfs and the volumes with
// it and lets go of the rest. So the mount shows in no other namespace, a crash leaves none, and a file system that
// the host unmounts later is unmounted.
//
// A namespace of the supervisor's own would do the first two. But it would keep every mount of the host that was there
// at its start, where the host's mounts are private; and it would not have the volumes that a pod's later containers
// name. A detached mount needs no namespace, but engines want a path.
//
// Two containers of one supervisor have nothing in common: each has been made in a copy of the host's namespace as it
// was then.

// mountRootfs mounts what the container's root is made of at rootfs/ of the bundle.
func mountRootfs(mounts []mount.Mount, spec *specs.Spec) error {
	if len(mounts) == 0 {
		return nil
	}
	rootfs, err := filepath.Abs(taskdir.Rootfs)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(rootfs, 0o711); err != nil {
		return err
	}
	if err := mount.Unshared(rootfs, sharedVolumes(spec), func() error { return mount.All(mounts, rootfs) }); err != nil {
		return fmt.Errorf("rootfs: %w", err)
	}
	crash.Point("engine.create.rootfs")
	return nil
}

// sharedVolumes are the sources of bind mounts that propagate to the host.
func sharedVolumes(spec *specs.Spec) (all []mount.Volume) {
	for _, m := range spec.Mounts {
		if slices.Contains(m.Options, "rshared") || slices.Contains(m.Options, "shared") {
			all = append(all, mount.Volume{Path: m.Source, Recursive: slices.Contains(m.Options, "rbind")})
		}
	}
	return all
}
