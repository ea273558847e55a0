// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/netns"
)

// CreateNetns makes a network namespace, with its loopback up, and pins it at [Host.Netns] of the id. One that is pinned
// there already stays, and is success: a create that is called again goes on with what the first has made.
func (h Host) CreateNetns(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if pinned, err := IsNetns(h.Netns(id)); pinned || err != nil {
		return err
	}
	return netns.New(func() error { return h.PinNetns(id, netns.Own()) })
}

// PinNetns pins the network namespace at the path from, such as /proc/PID/ns/net, at [Host.Netns] of the id: it lives on
// when the last process in it has ended, until [Host.RemoveNetns]. What is no network namespace is
// errdefs.ErrInvalidArgument.
func (h Host) PinNetns(id, from string) error {
	if err := checkID(id); err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("pin network namespace: %w", err)
	}
	defer f.Close()
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("pin %s: it is no network namespace: %w", from, errdefs.ErrInvalidArgument)
	}
	path := h.Netns(id)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	// What a pin that was cut short has left is no mount, or one of the same namespace.
	if err := h.RemoveNetns(id); err != nil {
		return err
	}
	at, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("pin network namespace: %w", err)
	}
	at.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("pin network namespace at %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// RemoveNetns takes the pin of an id away: the namespace ends with the last process in it. One that is not there is
// success.
func (h Host) RemoveNetns(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	path := h.Netns(id)
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue // there may be two
		}
		if err != unix.EINVAL && err != unix.ENOENT {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// IsNetns tells whether a network namespace is pinned at path. A file without one, as a pin that was cut short or a reboot
// leaves it, is none.
func IsNetns(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	return err == nil && kind == unix.CLONE_NEWNET, nil
}
