// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ctrd.dev/ctrd/lib/taskapi"
)

// TestDeleteBesideDying: a supervisor that is dying still listens until the kernel has closed its files. Delete removes
// its socket, and leaves alone that of one that lives.
func TestDeleteBesideDying(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "true")
	path := filepath.Join(c.dir, "socket")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	must(t, os.WriteFile(filepath.Join(k.dir, "address"), []byte("unix://"+path), 0o644))
	c.call(k, nil, nil, "delete", "-bundle", k.dir)
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket of a dying supervisor is left")
	}
	other := newTask(t, "sleep", "1000")
	other.start()
	path = filepath.Join(other.state, "s", taskapi.SocketName(other.dir))
	must(t, os.WriteFile(filepath.Join(k.dir, "address"), []byte("unix://"+path), 0o644))
	c.call(k, nil, nil, "delete", "-bundle", k.dir)
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
	must(t, other.client.Kill(t.Context(), &taskapi.KillRequest{ID: other.id, Signal: 9}))
	other.wait()
}

// TestNobodyReadsTheAddress: a supervisor whose starter is gone before it learns the address ends.
func TestNobodyReadsTheAddress(t *testing.T) {
	k := bareTask(t, "true")
	b, err := json.Marshal(k.spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(k.dir, "config.json"), b, 0o600))
	r, w, err := os.Pipe()
	must(t, err)
	r.Close()
	cmd := exec.Command(shimBinary, "-namespace", namespace, "-id", k.id, "-containerd", "-socket", filepath.Join(k.state, "s", "socket"), "serve")
	cmd.Dir, cmd.Stdout = k.dir, w
	must(t, cmd.Start())
	w.Close()
	defer cmd.Process.Kill()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	k.until("the end of the supervisor", func() bool { return len(ended) > 0 })
	k.nothingLeft()
}
