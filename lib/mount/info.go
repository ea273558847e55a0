// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mounted tells whether something is mounted at path itself.
func Mounted(path string) (bool, error) {
	ok, err := mountinfo.Mounted(path)
	if err != nil {
		return false, fmt.Errorf("look up mount %s: %w", path, err)
	}
	return ok, nil
}

// Parent is the mount point that path, which must exist, lies on.
func Parent(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return "", fmt.Errorf("look up mount of %s: %w", path, err)
	}
	parent := "/"
	for _, m := range mounts {
		if len(m.Mountpoint) > len(parent) {
			parent = m.Mountpoint
		}
	}
	return parent, nil
}

// MakePrivate ends the propagation of mounts to and from a mount point, for what is mounted on it from
// now on.
func MakePrivate(mountpoint string) error {
	if err := unix.Mount("", mountpoint, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", mountpoint, err)
	}
	return nil
}
