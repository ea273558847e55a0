// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
)

// Join moves a process into the cgroup, in every hierarchy that has it. One that exists in no hierarchy is
// errdefs.ErrNotFound.
func Join(path string, pid int) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	joined := false
	for _, dir := range t.dirs(path) {
		err := write(dir, "cgroup.procs", strconv.Itoa(pid))
		if gone(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("join cgroup %q: %w", path, err)
		}
		joined = true
	}
	if !joined {
		return fmt.Errorf("join cgroup %q: %w", path, errdefs.ErrNotFound)
	}
	return nil
}
