// SPDX-License-Identifier: Apache-2.0

// Package unixsocket connects to unix sockets. The dialer of package net does that, too, but links the resolver of names, which is 0.3 MB
// of each command.
package unixsocket

import (
	"os"

	"golang.org/x/sys/unix"
)

// Connect connects to the stream socket at path, of 107 bytes at most. It waits for nothing: a listener whose backlog is full is unix.EAGAIN.
// Reads and writes of the file may have deadlines.
func Connect(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
