// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Loop is a loop device of a file (loop(4)). It goes when nobody has it open or mounted any more, unless it is kept.
type Loop struct{ dev *os.File }

// loopTries is how often a free device is asked for: others take them, too.
const loopTries = 64

// OpenLoop makes a loop device of a file or a block device. name, of at most 63 bytes, is by what [ReleaseLoop] knows it.
func OpenLoop(file string, readOnly bool, name string) (*Loop, error) {
	l, err := openLoop(file, readOnly, name)
	if err != nil {
		return nil, fmt.Errorf("loop device of %s: %w", file, err)
	}
	return l, nil
}

func openLoop(file string, readOnly bool, name string) (*Loop, error) {
	flag, info := os.O_RDWR, unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}
	if readOnly {
		flag, info.Flags = os.O_RDONLY, info.Flags|unix.LO_FLAGS_READ_ONLY
	}
	if len(name) >= len(info.File_name) {
		return nil, fmt.Errorf("the name %q is too long: %w", name, errdefs.ErrInvalidArgument)
	}
	copy(info.File_name[:], name)
	back, err := os.OpenFile(file, flag, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (modprobe loop): %w", err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), flag, 0)
		if err != nil {
			return nil, err
		}
		err = configureLoop(dev, back, info)
		if err == nil {
			return &Loop{dev}, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("all are taken: %w", errdefs.ErrUnavailable)
}

// configureLoop gives a free device its file. Before Linux 5.8 a kill in between leaves a device without a name.
func configureLoop(dev, back *os.File, info unix.LoopInfo64) error {
	err := unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(back.Fd()), Info: info})
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
		return os.NewSyscallError("LOOP_CONFIGURE", err)
	}
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(back.Fd())); err != nil {
		return os.NewSyscallError("LOOP_SET_FD", err)
	}
	if err := unix.IoctlLoopSetStatus64(int(dev.Fd()), &info); err != nil {
		return errors.Join(os.NewSyscallError("LOOP_SET_STATUS64", err), unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0))
	}
	return nil
}

// Path is that of the device.
func (l *Loop) Path() string { return l.dev.Name() }

// Keep has the device stay until it is released, whoever has it open.
func (l *Loop) Keep() error { return autoclear(l.dev, "", false) }

// Close closes the device.
func (l *Loop) Close() error { return l.dev.Close() }

// ReleaseLoop has a device that was kept go when nobody has it open or mounted any more. A device that is not the one of that
// name is left alone.
func ReleaseLoop(device, name string) error {
	dev, err := os.Open(device)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	err = autoclear(dev, name, true)
	if errors.Is(err, unix.ENXIO) { // it has no file
		err = nil
	}
	return errors.Join(err, dev.Close())
}

// autoclear sets or clears the flag with which a device goes by itself, of the one of that name if there is a name.
func autoclear(dev *os.File, name string, on bool) error {
	info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if err != nil {
		return os.NewSyscallError("LOOP_GET_STATUS64", err)
	}
	if name != "" && unix.ByteSliceToString(info.File_name[:]) != name {
		return nil
	}
	info.Flags &^= unix.LO_FLAGS_AUTOCLEAR
	if on {
		info.Flags |= unix.LO_FLAGS_AUTOCLEAR
	}
	return os.NewSyscallError("LOOP_SET_STATUS64", unix.IoctlLoopSetStatus64(int(dev.Fd()), info))
}
