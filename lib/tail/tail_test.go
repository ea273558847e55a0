// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFollowReadsWhatIsAppendedUntilEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	w, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.WriteString("skipped")
	r, err := Follow(t.Context(), path, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var want bytes.Buffer
	go func() {
		for i := range 2000 {
			w.Write(bytes.Repeat([]byte{byte('a' + i%26)}, 100))
			if i == 1000 {
				os.Rename(path, path+".1")
			}
		}
		r.End()
	}()
	for i := range 2000 {
		want.Write(bytes.Repeat([]byte{byte('a' + i%26)}, 100))
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("read %d bytes, want %d the same", len(got), want.Len())
	}
	if r.Offset() != 7+int64(want.Len()) {
		t.Fatalf("offset %d", r.Offset())
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, nil, 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Follow(ctx, path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go cancel()
	if _, err := r.Read(make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

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

// TestLater: what comes after the watcher has changed over to inotify.
func TestLater(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	w, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, err := Follow(t.Context(), file, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	found := make(chan error)
	go func() { found <- WaitFile(t.Context(), dir, "x", -1) }()
	read := make(chan string)
	go func() {
		b := make([]byte, 3)
		_, err := io.ReadFull(r, b)
		read <- fmt.Sprint(string(b), err)
	}()
	time.Sleep(2 * lookFor)
	w.WriteString("one")
	if got := <-read; got != "one<nil>" {
		t.Fatal(got)
	}
	if r.watch.f == nil {
		t.Error("still without inotify")
	}
	os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)
	if err := <-found; err != nil {
		t.Fatal(err)
	}
	go func() {
		w.WriteString("two")
		r.End()
	}()
	if b, err := io.ReadAll(r); string(b) != "two" || err != nil {
		t.Fatalf("%q %v", b, err)
	}
}

func TestWaitFileProcess(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		dir := t.TempDir()
		cmd := exec.Command("cat")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pidfd)
		done := make(chan error)
		go func() { done <- WaitFile(t.Context(), dir, "exit.json", pidfd) }()
		if leaves {
			os.WriteFile(filepath.Join(dir, "exit.json"), nil, 0o600)
		}
		in.Close()
		err = <-done
		if leaves && err != nil || !leaves && !errors.Is(err, ErrDied) {
			t.Fatalf("leaves %v: %v", leaves, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := WaitFile(t.Context(), dir, "exit.json", pidfd); leaves && err != nil || !leaves && !errors.Is(err, ErrDied) {
			t.Fatalf("afterwards, leaves %v: %v", leaves, err)
		}
	}
}
