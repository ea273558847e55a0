// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"

	runc "github.com/containerd/go-runc"

	"ctrd.dev/ctrd/lib/engine/ask"
)

// withStreams gives an engine what its process gets. A terminal's master comes on a socket with a name, as
// engines want it, and goes on to the supervisor's own.
func (o *oci) withStreams(ctx context.Context, st stdio, call func(context.Context, runc.IO, runc.ConsoleSocket) error) error {
	if st.terminal == nil {
		return call(ctx, given{st.files[0], st.files[1], st.files[2]}, nil)
	}
	// The working directory of the engine is ours, and a relative path is shorter than what a socket's may be.
	name := consoleSocket(fmt.Sprintf("%s/%d.tty", stateDir, os.Getpid()))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: string(name), Net: "unix"})
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer os.Remove(string(name))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	passed := make(chan error, 1)
	go func() { passed <- passMaster(l, st.terminal) }()
	err = call(ctx, nil, name)
	if err != nil {
		l.Close()
		<-passed
		return err
	}
	// An engine that has succeeded has sent it.
	select {
	case err = <-passed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.Close()
	return err
}

// passMaster takes one terminal's master from an engine and sends it on.
func passMaster(l *net.UnixListener, to *os.File) error {
	c, err := l.AcceptUnix()
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer c.Close()
	f, err := c.File()
	if err != nil {
		return err
	}
	defer f.Close()
	_, files, err := ask.ReceiveFiles(f, make([]byte, 4096))
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) != 1 {
		return fmt.Errorf("console socket: %d files came", len(files))
	}
	return ask.Send(to, struct{}{}, files...)
}

// consoleSocket is the path of a socket; it is a [runc.ConsoleSocket].
type consoleSocket string

func (s consoleSocket) Path() string { return string(s) }

// given are the files of a process; it is a [runc.IO]. The engine has them as its own, and what it prints
// besides its log goes where the process's output goes.
type given [3]*os.File

// Set gives them to the engine.
func (g given) Set(cmd *exec.Cmd) { cmd.Stdin, cmd.Stdout, cmd.Stderr = g[0], g[1], g[2] }

// Close does nothing: they are the request's.
func (g given) Close() error { return nil }

// Stdin is nil: nobody here writes to it.
func (g given) Stdin() io.WriteCloser { return nil }

// Stdout is nil.
func (g given) Stdout() io.ReadCloser { return nil }

// Stderr is nil.
func (g given) Stderr() io.ReadCloser { return nil }

var _ runc.IO = given{}
