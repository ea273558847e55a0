// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// formatType begins the type of a mount whose texts name those before it in a list, as containerd's mount manager has
// it: see [Fill].
const formatType = "format/"

// Placed is a mount that was made, and where.
type Placed struct {
	Mount
	Point string
}

// Fill puts what was mounted before into the texts of a mount: {{ source N }}, {{ target N }} and {{ mount N }}, which is
// where it is, and {{ overlay N M }}, which is where those from N to M are, with colons in between.
func Fill(m Mount, before []Placed) (Mount, error) {
	m.Options = slices.Clone(m.Options)
	texts := []*string{&m.Source, &m.Target}
	for i := range m.Options {
		texts = append(texts, &m.Options[i])
	}
	for _, text := range texts {
		filled, err := fill(*text, before)
		if err != nil {
			return m, fmt.Errorf("%q: %w: %w", *text, err, errdefs.ErrInvalidArgument)
		}
		*text = filled
	}
	return m, nil
}

// fill puts values for {{ NAME N }} and {{ overlay N N }} in a text.
func fill(text string, before []Placed) (string, error) {
	var b strings.Builder
	for {
		plain, rest, ok := strings.Cut(text, "{{")
		b.WriteString(plain)
		if !ok {
			return b.String(), nil
		}
		action, after, ok := strings.Cut(rest, "}}")
		if !ok {
			return "", errors.New("{{ without }}")
		}
		value, err := eval(strings.Fields(strings.Trim(action, "-")), before)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		text = after
	}
}

// eval gives the value of the words of an action.
func eval(words []string, before []Placed) (string, error) {
	if len(words) == 0 {
		return "", errors.New("{{ }} names nothing")
	}
	want, ok := map[string]int{"source": 1, "target": 1, "mount": 1, "overlay": 2}[words[0]]
	if !ok || len(words) != want+1 {
		return "", fmt.Errorf("%q is none of source N, target N, mount N, overlay N N", strings.Join(words, " "))
	}
	var n []int
	for _, w := range words[1:] {
		i, err := strconv.Atoi(w)
		if err != nil || i < 0 || i >= len(before) {
			return "", fmt.Errorf("%s: %d are mounted before it", w, len(before))
		}
		n = append(n, i)
	}
	switch words[0] {
	case "source":
		return before[n[0]].Source, nil
	case "target":
		return before[n[0]].Target, nil
	case "mount":
		return before[n[0]].Point, nil
	}
	step := 1
	if n[0] > n[1] {
		step = -1
	}
	points := []string{before[n[0]].Point}
	for i := n[0]; i != n[1]; {
		i += step
		points = append(points, before[i].Point)
	}
	return strings.Join(points, ":"), nil
}

// IsFormatted tells whether a list has a mount that names others, which mount(8) and most programs cannot do.
func IsFormatted(mounts []Mount) bool {
	return slices.ContainsFunc(mounts, func(m Mount) bool { return strings.HasPrefix(m.Type, formatType) })
}

// formatted mounts the last of a list at target; the others are mounted where nobody sees them, and kept by the last one
// alone.
func formatted(mounts []Mount, target string) error {
	at, err := openTarget(target, mounts[len(mounts)-1].Target)
	if err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	defer at.Close()
	top, err := apart(func() (int, error) { return assemble(mounts, target) })
	if err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	defer unix.Close(top)
	return attach(top, at)
}

// assemble mounts all below target, and gives a clone of the last one. The names below are relative to the working directory,
// which the thread has for itself, so that those of many layers fit the page that mount(2) takes.
func assemble(mounts []Mount, target string) (int, error) {
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=0700,size=1m"); err != nil {
		return -1, fmt.Errorf("a place for mounts: %w", err)
	}
	if err := unix.Chdir(target); err != nil {
		return -1, err
	}
	var before []Placed
	point := ""
	for i, m := range mounts {
		m, ids, err := m.filled(before)
		if err != nil {
			return -1, fmt.Errorf("mount %d: %w", i, err)
		}
		if !ids.none() {
			for _, p := range before {
				if err := mapOver(p.Point, ids); err != nil {
					return -1, err
				}
			}
		}
		point = fmt.Sprintf("%03d", i)
		if err := os.Mkdir(point, 0o700); err != nil {
			return -1, err
		}
		if err := one(m, point); err != nil {
			return -1, err
		}
		before = append(before, Placed{m, point})
	}
	return clone(unix.AT_FDCWD, point, 0)
}

