// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// removeSocket removes the socket of a supervisor that is gone, which does so itself unless it is killed.
func (t *Task) removeSocket(s taskdir.Supervisor) {
	if s.Alive() {
		return
	}
	os.Remove(t.d.Run("s", taskapi.SocketName(t.Dir())))
	t.removeAddress(s)
}

// removeAddress is removeSocket for a task that may be another one's by now: it removes what the supervisor itself has
// named.
func (t *Task) removeAddress(s taskdir.Supervisor) {
	if s.Alive() {
		return
	}
	if path, ok := strings.CutPrefix(s.Address, "unix://"); ok && filepath.Dir(path) == t.d.Run("s") {
		os.Remove(path)
	}
}

// sweepSockets removes the sockets of supervisors that were killed when their last task had been removed, or was
// never recorded. A supervisor makes its socket in the name of its first task, before it listens, so a socket whose
// task is there, or whose pod is, is left alone; so is one at which somebody listens. What a foreign shim calls its
// socket is its own affair: as long as any task is being started, it may be about to listen.
func sweepSockets(ctx context.Context, d *state.Dir) error {
	// The sockets first: the directory of a task is made before its socket.
	sockets, err := os.ReadDir(d.Run("s"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	known, starting := map[string]bool{}, false
	for name, err := range Dirs(d) {
		if err != nil {
			return err
		}
		tasks, err := os.ReadDir(d.Run("tasks", name))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for _, t := range tasks {
			dir := d.Run("tasks", name, t.Name())
			known[taskapi.SocketName(dir)] = true
			held, err := lock.IsHeld(filepath.Join(dir, taskdir.StartLock))
			if err != nil {
				return err
			}
			starting = starting || held
		}
	}
	for name, err := range twoLevels(d.Run("pods")) {
		if err != nil {
			return err
		}
		known[taskapi.SocketName(d.Run("pods", name))] = true
	}
	for _, s := range sockets {
		path := d.Run("s", s.Name())
		if known[s.Name()] || starting && len(s.Name()) != len(taskapi.SocketName("")) {
			continue
		}
		c, err := taskapi.Dial(ctx, "unix://"+path)
		if err == nil {
			c.Close()
		} else if errdefs.IsUnavailable(err) {
			os.Remove(path)
		}
	}
	return nil
}
