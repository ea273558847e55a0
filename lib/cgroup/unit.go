// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Unit is a service or scope of systemd.
type Unit struct {
	Name string // "web.service"
	Path string // its cgroup
	// Delegated says that the unit has Delegate=yes: systemd leaves what is below its cgroup to the unit.
	Delegated bool
	// Started says that systemd started the calling process itself, as a command of the unit.
	Started bool
}

// leaf is the cgroup of a delegated unit that the unit's own processes move to, since on v2 a cgroup has
// either processes or controllers for those below.
const leaf = "supervisor"

// OwnUnit gives the unit that the calling process is in: its cgroup is the unit's, or of one directly below that
// is no unit itself. What is no service and no scope, as within most containers and without systemd, is
// errdefs.ErrNotFound. A login session is a scope that is not delegated.
func OwnUnit() (Unit, error) {
	t, err := mounted()
	if err != nil {
		return Unit{}, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Unit{}, fmt.Errorf("find our own cgroup: %w", err)
	}
	u, ok := t.unitOf(string(own))
	if !ok {
		return Unit{}, fmt.Errorf("this process is in no service or scope of systemd: %w", errdefs.ErrNotFound)
	}
	// systemd.exec(5)
	u.Started = os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid())
	return u, nil
}

// unitOf finds the unit in what /proc/PID/cgroup says. systemd tracks units in the v2 hierarchy where it is
// mounted, else in the one that it has named.
func (t tree) unitOf(own string) (Unit, bool) {
	for _, h := range []string{"", "name=systemd"} {
		path, ok := membership(own, h)
		dir := t.v2("/")
		if h != "" {
			dir = t.v1(h, "/")
		}
		if !ok || dir == "" {
			continue
		}
		if !isUnitName(path) {
			path = filepath.Dir(path)
		}
		if !isUnitName(path) || strings.HasPrefix(path, "/../") {
			continue
		}
		return Unit{Name: filepath.Base(path), Path: path, Delegated: delegated(filepath.Join(dir, path))}, true
	}
	return Unit{}, false
}

func isUnitName(path string) bool {
	return strings.HasSuffix(path, ".service") || strings.HasSuffix(path, ".scope")
}

// membership finds the cgroup in the lines hierarchy:controllers:path of cgroups(7); no controllers are v2.
func membership(own, controller string) (string, bool) {
	for line := range strings.Lines(own) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok || !strings.HasPrefix(path, "/") {
			continue
		}
		for c := range strings.SplitSeq(controllers, ",") {
			if c == controller {
				return path, true
			}
		}
	}
	return "", false
}

// delegated reads the mark that systemd sets on cgroups that it has delegated.
func delegated(dir string) bool {
	var b [8]byte
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		if n, err := unix.Getxattr(dir, name, b[:]); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return false
}

// Split prepares the unit's cgroup for a container below it and gives the path of the container's, which [Make]
// makes. The state, the limits and the end of the unit then include the container. Where the v2 hierarchy has
// controllers, the unit's processes, the caller among them, move to a cgroup beside the container's. What the caller
// starts without [Start] stays in the unit. A unit that is not delegated is errdefs.ErrFailedPrecondition: systemd
// would interfere.
func (u Unit) Split(name string) (string, error) {
	if !u.Delegated {
		return "", fmt.Errorf("the unit %q keeps its cgroup to itself: %w", u.Name, errdefs.ErrFailedPrecondition)
	}
	path, err := Path(u.Path + "/" + name)
	if err != nil {
		return "", err
	}
	t, err := open(path)
	if err != nil {
		return "", err
	}
	if err := t.evacuate(u.Path); err != nil {
		return "", fmt.Errorf("divide the cgroup of %q: %w", u.Name, err)
	}
	return path, nil
}

// evacuate moves the processes of a v2 cgroup that has controllers to its leaf.
func (t tree) evacuate(path string) error {
	dir := t.v2(path)
	if controllers, err := read(dir, "cgroup.controllers"); err != nil || strings.TrimSpace(controllers) == "" {
		return err
	}
	return moveAll(dir)
}

// moveAll moves the processes of a v2 cgroup to its leaf.
func moveAll(dir string) error {
	for range makeTries {
		procs, err := read(dir, "cgroup.procs")
		if err != nil || procs == "" {
			return err
		}
		if err := mkdir(filepath.Join(dir, leaf)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		for pid := range strings.FieldsSeq(procs) {
			err := write(filepath.Join(dir, leaf), "cgroup.procs", pid)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s: %w", pid, err)
			}
		}
	}
	return fmt.Errorf("its processes start others without an end: %w", errdefs.ErrFailedPrecondition)
}
