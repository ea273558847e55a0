// SPDX-License-Identifier: Apache-2.0

package world

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain makes this binary the test that TestSweep cuts off, when WORLD_TEST_ROLE says so.
func TestMain(m *testing.M) {
	if os.Getenv("WORLD_TEST_ROLE") == "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", dirPrefix)
	w := in(dir, "")
	if _, e := w.claim(); err != nil || e != nil {
		fmt.Fprintln(os.Stderr, err, e)
		os.Exit(1)
	}
	fmt.Println(dir)
	for {
		time.Sleep(time.Hour) // with no goroutine at all the runtime would see a deadlock
	}
}

// litter leaves in a world what a test may: a process, an empty cgroup, a socket.
func litter(t *testing.T, w *World) (cgroup string) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env = w.Environ()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	// execve(2) closes what tells Start of its success a moment before the new environment can be read.
	for begin := time.Now(); read(fmt.Sprintf("/proc/%d", cmd.Process.Pid), "environ") == ""; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("the process has no environment")
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if len(groups) == 0 {
		groups = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	cgroup = filepath.Join(filepath.Dir(groups[0]), w.Prefix()+"--shims")
	if err := errors.Join(os.Mkdir(cgroup, 0o755), os.MkdirAll(filepath.Join(w.State, "s"), 0o755), os.WriteFile(filepath.Join(w.State, "s", "x"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return cgroup
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
}

// Whatever is left of a world is told, and ended with it.
func TestLeaks(t *testing.T) {
	needRoot(t)
	w := New(t, "")
	if left := w.Leaks(); len(left) > 0 {
		t.Errorf("a new world has %v", left)
	}
	cgroup := litter(t, w)
	told := strings.Join(w.Leaks(), "\n")
	for _, want := range []string{"(sleep 1000)", cgroup, "socket " + w.State} {
		if !strings.Contains(told, want) {
			t.Errorf("%s is not told:\n%s", want, told)
		}
	}
	if left := Left(filepath.Base(cgroup)); len(left) != 1 {
		t.Errorf("found by its name: %v", left)
	}
	if err := w.destroy(); err != nil {
		t.Error(err)
	}
	if left := w.Leaks(); len(left) > 0 {
		t.Errorf("it is destroyed, and has %v", left)
	}
}

// What begins in a namespace with a copy of the mounts, and drops it, has left nothing.
func TestLeaksCopied(t *testing.T) {
	needRoot(t)
	w := New(t, "")
	at := filepath.Join(w.Dir, "at")
	if err := errors.Join(os.Mkdir(at, 0o755), syscall.Mount("copied", at, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", "echo; read line; sleep 0.3; exec umount "+at)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if told := strings.Join(w.Leaks(), "\n"); !strings.Contains(told, " "+at+" ") {
		t.Errorf("a mount of this namespace is not told:\n%s", told)
	}
	if err := syscall.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if left := look().of(w); len(left) != 1 {
		t.Errorf("want the copy, have %v", left)
	}
	in.Close()
	if left := w.Leaks(); len(left) > 0 {
		t.Errorf("the copy is gone, told is %v", left)
	}
}

// The world of a test that was killed is removed by the next, that of one which lives is not.
func TestSweep(t *testing.T) {
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "WORLD_TEST_ROLE=maker")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err = errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	w := in(strings.TrimSpace(line), "")
	cgroup := litter(t, w)
	there := func() bool {
		_, err1 := os.Lstat(w.Dir)
		_, err2 := os.Lstat(cgroup)
		return err1 == nil || err2 == nil || len(w.Leaks()) > 0
	}
	if err := Sweep(); err != nil || !there() {
		t.Errorf("the world of a test that runs: %v, there: %v", err, there())
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	if err := Sweep(); err != nil || there() {
		t.Errorf("the world of a test that was killed: %v; it has %v", err, w.Leaks())
	}
}
