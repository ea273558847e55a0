// SPDX-License-Identifier: Apache-2.0

// Command ctr-shim supervises one container: it is its parent, owns its output and its exit record, and
// answers containerd's task API on a socket.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"ctrd.dev/ctrd/lib/engine"
	"ctrd.dev/ctrd/lib/shim"
)

// version is set by the build.
var version = "devel"

const usage = `ctr-shim supervises one container. Other commands start it; there is no need to call it by hand.

Usage:
  ctr-shim serve --namespace NS --id ID [OPTION]...
  ctr-shim --help | --version

It serves containerd's task API (version 3, ttrpc) on the socket that it names in shim.json, runs the
container of the bundle that is its working directory, and ends by itself after the container has ended.
Descriptor 3 is told "ok" once it listens, or what went wrong.

Options:
  --namespace NS   the container's namespace
  --id ID          the container's id
  --events DIR     the directory of the event journal (none: no events are written)
  --sockets DIR    the directory of the socket (default ../../../s)
  --rm             when the container has ended and no client holds client.lock, remove it with
                   ctr-task --root R --state S -n NS rm -f ID
  --root R         the durable state directory, for --rm
  --state S        the state directory of this boot, for --rm

Files in the working directory:
  config.json      read: the OCI bundle; rootfs/ is where its root is mounted
  shim.lock        held as long as the supervisor lives
  shim.json        its pid and the address of its socket
  init.json        the pid of the container's first process
  exit.json        how the container ended; written when its output has been written to the end
  shim.log         what it has to say (its stderr)

Environment:
  GOMAXPROCS=1     keeps the supervisor a third smaller; the programs that it starts do not see it

Exit status:
  0  the container has ended and is cleaned up
  1  a failure, told on descriptor 3 or in shim.log
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
	case len(args) > 0 && args[0] == "serve":
		os.Exit(serve(args[1:]))
	case len(args) == 1 && (args[0] == "--help" || args[0] == "-h" || args[0] == "help"):
		os.Stdout.WriteString(usage)
	case len(args) == 1 && args[0] == "--version":
		fmt.Println("ctr-shim", version)
	default:
		os.Exit(misuse("see ctr-shim --help"))
	}
}

func misuse(text string) int {
	fmt.Fprintln(os.Stderr, "ctr-shim:", text)
	return 2
}

func serve(args []string) int {
	var c shim.Config
	var root, state string
	var remove bool
	names := map[string]*string{
		"--namespace": &c.Namespace, "--id": &c.ID, "--events": &c.Events, "--sockets": &c.Sockets, "--root": &root, "--state": &state,
	}
	for len(args) > 0 {
		switch to, ok := names[args[0]]; {
		case args[0] == "--help" || args[0] == "-h":
			os.Stdout.WriteString(usage)
			return 0
		case args[0] == "--rm":
			remove = true
			args = args[1:]
		case ok && len(args) > 1:
			*to = args[1]
			args = args[2:]
		case ok:
			return misuse(args[0] + " needs a value")
		default:
			return misuse(fmt.Sprintf("unknown argument %q", args[0]))
		}
	}
	if c.Namespace == "" || c.ID == "" {
		return misuse("serve needs --namespace and --id")
	}
	if remove {
		self, err := os.Executable()
		if err != nil {
			fmt.Fprintln(os.Stderr, "ctr-shim:", err)
			return 1
		}
		c.Remove = []string{filepath.Join(filepath.Dir(self), "ctr-task"), "--root", root, "--state", state, "-n", c.Namespace, "rm", "-f", c.ID}
	}
	var err error
	if c.Bundle, err = os.Getwd(); err != nil {
		fmt.Fprintln(os.Stderr, "ctr-shim:", err)
		return 1
	}
	if err := shim.Serve(c, os.NewFile(3, "ready")); err != nil {
		fmt.Fprintln(os.Stderr, "ctr-shim:", err)
		return 1
	}
	return 0
}
