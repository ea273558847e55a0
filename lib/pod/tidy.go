// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Tidy removes, in every namespace, the pods that were never whole and whose makers were killed, and the directories of pods
// that have no record. Whoever is at a pod keeps it: a lock that is not free is not waited for.
func Tidy(ctx context.Context, d *state.Dir) error {
	now, err := state.Open(state.Config{Root: d.Path(), State: d.Run(), Wait: 0})
	if err != nil {
		return err
	}
	// The directories first: each was made after its record.
	dirs, err := fs.Glob(os.DirFS(d.Run()), "pods/*/*") // the path of the state is no pattern
	if err != nil {
		return err
	}
	for i := range dirs {
		dirs[i] = d.Run(dirs[i])
	}
	_, err = os.Lstat(d.Path("networks"))
	if connected := err == nil; len(dirs) == 0 && !connected {
		return nil
	}
	var broken []func()
	known, uids, unsure := map[string]bool{}, map[string]bool{}, false
	err = d.View(ctx, func(tx *state.Tx) error {
		names, err := sandbox.Namespaces(tx)
		if err != nil {
			return err
		}
		for _, ns := range names {
			for s, err := range sandbox.All(tx, ns) {
				if errdefs.IsDataLoss(err) {
					unsure = true
					continue
				}
				if err != nil {
					return err
				}
				known[s.Dir(d, ns)], uids[s.UID] = true, true
				if v, err := taskdir.LookPod(s.Dir(d, ns)); err == nil && v.Broken() {
					broken = append(broken, func() { Host{Dir: now, Namespace: ns}.tidy(ctx, s) })
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tidy pods: %w", err)
	}
	for _, fn := range broken {
		fn()
	}
	for _, dir := range dirs {
		if v, err := taskdir.LookPod(dir); known[dir] || unsure || err != nil || v.Starting || v.Supervised {
			continue
		}
		if err := errors.Join(endShm(dir), now.Trash(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("tidy pods: %w", err)
		}
	}
	// An attachment is seen before the look above can miss its record: a pod has its record first.
	return tidyNetworks(ctx, now, func(uid string) bool { return uids[uid] || unsure || hasRecord(ctx, d, uid) })
}

// hasRecord tells whether a pod has a record by now; when that cannot be read it has.
func hasRecord(ctx context.Context, d *state.Dir, uid string) (found bool) {
	err := d.View(ctx, func(tx *state.Tx) error {
		names, err := sandbox.Namespaces(tx)
		if err != nil {
			return err
		}
		for _, ns := range names {
			for s, err := range sandbox.All(tx, ns) {
				found = found || err != nil || s.UID == uid
			}
		}
		return nil
	})
	return found || err != nil
}

// tidy removes a pod that was never whole, unless somebody is at it by now.
func (h Host) tidy(ctx context.Context, s sandbox.Sandbox) {
	now, _, l, err := h.locked(ctx, s.ID)
	if err != nil {
		return
	}
	if v, err := taskdir.LookPod(h.dir(now)); err == nil && v.Broken() && now.UID == s.UID {
		_ = h.remove(ctx, l, now) // the next collection tries again
	}
	_ = l.Release()
}
