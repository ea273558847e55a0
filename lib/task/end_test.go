// SPDX-License-Identifier: Apache-2.0

package task

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// A signal that meets a shim which has just ended with its task is told what the shim would have told a moment before.
func TestSignalBesideTheEnd(t *testing.T) {
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
	defer l.Close()
	if err := c.dial(t.Context(), "unix://"+l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	write(t, c, taskdir.End, taskdir.Exit{Status: 3, ExitedAt: time.Now()})
	conn.Close()
	if err := c.deliver(t.Context(), unix.SIGTERM, false); !errdefs.IsNotFound(err) {
		t.Errorf("%v, want that it has ended", err)
	}
}
