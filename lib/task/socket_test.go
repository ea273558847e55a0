// SPDX-License-Identifier: Apache-2.0

package task

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"

	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// A collection removes the socket of a supervisor that was killed with nothing left of its task. One at which
// somebody listens, and one whose task is there, stay.
func TestSweepSockets(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	starting := reserved(t, c, StartOptions{})
	if err := os.MkdirAll(d.Run("s"), 0o700); err != nil {
		t.Fatal(err)
	}
	listen := func(name string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.Run("s", name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		return l
	}
	listen(taskapi.SocketName("dead")).Close()
	mine, foreign := taskapi.SocketName(c.Dir()), "foreign"
	listen(mine).Close()
	listen(foreign).Close()
	defer listen("living").Close()
	left := func(when string, want ...string) {
		t.Helper()
		if err := sweepSockets(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(d.Run("s"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(want)
		if !slices.Equal(names, want) {
			t.Errorf("%s there are the sockets %v, want %v", when, names, want)
		}
	}
	left("while a task is started", "living", mine, foreign)
	starting()
	left("then", "living", mine)
}

// The socket of a supervisor that was killed, and was still dying when its task was settled, goes too.
func TestSocketOfDying(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	path := d.Run("s", "socket")
	if err := os.MkdirAll(d.Run("s"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dying := exec.Command("cat")
	in, err := dying.StdinPipe()
	if err == nil {
		err = dying.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer dying.Wait()
	p, err := taskdir.ProcessOf(dying.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	s := taskdir.Supervisor{Process: p, Address: "unix://" + path}
	c.removeSocket(s)
	if _, err := os.Lstat(path); err != nil {
		t.Error("the socket of one that lives: ", err)
	}
	in.Close()
	c.sweepAfter(s)
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left")
	}
}
