// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/unixsocket"
)

// maxPath is what sockaddr_un holds, without the NUL.
const maxPath = 107

// Listen makes the socket of address (unix:///path) with mode 0600. The path
// may be longer than the kernel's 107 bytes, its last name may not be much
// longer than 80. A socket on which nobody listens is replaced; a live one is
// errdefs.ErrAlreadyExists. Two that replace the same dead socket at once must
// be kept apart by the caller. Closing the listener removes the socket.
func Listen(address string) (net.Listener, error) {
	path, err := socketPath(address)
	if err != nil {
		return nil, err
	}
	l, err := bind(path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeDead(path); err != nil {
			return nil, err
		}
		l, err = bind(path)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	return l, nil
}

// socketPath is the path in a unix:// address.
func socketPath(address string) (string, error) {
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok || !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("address %q is not unix:///path: %w", address, errdefs.ErrInvalidArgument)
	}
	return path, nil
}

// withShort calls fn with a name of path that sockaddr_un can hold, valid
// during fn only.
func withShort(path string, fn func(short string) error) error {
	if len(path) <= maxPath {
		return fn(path)
	}
	dir, name := filepath.Split(path)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	short := fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
	if len(short) > maxPath {
		return fmt.Errorf("socket name %q is too long: %w", name, errdefs.ErrInvalidArgument)
	}
	return fn(short)
}

func bind(path string) (*listener, error) {
	// The mode of a socket that is not bound yet is the mode it is made with:
	// so there is no moment at which others could connect.
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		err := raw.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	var l *listener
	err := withShort(path, func(short string) error {
		nl, err := lc.Listen(context.Background(), "unix", short)
		if err != nil {
			return bare(err)
		}
		l = &listener{UnixListener: nl.(*net.UnixListener), path: path}
		// It would remove the short name.
		l.SetUnlinkOnClose(false)
		l.made, err = os.Lstat(path)
		if err != nil {
			l.UnixListener.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// removeDead removes the socket at path unless somebody listens on it.
func removeDead(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("listen on %q: not a socket: %w", path, errdefs.ErrAlreadyExists)
	}
	c, err := connect(path)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen on %q: in use: %w", path, errdefs.ErrAlreadyExists)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// connect connects to the socket at path.
func connect(path string) (c net.Conn, err error) {
	err = withShort(path, func(short string) error {
		f, err := unixsocket.Connect(short)
		if err != nil {
			return err
		}
		defer f.Close()
		c, err = net.FileConn(f)
		return err
	})
	return c, err
}

// bare takes the wrapping of package net off err: it names the short path.
func bare(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// listener is a socket with a name to remove.
type listener struct {
	*net.UnixListener
	path string
	made os.FileInfo
	once sync.Once
}

// Addr gives the path as it was asked for.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: l.path} }

// Close removes the name first, so that nobody finds a dead socket; a name
// that leads to another socket by now is left alone. Only the first Close
// looks: the inode number may be another's afterwards.
func (l *listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		if fi, err := os.Lstat(l.path); err == nil && os.SameFile(fi, l.made) {
			os.Remove(l.path)
		}
		err = l.UnixListener.Close()
	})
	return err
}

// SocketName is the name of the socket of the task in a directory: it can be found, and removed, also
// where a supervisor was killed before it wrote the name down.
func SocketName(dir string) string {
	h := fnv.New64a()
	h.Write([]byte(dir))
	return fmt.Sprintf("%016x", h.Sum64())
}
