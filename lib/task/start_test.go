// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// endingShim does something to its task when it is to start it, and does not start it.
type endingShim struct {
	taskapi.Server
	end func()
}

func (s *endingShim) Start(context.Context, *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	s.end()
	return nil, errdefs.ErrFailedPrecondition
}

// TestEndedWhileStarted: a container that somebody stops, kills or removes while it is being started has been started, and
// whoever starts it gets the status that it ended with.
func TestEndedWhileStarted(t *testing.T) {
	exit := taskdir.Exit{Status: 9, ExitedAt: time.Now()}
	removed := func(t *testing.T, c *Task) {
		if err := c.d.Update(t.Context(), nil, func(tx *state.Tx) error {
			tx.Emit("default", event.TaskExit{ContainerID: "c", ID: "c", ExitStatus: 9, ExitedAt: exit.ExitedAt})
			return container.Remove(tx, "default", "c")
		}); err != nil {
			t.Error(err)
		}
		if err := c.trashTasks(); err != nil {
			t.Error(err)
		}
	}
	for name, end := range map[string]func(*testing.T, *Task){
		"stopped": func(t *testing.T, c *Task) {
			c.markStopping()
			write(t, c, taskdir.End, exit)
		},
		"removed": removed,
		"failed":  func(*testing.T, *Task) {},
	} {
		t.Run(name, func(t *testing.T) {
			d := openDir(t)
			recorded(t, d, "c", false)
			c := found(t, d, "c")
			l, err := c.lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			starting, err := c.reserve(t.Context(), StartOptions{})
			if err = errors.Join(err, l.Release()); err != nil {
				t.Fatal(err)
			}
			write(t, c, taskdir.Init, taskdir.Process{PID: 1, StartTime: 1})
			other := found(t, d, "c")
			address := "unix://" + t.TempDir() + "/socket"
			socket, err := taskapi.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			life, stop := context.WithCancel(context.Background())
			served := make(chan error, 1)
			go func() { served <- taskapi.Serve(life, socket, &endingShim{end: func() { end(t, other) }}, nil) }()
			defer func() { stop(); <-served }()
			if err := c.dial(t.Context(), address); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if name == "stopped" { // a journal that cannot be read is no reason for a start to fail
				if err := os.WriteFile(filepath.Join(d.Journal().Dir, "00000000000000009999"), []byte("no event\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err = c.beginAfter(t.Context(), starting)
			switch ended, ok := errors.AsType[*EndedError](err); name {
			case "stopped":
				if v, e := taskdir.Look(c.Dir()); err != nil || e != nil || v.Exit.Status != 9 {
					t.Errorf("%v; its task is %+v, %v", err, v, e)
				}
			case "removed":
				if !ok || ended.Exit.Status != 9 {
					t.Errorf("%v", err)
				}
			case "failed":
				if err == nil || ok || found(t, d, "c").Incarnation() != "" {
					t.Errorf("%v; there is a task: %s", err, found(t, d, "c").Incarnation())
				}
			}
		})
	}
}
