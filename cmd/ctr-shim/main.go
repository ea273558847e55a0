// SPDX-License-Identifier: Apache-2.0

// Command ctr-shim supervises containers: it is their parent, owns their output and their exit records, and
// answers containerd's task API on a socket.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine"
	"ctrd.dev/ctrd/lib/shim"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// version is set by the build.
var version = "devel"

const usage = `ctr-shim supervises containers. Other commands start it; there is no need to call it by hand.

Usage:
  ctr-shim -namespace NS -id ID [OPTION]... serve
  ctr-shim logger "" uri URI
  ctr-shim -h | -v

It serves containerd's task API (version 3, ttrpc), runs the container of a bundle and those that are
created with further bundles, and ends by itself after all of them have ended. Once it listens it writes

  {"version":3,"address":"unix:///PATH","protocol":"ttrpc"}

and closes its stdout. When it cannot serve, stderr says why and the exit status is not 0.

As "logger" it is a logging program of containerd's binary scheme (binary:///PATH/ctr-shim?logger=&uri=URI):
it reads stdout at descriptor 3 and stderr at 4, and writes the log log:///PATH?max-size=BYTES&max-files=N.

Options (with one hyphen or two):
  -namespace NS   the containers' namespace
  -id ID          the id of the first container
  -bundle DIR     its bundle (default: the working directory)
  -sockets DIR    the directory of the socket (default /run/ctrd/s)
  -events DIR     the directory of the event journal (none: no events are written)
  -root R         the durable state directory, for what follows the end of a task
  -state S        the state directory of this boot, for the same

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
	}
	return o.serve()
}

// serve becomes the supervisor.
func (o options) serve() error {
	c := shim.Config{Namespace: o.namespace, ID: o.id, Bundle: o.bundle, Events: o.events}
	c.Socket = filepath.Join(o.sockets, taskapi.SocketName(c.Bundle))
	if o.state != "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.Command = []string{filepath.Join(filepath.Dir(self), "ctr-task"), "--root", o.root, "--state", o.state, "-n", c.Namespace}
	}
	if o.old {
		return o.serveOld(c)
	}
	return shim.Serve(c, func() error {
		_, err := fmt.Printf("{\"version\":%d,\"address\":\"unix://%s\",\"protocol\":\"ttrpc\"}\n", shim.Version, c.Socket)
		if err != nil {
			return err
		}
		return unix.Dup2(2, 1) // closes it for the reader
	})
}

// serveOld is serve for a starter that keeps no record of the task and reads descriptor 3.
func (o options) serveOld(c shim.Config) error {
	const fd = 3
	unix.CloseOnExec(fd)
	ready := os.NewFile(fd, "ready")
	if _, err := os.Lstat(filepath.Join(c.Bundle, taskdir.Record)); err != nil {
		t := taskdir.Task{Namespace: c.Namespace, ID: c.ID, Owner: taskdir.Kept}
		if o.remove {
			t.Owner = taskdir.ByShim
			if _, err := os.Lstat(filepath.Join(c.Bundle, taskdir.ClientLock)); err == nil {
				t.Owner = taskdir.Client
			}
		}
		if err := taskdir.Write(c.Bundle, taskdir.Record, t); err != nil {
			return err
		}
	}
	err := shim.Serve(c, func() error {
		ready.WriteString("ok\n")
		return ready.Close()
	})
	if err != nil {
		ready.WriteString(err.Error())
	}
	return err
}
