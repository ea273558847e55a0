// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/netns"
	"ctrd.dev/ctrd/lib/taskdir"
)

// pinned is what the child that makes a pod's namespaces says when they are there.
const pinned = "ok"

// Descriptors of that child.
const (
	pinRequest = 3 // a taskdir.Pod as JSON; the supervisor closes its end when the child is to end
	pinAnswers = 4
)

// Pin is the child: it finishes the namespaces that it was born in, which the supervisor then opens, and waits to be let go.
// Of a PID namespace it becomes the first process, [ctrd.dev/ctrd/lib/pid1]. It gives the exit status.
func Pin() int {
	in, out := os.NewFile(pinRequest, "request"), os.NewFile(pinAnswers, "answer")
	var pod taskdir.Pod
	err := json.NewDecoder(in).Decode(&pod)
	if err == nil {
		err = furnish(pod)
	}
	if err != nil {
		fmt.Fprintln(out, strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	if !pod.Has(taskdir.PIDNS) {
		fmt.Fprintln(out, pinned)
		_, _ = io.Copy(io.Discard, in)
		return 0
	}
	fmt.Fprintln(out, becomeInit(out))
	return 1
}

// furnish sets what the namespaces of a pod have.
func furnish(pod taskdir.Pod) error {
	if pod.Has(taskdir.NetNS) {
		if err := netns.LoopbackUp(); err != nil {
			return err
		}
	}
	if pod.Has(taskdir.UTSNS) && pod.Hostname != "" {
		if err := unix.Sethostname([]byte(pod.Hostname)); err != nil {
			return fmt.Errorf("set the hostname %q: %w", pod.Hostname, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pod.Sysctls)) {
		// What is below /proc/sys shows the namespaces of who opens it.
		path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(path, []byte(pod.Sysctls[name]), 0); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", name, pod.Sysctls[name], err)
		}
	}
	return nil
}

// becomeInit makes this process the first one of its PID namespace, and returns only when that fails. A container that
// may trace processes sees its root and its program: so the root is empty, and the program a read-only mount.
func becomeInit(out *os.File) error {
	const root, program = "/sys", "init" // a directory that is everywhere, for every user; nothing of it is needed
	// By its path: only what is on a mount of this namespace can be bound. Opened, as the new root may lie over the path.
	name, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	self, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"none", root, "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "size=4k,nr_inodes=4,mode=755"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return &os.PathError{Op: "mount", Path: m.target, Err: err}
		}
	}
	path := filepath.Join(root, program)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o555)
	if err != nil {
		return err
	}
	f.Close()
	err = errors.Join(
		unix.Mount(fmt.Sprintf("/proc/self/fd/%d", self), path, "", unix.MS_BIND, ""),
		unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""),
		unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""),
		os.Chdir(root),
	)
	if err != nil {
		return fmt.Errorf("the root of the pod's first process: %w", err)
	}
	// Both the same: the old root lies over the new one until it is detached.
	err = unix.PivotRoot(".", ".")
	if err == nil {
		err = unix.Unmount(".", unix.MNT_DETACH)
	}
	if err == nil {
		err = os.Chdir("/")
	}
	if err != nil {
		return fmt.Errorf("enter the root of the pod's first process: %w", err)
	}
	// The supervisor waits for the end of this pipe: while a process becomes another program, /proc may show no namespaces of it.
	unix.CloseOnExec(pinAnswers)
	if _, err := fmt.Fprintln(out, pinned); err != nil {
		return err
	}
	for fd := range 3 {
		unix.CloseOnExec(fd)
	}
	return unix.Exec("/"+program, []string{"ctr-shim", "pid1", "rest"}, nil)
}
