// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// listener is a socket, and the name of what is served on it.
type listener struct {
	name string
	*net.UnixListener
}

// given has the sockets that systemd has opened (sd_listen_fds(3)).
func given() (all []listener, err error) {
	for _, f := range activation.Files(true) {
		l, err := socket(f)
		if err != nil {
			return nil, fmt.Errorf("socket %q of systemd: %w", f.Name(), err)
		}
		all = append(all, l)
		f.Close()
	}
	return all, nil
}

// socket checks the name that a socket has in its unit (FileDescriptorName=). One that was given none is taken for native.
func socket(f *os.File) (l listener, err error) {
	switch name := f.Name(); {
	case name == "native", name == "unknown", strings.HasSuffix(name, ".socket"), strings.HasPrefix(name, "LISTEN_FD_"):
		l.name = "native"
	case name == "cri", name == "ttrpc", name == "metrics":
		l.name = name
	default:
		return l, fmt.Errorf("want FileDescriptorName=native, cri, ttrpc or metrics: %w", errdefs.ErrInvalidArgument)
	}
	any, err := net.FileListener(f)
	if err != nil {
		return l, fmt.Errorf("%w: want a socket that listens", err)
	}
	u, ok := any.(*net.UnixListener)
	if !ok {
		return l, fmt.Errorf("at %v: want a unix socket: %w", any.Addr(), errdefs.ErrInvalidArgument)
	}
	l.UnixListener = u
	return l, nil
}

// split parts the sockets of a name from the others.
func split(all []listener, name string) (others, named []listener) {
	for _, l := range all {
		if l.name == name {
			named = append(named, l)
		} else {
			others = append(others, l)
		}
	}
	return others, named
}

// makeSockets makes the sockets of a server that systemd has given none. release is to be called at the end.
func makeSockets(d *state.Dir, c config.Sockets) (all []listener, release func(), err error) {
	native := cmp.Or(c.Native.Address, d.Run("ctrd.sock"))
	var held []*lock.Held
	release = func() {
		for _, h := range held {
			h.Remove()
		}
	}
	for _, s := range []struct {
		name, path string
		config.Socket
	}{
		{"native", native, c.Native},
		{"cri", cmp.Or(c.CRI.Address, d.Run("cri.sock")), c.CRI},
		{"ttrpc", cmp.Or(c.TTRPC.Address, native+".ttrpc"), c.TTRPC}, // where clients look that were told the other
	} {
		l, h, err := makeSocket(s.path, s.Socket)
		if err != nil {
			release()
			return nil, nil, err
		}
		held = append(held, h)
		all = append(all, listener{s.name, l})
	}
	return all, release, nil
}

// goneWithin is how long what a server that was killed had open may outlive it: in a child of its, between fork and exec.
const goneWithin = 500 * time.Millisecond

// makeSocket listens at a path, with the owner and the permissions that c says. It takes the place of a server that is gone;
// one that lives is an error.
func makeSocket(path string, c config.Socket) (l *net.UnixListener, held *lock.Held, err error) {
	for end := time.Now().Add(goneWithin); ; time.Sleep(goneWithin / 20) {
		l, held, err = tryMakeSocket(path, c)
		if !errdefs.IsAborted(err) && !errdefs.IsAlreadyExists(err) || time.Now().After(end) {
			return l, held, err
		}
	}
}

func tryMakeSocket(path string, c config.Socket) (*net.UnixListener, *lock.Held, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, nil, err
	}
	held, err := lock.Hold(path + ".lock")
	if err != nil {
		return nil, nil, fmt.Errorf("serve %s: %w; end that, or give another --address", path, err)
	}
	l, err := bind(path, c)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("serve %s: %w", path, err), held.Remove())
	}
	return l, held, nil
}

func bind(path string, c config.Socket) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("it is there and is no socket: %w", errdefs.ErrAlreadyExists)
	}
	if who := listens(path); who != "" {
		return nil, fmt.Errorf("%s listens there: %w", who, errdefs.ErrAlreadyExists)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	mask := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(mask)
	if err != nil {
		return nil, err
	}
	if err := own(path, c); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// own gives the file of a socket its owner and its permissions. Without a group, and with one that there is not, members of
// none get in.
func own(path string, c config.Socket) error {
	mode, gid := os.FileMode(c.Mode), -1
	if n, err := strconv.ParseUint(c.Group, 10, 31); err == nil {
		gid = int(n)
	} else if g, err := user.LookupGroup(c.Group); c.Group != "" && err == nil {
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return err
		}
	} else {
		mode &^= 0o070
	}
	uid := c.UID
	if uid == 0 {
		uid = -1 // of a server that is not root, its own
	}
	return errors.Join(os.Lchown(path, uid, gid), os.Chmod(path, mode))
}

// listens names the process that listens on a socket, such as systemd for ctrd.socket; it is empty when none does.
func listens(path string) string {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) {
			return "a process"
		}
		return ""
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return "a process"
	}
	var who *unix.Ucred
	if err := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || who == nil {
		return "a process"
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", who.Pid))
	return fmt.Sprintf("pid %d (%s)", who.Pid, cmp.Or(strings.TrimSpace(string(name)), "unknown"))
}
