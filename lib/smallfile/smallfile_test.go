// SPDX-License-Identifier: Apache-2.0

package smallfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What it reads, and how it fails, is what os.ReadFile says.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		path := filepath.Join(dir, "f")
		want := bytes.Repeat([]byte("x"), size)
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
	}
	// The kernel gives this one in several reads.
	want, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Read("/proc/self/mountinfo"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("mountinfo: %d bytes, %v; want %d", len(got), err, len(want))
	}
	if _, err := Read(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	_, err = Read(dir)
	if _, other := os.ReadFile(dir); err == nil || err.Error() != other.Error() {
		t.Errorf("a directory: %v, want %v", err, other)
	}
}

func TestReadAt(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("here"), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if got, err := ReadAt(fd, "f"); string(got) != "here" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// What it opens, and how it fails, is what os.OpenFile says.
func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	f, err := OpenFile(filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		if _, err := f.WriteString("x"); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(f.Name())
	if st, serr := f.Stat(); err != nil || serr != nil || string(data) != "xx" || st.Mode() != 0o600 {
		t.Errorf("%q, %v, %v, %v", data, st.Mode(), err, serr)
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("a child inherits it: %#x, %v", flags, err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "f", "below")} {
		_, got := OpenFile(path, os.O_RDONLY, 0)
		_, want := os.OpenFile(path, os.O_RDONLY, 0)
		if got == nil || got.Error() != want.Error() {
			t.Errorf("%v, want %v", got, want)
		}
	}
}
