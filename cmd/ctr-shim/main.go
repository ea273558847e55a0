// SPDX-License-Identifier: Apache-2.0

// Command ctr-shim supervises containers: it is their parent, owns their output and their exit records, and
// answers containerd's task API on a socket.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine"
	"ctrd.dev/ctrd/lib/shim"
	"ctrd.dev/ctrd/lib/taskapi"
)

// version is set by the build.
var version = "devel"

const usage = `ctr-shim supervises containers. Other commands start it; there is no need to call it by hand.

Usage:
  ctr-shim -namespace NS -id ID [OPTION]... serve
  ctr-shim -namespace NS -id ID [OPTION]... start | delete
  ctr-shim -info
  ctr-shim logger "" uri URI
  ctr-shim -h | -v

It serves containerd's task API (version 3, ttrpc), runs the container of a bundle and those that are
created with further bundles, and ends by itself after all of them have ended. Once it listens it writes

  {"version":3,"address":"unix:///PATH","protocol":"ttrpc"}

and closes its stdout. When it cannot serve, stderr says why and the exit status is not 0.

It is also a shim for containerd (docs/runtime-v2.md there): start forks the supervisor of the container's pod, or
finds it, and tells its address; that one lives until Shutdown. delete removes what a killed supervisor has left
of a container. -info tells what the engine can do. These three and their answers are containerd's.

As "logger" it is a logging program of containerd's binary scheme (binary:///PATH/ctr-shim?logger=&uri=URI):
it reads stdout at descriptor 3 and stderr at 4, and writes the log log:///PATH?max-size=BYTES&max-files=N.

Options (with one hyphen or two):
  -namespace NS   the containers' namespace
  -id ID          the id of the first container
  -bundle DIR     its bundle (default: the working directory)
  -sockets DIR    the directory of the socket (default /run/ctrd/s, of start /run/containerd/s)
  -events DIR     the directory of the event journal (none: no events are written)
  -socket PATH    the socket itself
  -root R         the durable state directory, for what follows the end of a task
  -state S        the state directory of this boot, for the same
  -address A      containerd's address, a part of the socket's name
  -publish-binary, -debug
                  taken because containerd gives them

Files in a bundle that has a task.json, which says what follows the end of the task:
  config.json     read: the OCI bundle; rootfs/ is where its root is mounted
  shim.lock       held as long as the supervisor has the task
  shim.json       the supervisor's pid and the address of its socket
  init.json       the pid of the container's first process
  started.json    when its program was started
  lost.json       how much of its output could not be written
  exit.json       how it ended; written when its output has been written to the end
  shim.log        what the supervisor has to say (its stderr)

Environment:
  TTRPC_ADDRESS   where containerd takes events
  GOMAXPROCS=1    keeps the supervisor a third smaller; the programs that it starts do not see it

Exit status:
  0  the containers have ended and are cleaned up
  1  a failure, told on stderr
  2  wrong usage
`

func main() {
	args := os.Args[1:]
	switch {
	case len(args) == 1 && args[0] == "init":
		// The first life of a process in a container. Nothing may come before it.
		engine.Init()
	case len(args) == 3 && args[0] == "engine":
		os.Exit(engine.Main(args[1], args[2]))
	case len(args) == 4 && args[0] == "scope":
		os.Exit(makeScope(args[1], args[2], args[3]))
	case len(args) == 2 && args[0] == "stop-scope":
		os.Exit(stopScope(args[1]))
	}
	if uri := loggerURI(args); uri != "" {
		if err := shim.Log(uri); err != nil {
			fmt.Fprintln(os.Stderr, "ctr-shim:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ctr-shim:", err)
		os.Exit(2)
	}
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "ctr-shim:", err)
		os.Exit(1)
	}
}

func (o options) run() error {
	switch o.action {
	case "help":
		os.Stdout.WriteString(usage)
		return nil
	case "version":
		fmt.Println("ctr-shim", version)
		return nil
	case "info":
		return o.writeInfo()
	case "start":
		return o.start()
	case "delete":
		answer, err := shim.Delete(o.bootstrap())
		return write(answer, err)
	}
	return o.serve()
}

func write(answer []byte, err error) error {
	if err == nil {
		_, err = os.Stdout.Write(answer)
	}
	return err
}

// maxInput bounds what containerd may write to stdin.
const maxInput = 10 << 20

func readInput() ([]byte, error) { return io.ReadAll(io.LimitReader(os.Stdin, maxInput)) }

func (o options) writeInfo() error {
	input, err := readInput()
	if err != nil {
		return err
	}
	return write(shim.Info(version, input, func(binary string) ([]byte, error) {
		return engine.Features(context.Background(), binary)
	}))
}

func (o options) bootstrap() shim.Bootstrap {
	b := shim.Bootstrap{
		Namespace: o.namespace, ID: o.id, Bundle: o.bundle, Address: o.address, TTRPC: os.Getenv("TTRPC_ADDRESS"),
		Sockets: o.sockets, Debug: o.debug,
	}
	if os.Getenv("MAX_SHIM_VERSION") != "" {
		b.Answer = shim.AnswerJSON
	}
	return b
}

// start starts the supervisor of the container's pod, unless it lives, and tells its address.
func (o options) start() error {
	b := o.bootstrap()
	input, err := readInput()
	if err == nil {
		err = b.ReadInput(input)
	}
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return write(shim.Start(context.Background(), b, []string{
		self, "-namespace", b.Namespace, "-id", b.ID, "-address", b.Address, "-containerd", "serve",
	}))
}

// serve becomes the supervisor.
func (o options) serve() error {
	c := shim.Config{Namespace: o.namespace, ID: o.id, Bundle: o.bundle, Socket: o.socket, Events: o.events, Containerd: o.containerd}
	if c.Socket == "" {
		c.Socket = filepath.Join(cmp.Or(o.sockets, defaultSockets), taskapi.SocketName(c.Bundle))
	}
	if c.Containerd {
		c.TTRPC = os.Getenv("TTRPC_ADDRESS")
		if c.TTRPC != "" && !strings.Contains(c.TTRPC, "://") {
			c.TTRPC = "unix://" + c.TTRPC
		}
	}
	if o.state != "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.Filters = filepath.Join(o.state, "seccomp")
		c.Command = []string{filepath.Join(filepath.Dir(self), "ctr-task"), "--root", o.root, "--state", o.state, "-n", c.Namespace}
	}
	if c.Containerd {
		// Before the engine is started, which keeps stderr. What goes wrong until the answer is given is told
		// in the answer's place.
		if err := logTo(filepath.Join(c.Bundle, "log")); err != nil {
			return err
		}
	}
	answered := false
	err := shim.Serve(c, func() error {
		answered = true
		_, err := fmt.Printf("{\"version\":%d,\"address\":\"unix://%s\",\"protocol\":\"ttrpc\"}\n", shim.Version, c.Socket)
		if err != nil && (c.Containerd || !errors.Is(err, unix.EPIPE)) { // a pod whose starter was killed waits for another
			return err
		}
		return unix.Dup2(2, 1) // closes it for the reader
	})
	if err != nil && c.Containerd && !answered {
		fmt.Println(err)
	}
	return err
}

// logTo makes stderr the FIFO from which containerd reads what its shims have to say, or nothing when there is
// none. Both ends are open here: a containerd that is away neither ends nor stops the writer.
func logTo(path string) error {
	flags := unix.O_RDWR | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		fd, err = unix.Open(os.DevNull, flags, 0)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return unix.Dup2(fd, 2)
}
