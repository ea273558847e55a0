// SPDX-License-Identifier: Apache-2.0

package taskdir

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
)

// A process whose pid has been used again is not taken for the one that was recorded.
func TestProcessOpen(t *testing.T) {
	p, err := ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	fd := p.Open()
	if fd < 0 {
		t.Fatal("a live process was not found")
	}
	unix.Close(fd)
	p.StartTime++
	if fd := p.Open(); fd >= 0 {
		unix.Close(fd)
		t.Error("a process with another start time was taken for it")
	}
}

// The name in /proc/<pid>/stat may look like the fields that follow it.
func TestStatOfAnUglyName(t *testing.T) {
	const ugly = "x) R 1 1 (1"
	path := filepath.Join(t.TempDir(), ugly)
	if err := exec.Command("cp", "/bin/sleep", path).Run(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	name, f, err := Stat(cmd.Process.Pid)
	if err != nil || name != ugly || f[1] != strconv.Itoa(os.Getpid()) {
		t.Errorf("%q, %q, %v", name, f, err)
	}
	mine, err := ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := ProcessOf(cmd.Process.Pid); err != nil || p.StartTime < mine.StartTime {
		t.Errorf("start time %d, %v; want at least %d", p.StartTime, err, mine.StartTime)
	}
}

func TestReadWrite(t *testing.T) {
	dir := t.TempDir()
	var got Exit
	if there, err := Read(dir, End, &got); there || err != nil {
		t.Errorf("a file that is not there: %v, %v", there, err)
	}
	want := Exit{Status: 137, OOM: true}
	if err := Write(dir, End, want); err != nil {
		t.Fatal(err)
	}
	if there, err := Read(dir, End, &got); !there || err != nil || got != want {
		t.Errorf("%+v, %v, %v", got, there, err)
	}
	if err := os.WriteFile(filepath.Join(dir, Init), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if there, err := Read(dir, Init, new(Process)); there || err == nil {
		t.Errorf("a damaged file: %v, %v", there, err)
	}
}

// A client that has left on purpose was not killed.
func TestClientDied(t *testing.T) {
	dir := t.TempDir()
	want := func(when string, want bool) {
		t.Helper()
		if died, err := ClientDied(dir); err != nil || died != want {
			t.Errorf("%s: %v, %v; want %v", when, died, err, want)
		}
	}
	want("without a client", false)
	client, err := lock.Hold(filepath.Join(dir, ClientLock))
	if err != nil {
		t.Fatal(err)
	}
	want("while it lives", false)
	if err := client.Release(); err != nil {
		t.Fatal(err)
	}
	want("when its lock is free", true)
	if client, err = lock.Hold(filepath.Join(dir, ClientLock)); err != nil {
		t.Fatal(err)
	}
	if err := client.Remove(); err != nil {
		t.Fatal(err)
	}
	want("when it has left", false)
}
