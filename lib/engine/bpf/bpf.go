// SPDX-License-Identifier: Apache-2.0

// Package bpf keeps compiled seccomp filters, so that the init of a container need not compile its own. Libseccomp takes
// 6 to 10 ms to compile docker's default profile, and a boot sees few profiles.
//
// The filter travels in a memfd. The engine makes it with [Open] and gives it to the process that it starts in the
// container; that process calls [Use] before libcontainer sets it up. When libcontainer asks libseccomp for the filter, it
// gets the one of the memfd. An empty memfd has it compile as ever, and takes the result; [Filter.Keep] then stores it.
// What is loaded is always what libseccomp has compiled from that profile.
//
// # On disk
//
// A file for each filter, in the directory that the supervisor names. Its name is a hash of the profile and of the
// identity of this program's file, with which libseccomp comes. The directory ends with the boot, as what libseccomp
// compiles depends on the kernel, too.
//
// # Locks
//
// None: a file is complete when it gets its name, and two of one name are equal.
//
// # After a crash
//
// A killed engine may leave a file NAME.RANDOM.tmp. It counts as one of the 64 that a directory holds.
package bpf

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

const (
	// maxFilters bounds the files of a directory: who gives each container a profile of its own gains nothing by them.
	maxFilters = 64
	// maxSize is that of the kernel's largest program: BPF_MAXINSNS instructions of 8 bytes.
	maxSize = 4096 * instruction
	// instruction is the size of a struct sock_filter.
	instruction = 8
	// sealed is what keeps a memfd as it is.
	sealed = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
)

// Filter is the filter of one profile, on its way into a container.
type Filter struct {
	file *os.File
	path string // where it is to be kept; empty: it is known already, or not to be kept
}

// Open makes a memfd for the filter of a profile, and fills it when the directory has the filter. The directory need not be
// there; without a name for one, or without a profile, nothing is kept.
func Open(dir string, profile *configs.Seccomp) (*Filter, error) {
	fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("seccomp filter: %w", os.NewSyscallError("memfd_create", err))
	}
	f := &Filter{file: os.NewFile(uintptr(fd), "seccomp")}
	if dir == "" || profile == nil {
		return f, nil
	}
	if err := f.find(dir, profile); err != nil {
		return nil, errors.Join(fmt.Errorf("seccomp filter: %w", err), f.file.Close())
	}
	return f, nil
}

func (f *Filter) find(dir string, profile *configs.Seccomp) error {
	name, err := Name(profile)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	program, err := os.ReadFile(path)
	if err != nil || !plausible(int64(len(program))) {
		f.path = path
		return nil
	}
	_, err = f.file.Write(program)
	return err
}

// Find opens the filter of that name, for the process that calls [Use]. One that is not kept is os.ErrNotExist.
func Find(dir, name string) (int, error) {
	path := filepath.Join(dir, name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || !plausible(st.Size) {
		unix.Close(fd)
		return -1, errors.Join(fmt.Errorf("seccomp filter %s: %d bytes: %w", name, st.Size, os.ErrNotExist), err)
	}
	return fd, nil
}

// Name names the filter of a profile: a file of the directory.
func Name(profile *configs.Seccomp) (string, error) {
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &self); err != nil {
		return "", &os.PathError{Op: "stat", Path: "/proc/self/exe", Err: err}
	}
	b, err := json.Marshal(profile)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, self.Dev, self.Ino, self.Size, self.Mtim.Nano(), self.Ctim.Nano())
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

func plausible(size int64) bool { return size > 0 && size <= maxSize && size%instruction == 0 }

// File is the memfd, for the process that calls [Use].
func (f *Filter) File() *os.File { return f.file }

// Keep stores what the process has compiled, unless it was known, and closes the memfd. A filter that is not stored
// costs the next start some milliseconds: that is no error. Only a sealed memfd counts, which nothing in the container
// can have changed.
func (f *Filter) Keep() {
	defer f.file.Close()
	if f.path == "" {
		return
	}
	if seals, err := unix.FcntlInt(f.file.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&sealed != sealed {
		return
	}
	program, err := io.ReadAll(io.NewSectionReader(f.file, 0, maxSize+1))
	if err != nil || !plausible(int64(len(program))) {
		return
	}
	dir := filepath.Dir(f.path)
	if os.MkdirAll(dir, 0o700) != nil {
		return
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) >= maxFilters {
		return
	}
	temporary := f.path + "." + rand.Text() + ".tmp"
	err = os.WriteFile(temporary, program, 0o600)
	if err == nil {
		err = os.Rename(temporary, f.path)
	}
	if err != nil {
		os.Remove(temporary)
	}
}

// Close closes the memfd and stores nothing.
func (f *Filter) Close() error { return f.file.Close() }