// filled is Fill for a mount that wants it. The mounts that an overlay stacks are mapped one by one, so that itself needs no
// mapping: ids says which.
func (m Mount) filled(before []Placed) (_ Mount, ids idMaps, err error) {
	kind, ok := strings.CutPrefix(m.Type, formatType)
	if ok {
		m, err = Fill(m, before)
		m.Type = kind
	}
	m.Target = ""
	if !ok || kind != "overlay" || err != nil {
		return m, ids, err
	}
	p, err := parse(m.Options)
	m.Options = slices.DeleteFunc(m.Options, func(o string) bool {
		return strings.HasPrefix(o, "uidmap=") || strings.HasPrefix(o, "gidmap=")
	})
	return m, p.ids, err
}

// mapOver has what is mounted at a point be seen there with other owners.
func mapOver(point string, m idMaps) error {
	at, err := openTarget(point, "")
	if err != nil {
		return err
	}
	defer at.Close()
	if err := bindMapped(point, at, m); err != nil {
		return fmt.Errorf("map the owners of a layer: %w", err)
	}
	return nil
}

// apart calls fn, which gives a detached mount, on a thread with a mount namespace and a working directory of its own, which
// end with it. So nothing that fn mounts is seen elsewhere, and a kill leaves nothing.
func apart(fn func() (int, error)) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread is what the process is seen to be, and would not end. While it is held, another one is taken.
			defer runtime.UnlockOSThread()
			fd, err = apart(fn)
			return
		}
		// It stays locked, so that the thread ends with this function.
		fd = -1
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil {
			err = os.NewSyscallError("unshare mount namespace", err)
			return
		}
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err == nil {
			fd, err = fn()
		}
	}()
	<-done
	return fd, err
}

// Detached mounts something that is seen nowhere: each is reached by way of its file, and ends with it. The sources lie outside
// of /sys.
func Detached(mounts ...Mount) (files []*os.File, err error) {
	if len(mounts) == 0 {
		return nil, nil
	}
	_, err = apart(func() (int, error) {
		for _, m := range mounts {
			fd, err := assemble([]Mount{m}, "/sys")
			if err != nil {
				return -1, err
			}
			files = append(files, os.NewFile(uintptr(fd), m.Source))
		}
		return -1, nil
	})
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, err
	}
	return files, nil
}

// Tree mounts everything as [All] does, but where nobody else sees it: the tree is reached by way of its file, and ends with it,
// also when the process is killed. The sources lie outside of /sys.
func Tree(mounts []Mount) (*os.File, error) {
	fd, err := apart(func() (int, error) {
		const at = "/sys" // which is everywhere, and hidden on this thread alone
		if err := All(mounts, at); err != nil {
			return -1, err
		}
		fd, err := clone(unix.AT_FDCWD, at, unix.AT_RECURSIVE)
		// So that a file system is unmounted when the file is closed, and not when the thread has ended.
		_ = unix.Unmount(at, unix.MNT_DETACH)
		return fd, err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "mounts"), nil
}

// Flat gives, of a list that ends with an overlay which names the others, and of an image of erofs, one mount whose directories
// can be read as they are until done is called: see [Detached]. Any other list it gives as it is.
func Flat(mounts []Mount) (flat []Mount, done func() error, err error) {
	done = func() error { return nil }
	n := len(mounts)
	overlaid := n > 0 && mounts[n-1].Type == formatType+"overlay"
	alone := n == 1 && mounts[0].Type == "erofs"
	if !overlaid && !alone {
		return mounts, done, nil
	}
	lower := mounts
	if overlaid {
		lower = mounts[:n-1]
	}
	files, err := Detached(lower...)
	if err != nil {
		return nil, done, err
	}
	done = func() (err error) {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return err
	}
	var before []Placed
	for i, f := range files {
		before = append(before, Placed{lower[i], Directory(f)})
	}
	if alone {
		return []Mount{{Type: "bind", Source: before[0].Point, Options: []string{"ro"}}}, done, nil
	}
	last, err := Fill(mounts[n-1], before)
	last.Type = "overlay"
	if err != nil {
		return nil, func() error { return nil }, errors.Join(err, done())
	}
	return []Mount{last}, done, nil
}

// Directory is the path of an open directory in this process. The slash at its end makes it the directory, and not a link.
func Directory(f *os.File) string { return procPath(f) + "/" }
