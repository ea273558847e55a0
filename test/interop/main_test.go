// SPDX-License-Identifier: Apache-2.0

// Package interop tests ctrd against the programs it has to work with: containerd 2.4 drives ctr-shim, and ctr-task
// drives containerd's shim and other OCI engines. Each test of containerd runs with containerd's own shim too, which
// shows that the test asks for nothing but what containerd's users know.
//
// It is a module of its own, so that the product never depends on containerd.
package interop

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"ctrd.dev/ctrd/test/world"
)

var (
	top      = absolute("../..")
	bin      = filepath.Join(top, "bin")
	peers    = filepath.Join(top, "build/peers/bin")
	registry string // address of the registry with the images of scripts/mkimages
	busybox  string // the image that the tests run
)

// Variables of the environment that the inner process gets from the outer one.
const (
	isInner = "INTEROP_INNER"
	markVar = "INTEROP_MARK"
)

// mark is in the names of all cgroups that a run makes.
var mark = os.Getenv(markVar)

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return abs
}

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(isInner) == "" {
		os.Exit(outer())
	}
	os.Exit(world.Main(m, func(s world.Site) error {
		registry, busybox = s.Registry, s.Registry+"/busybox:1"
		return nil
	}))
}

// outer builds the peers and runs this program again in pid and mount namespaces with a /run of their own. Their end,
// however it comes, ends all daemons, shims, containers and mounts; the cgroups are removed after it. Those that tests
// which passed have left are a failure.
func outer() int {
	if err := world.Sweep(); err != nil {
		fmt.Fprintln(os.Stderr, "interop: remove what tests that were cut off have left:", err)
		return 1
	}
	build := exec.Command(filepath.Join(top, "scripts/bench/peers/build"), filepath.Dir(peers))
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "interop: build the peers:", err)
		return 1
	}
	runtime.LockOSThread() // the death signal is the thread's
	mark = "interop-" + strings.ToLower(rand.Text()[:8])
	// The shell is the namespace's init: it reaps orphans, and does not give way to the last command.
	const script = `mount --make-rprivate / && mount -t proc proc /proc && mount -t tmpfs -o mode=755 tmpfs /run || exit 1; "$@"; exit $?`
	inner := exec.Command("bash", append([]string{"-c", script, "init", "/proc/self/exe"}, os.Args[1:]...)...)
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	inner.Args[4] = self
	inner.Env = append(os.Environ(), isInner+"=1", markVar+"="+mark, "PATH="+bin+":"+peers+":"+os.Getenv("PATH"))
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	err = inner.Run()
	left := cgroups(mark)
	removeCgroups(mark)
	if e := world.Sweep(); err == nil {
		err = e
	}
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left behind: %s", strings.Join(left, ", "))
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "interop:", err)
	return 1
}
