// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// A signal that meets a shim which has just ended with its task is told what the shim would have told a moment before.
func TestSignalBesideTheEnd(t *testing.T) {
	c := besideTheEnd(t, 3)
	if err := c.deliver(t.Context(), unix.SIGTERM, false); !errdefs.IsNotFound(err) {
		t.Errorf("%v, want that it has ended", err)
	}
}

// A checkpoint that meets one says that, too, and nothing of a connection.
func TestCheckpointBesideTheEnd(t *testing.T) {
	c := besideTheEnd(t, 137)
	err := c.Checkpoint(t.Context(), taskapi.CheckpointOptions{ImagePath: t.TempDir()})
	if not := (*NotRunningError)(nil); !errors.As(err, &not) || !strings.Contains(err.Error(), "it has ended meanwhile") {
		t.Errorf("%v, want that it has ended", err)
	}
}

// besideTheEnd gives a task that ran when its shim was dialled, and has ended with it since.
func besideTheEnd(t *testing.T, status int) *Task {
	t.Helper()
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	reserved(t, c, StartOptions{})()
	write(t, c, taskdir.Init, taskdir.Process{PID: 1, StartTime: 1})
	write(t, c, taskdir.Begun, taskdir.Started{At: time.Now()})

	l, err := taskapi.Listen("unix://" + t.TempDir() + "/s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := c.dial(t.Context(), "unix://"+l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	write(t, c, taskdir.End, taskdir.Exit{Status: status, ExitedAt: time.Now()})
	conn.Close()
	return c
}

// TestEngineOfKilledSupervisor: a task whose supervisor was killed is nobody's to remove or to start again while an engine
// still works on it.
func TestEngineOfKilledSupervisor(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	reserved(t, c, StartOptions{})()
	write(t, c, taskdir.Init, taskdir.Process{PID: 1, StartTime: 1})
	engine, err := lock.Hold(filepath.Join(c.Dir(), taskdir.EngineLock))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.awaitSupervisor(ctx, true); !errors.Is(err, context.Canceled) {
		t.Errorf("it does not wait for the engine: %v", err)
	}
	if v, err := c.settle(); err != nil || v.State != taskdir.Orphaned {
		t.Errorf("beside the engine: %+v, %v", v, err)
	}
	if err := engine.Release(); err != nil {
		t.Fatal(err)
	}
	if err := c.rest(t.Context()); err != nil {
		t.Error(err)
	}
	if v, err := taskdir.Look(c.Dir()); err != nil || v.State != taskdir.Stopped {
		t.Errorf("after it: %+v, %v", v, err)
	}
}
