// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
)

// pool are the ids of the host that systemd's "Users, Groups, UIDs and GIDs on systemd Systems" sets aside for
// containers.
var pool = specs.LinuxIDMapping{HostID: 524288, Size: 1879048191 - 524288 + 1}

// ownIDs finds users and groups that no other container has.
func ownIDs(ctx context.Context, d *state.Dir, size uint32) (u spec.UserNS, err error) {
	var used []specs.LinuxIDMapping
	err = d.View(ctx, func(tx *state.Tx) error {
		used, err = usedIDs(tx)
		return err
	})
	if err != nil {
		return u, err
	}
	first, ok := spec.FreeIDs(pool, used, size)
	if !ok {
		return u, fmt.Errorf("--userns auto: no range of %d users is free from %d to %d: %w", size, pool.HostID, uint64(pool.HostID)+uint64(pool.Size)-1, errdefs.ErrFailedPrecondition)
	}
	u.UIDs = []specs.LinuxIDMapping{{HostID: first, Size: size}}
	u.GIDs = u.UIDs
	return u, nil
}

// checkPassable refuses a directory that the users of a container's user namespace cannot reach: their root sets up
// the file system below it.
func checkPassable(dir string) error {
	for at := dir; at != filepath.Dir(at); at = filepath.Dir(at) {
		st, err := os.Stat(at)
		if err != nil {
			return err
		}
		if st.Mode()&0o001 == 0 {
			return fmt.Errorf("user namespace: its users cannot pass the directory %s, whose mode is %04o; chmod o+x lets them: %w", at, st.Mode().Perm(), errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// usedIDs lists the ids of the host that containers of all namespaces have.
func usedIDs(tx *state.Tx) (used []specs.LinuxIDMapping, err error) {
	names, err := container.Namespaces(tx)
	if err != nil {
		return nil, err
	}
	for _, ns := range names {
		for c, err := range container.All(tx, ns) {
			if err != nil {
				return nil, err
			}
			used = append(append(used, c.UserNS.UIDs...), c.UserNS.GIDs...)
		}
	}
	return used, nil
}

// checkOwnIDs refuses, in the commit that records a container, ids that another has got since they were found.
func checkOwnIDs(tx *state.Tx, u spec.UserNS) error {
	used, err := usedIDs(tx)
	if err != nil {
		return err
	}
	for _, m := range u.UIDs {
		if spec.Overlap(used, m.HostID, m.Size) {
			return fmt.Errorf("--userns auto: another container has got the same users meanwhile; try again: %w", errdefs.ErrAborted)
		}
	}
	return nil
}
