// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaitFile(t *testing.T) {
	dir := t.TempDir()
	done := make(chan error)
	go func() { done <- WaitFile(t.Context(), dir, "exit.json", -1) }()
	os.WriteFile(filepath.Join(dir, "other"), nil, 0o600)
	os.WriteFile(filepath.Join(dir, "tmp"), []byte("x"), 0o600)
	os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "exit.json"))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := WaitFile(t.Context(), dir, "exit.json", -1); err != nil {
		t.Fatal(err)
	}
	if err := WaitFile(t.Context(), filepath.Join(dir, "none"), "x", -1); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("missing directory: %v", err)
	}
}

func TestWaitFileDirectoryRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	os.Mkdir(dir, 0o700)
	done := make(chan error)
	go func() { done <- WaitFile(t.Context(), dir, "exit.json", -1) }()
	os.Remove(dir)
	if err := <-done; !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

// What changes after the watcher has changed over to inotify is told, as before.
func TestLater(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	w, err := Watch(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	found := make(chan error)
	go func() { found <- WaitFile(t.Context(), dir, "x", -1) }()
	for !w.joined {
		if err := w.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		if err := os.WriteFile(file, []byte(strings.Repeat("x", i+1)), 0o600); err != nil {
			t.Fatal(err)
		}
		for n := -1; n != i+1; {
			if err := w.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			data, _ := os.ReadFile(file)
			n = len(data)
		}
	}
	os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)
	if err := <-found; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	os.RemoveAll(dir)
	for {
		if err := w.Wait(t.Context()); err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("removed: %v", err)
			}
			break
		}
	}
}

// instances counts the inotify descriptors of this process.
func instances(t *testing.T) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

func threads(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A thousand waits of one process, with and without a process to watch, have one inotify instance and a
// few threads.
func TestManyWaits(t *testing.T) {
	const waits = 1000
	_, pidfd := child(t)
	base := t.TempDir()
	done := make(chan error, waits)
	for i := range waits {
		dir := filepath.Join(base, fmt.Sprint(i))
		os.Mkdir(dir, 0o700)
		go func() { done <- WaitFile(t.Context(), dir, "exit.json", []int{-1, pidfd}[i%2]) }()
	}
	for joined := 0; joined < waits; time.Sleep(time.Millisecond) {
		theHub.mu.Lock()
		joined = len(theHub.of)
		theHub.mu.Unlock()
	}
	if n := instances(t); n != 1 {
		t.Errorf("%d inotify instances", n)
	}
	if n := threads(t); n > 100 { // those of the test itself among them
		t.Errorf("%d threads", n)
	}
	for i := range waits {
		os.WriteFile(filepath.Join(base, fmt.Sprint(i), "exit.json"), nil, 0o600)
	}
	for range waits {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	theHub.mu.Lock()
	defer theHub.mu.Unlock()
	if len(theHub.of) != 0 || len(theHub.watchers) != 0 {
		t.Errorf("%d watchers and %d watches are left", len(theHub.of), len(theHub.watchers))
	}
}

// A lone wait for a process uses no inotify instance, and a process for which the kernel has none left, or
// which would take more than our share, waits all the same.
func TestWithoutInotify(t *testing.T) {
	for _, role := range []string{"alone", "refused", "shared"} {
		c := exec.Command("/proc/self/exe", "-test.run=^$")
		c.Env = append(os.Environ(), "CTRD_TEST_ROLE="+role, "CTRD_TEST_DIR="+t.TempDir())
		if role != "alone" {
			ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, UidMappings: ids, GidMappings: ids}
		}
		if out, err := c.CombinedOutput(); err != nil || string(out) != "done\n" {
			t.Errorf("%s: %v: %s", role, err, out)
		}
	}
}

// TestMain makes this binary the process that TestWithoutInotify starts.
func TestMain(m *testing.M) {
	role := os.Getenv("CTRD_TEST_ROLE")
	if role == "" {
		os.Exit(m.Run())
	}
	if err := withoutInotify(role, os.Getenv("CTRD_TEST_DIR")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("done")
}

func withoutInotify(role, dir string) error {
	pidfd := -1
	switch role {
	case "shared":
		taken := 0
		for i := range 1 << 10 {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			if unix.Bind(fd, &unix.SockaddrUnix{Name: shareName(i)}) == nil {
				taken++
			}
		}
		if taken != 1<<10 {
			return errors.New("not all shares were free")
		}
	case "refused":
		// The limit of this user namespace.
		if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0); err != nil {
			return err
		}
		if _, err := unix.InotifyInit1(unix.IN_CLOEXEC); err == nil {
			return errors.New("there is an instance in spite of the limit")
		}
	case "alone":
		var err error
		if pidfd, err = unix.PidfdOpen(os.Getpid(), 0); err != nil {
			return err
		}
	}
	time.AfterFunc(3*lookFor, func() { os.WriteFile(filepath.Join(dir, "exit.json"), nil, 0o600) })
	if err := WaitFile(context.Background(), dir, "exit.json", pidfd); err != nil {
		return err
	}
	if theHub.open() {
		return errors.New("it has an inotify instance")
	}
	return nil
}

// child starts a process that ends when in is closed.
func child(t *testing.T) (in io.Closer, pidfd int) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if pidfd, err = unix.PidfdOpen(cmd.Process.Pid, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		unix.Close(pidfd)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return in, pidfd
}

func TestWaitFileProcess(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		dir := t.TempDir()
		in, pidfd := child(t)
		done := make(chan error)
		go func() { done <- WaitFile(t.Context(), dir, "exit.json", pidfd) }()
		if leaves {
			os.WriteFile(filepath.Join(dir, "exit.json"), nil, 0o600)
		}
		in.Close()
		err := <-done
		if leaves && err != nil || !leaves && !errors.Is(err, ErrDied) {
			t.Fatalf("leaves %v: %v", leaves, err)
		}
		if err := WaitFile(t.Context(), dir, "exit.json", pidfd); leaves && err != nil || !leaves && !errors.Is(err, ErrDied) {
			t.Fatalf("afterwards, leaves %v: %v", leaves, err)
		}
	}
}
