// SPDX-License-Identifier: Apache-2.0

// Package world gives a test a state directory of its own, the built commands, images in a real
// registry, and the means to see whatever of that is left on the machine.
package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// World is a state directory and all that belongs to it on this machine. No two share anything but the
// kernel.
type World struct {
	Dir         string   // everything below it is the world's
	Root, State string   // the state directory
	Bin         string   // the commands
	Env         []string // more of their environment
}

// New makes a world that ends with the test, in which nothing may run then. What does is ended and removed by force,
// and fails the test, unless that has failed before.
func New(tb testing.TB, bin string) *World {
	tb.Helper()
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		tb.Fatal(err)
	}
	w := in(dir, bin)
	claim, err := w.claim()
	if err != nil {
		tb.Fatal(err)
	}
	made.add(w)
	tb.Cleanup(func() {
		defer claim.Close()
		if !tb.Failed() { // the rest of a test that failed was not run
			for _, l := range w.Leaks() {
				tb.Errorf("left behind: %s", l)
			}
		}
		if err := w.destroy(); err != nil {
			tb.Errorf("clean up: %v", err)
		}
	})
	return w
}

// Shared makes a world for what the tests of a package share, and gives what ends and removes it. When the tests are cut off
// before that, the next Sweep does it.
func Shared() (*World, func() error, error) {
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return nil, nil, err
	}
	w := in(dir, dir)
	claim, err := w.claim()
	if err != nil {
		return nil, nil, err
	}
	return w, func() error { return errors.Join(w.destroy(), claim.Close()) }, nil
}

// dirPrefix begins the names of the directories of worlds.
const dirPrefix = "ctrd-world-"

func in(dir, bin string) *World {
	return &World{dir, filepath.Join(dir, "root"), filepath.Join(dir, "state"), bin, nil}
}

// Environ is this process's environment with the world's directories and commands.
func (w *World) Environ(more ...string) []string {
	own := append([]string{"PATH=" + w.Bin + ":" + os.Getenv("PATH"), "CTRD_ROOT=" + w.Root, "CTRD_STATE=" + w.State}, w.Env...)
	return slices.Concat(os.Environ(), own, more)
}

// Result is how a command ended and what it printed.
type Result struct {
	Args           []string
	Stdout, Stderr string
	Status         int // -1: a signal ended it
	Signal         syscall.Signal
	Took           time.Duration
}

// String tells all of it, for a failure.
func (r Result) String() string {
	how := fmt.Sprintf("status %d", r.Status)
	if r.Signal != 0 {
		how = r.Signal.String()
	}
	return fmt.Sprintf("%s: %s after %s\n%s%s", strings.Join(r.Args, " "), how, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// Patience is how long a command may take. One that takes longer hangs, and the test fails.
const Patience = 90 * time.Second

// Command prepares a command of the world, or by an absolute path another program; env is added to its environment.
func (w *World) Command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	path := args[0]
	if !filepath.IsAbs(path) {
		path = filepath.Join(w.Bin, path)
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Env = w.Environ(env...)
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a command to its end, however that is.
func (w *World) Run(tb testing.TB, env []string, args ...string) Result {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := w.Command(ctx, env, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	if cmd.ProcessState == nil {
		tb.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	r := Result{args, out.String(), errs.String(), cmd.ProcessState.ExitCode(), 0, time.Since(began)}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		r.Signal = ws.Signal()
	}
	if ctx.Err() != nil {
		tb.Fatalf("it hangs: %s", r)
	}
	return r
}

// Must runs a command that succeeds and gives what it printed.
func (w *World) Must(tb testing.TB, args ...string) string {
	tb.Helper()
	return w.Want(tb, 0, args...)
}

// Want runs a command that ends with the given status and gives what it printed.
func (w *World) Want(tb testing.TB, status int, args ...string) string {
	tb.Helper()
	r := w.Run(tb, nil, args...)
	if r.Status != status {
		tb.Fatalf("want status %d: %s", status, r)
	}
	return r.Stdout
}

// Fields are the words that a command prints.
func (w *World) Fields(tb testing.TB, args ...string) []string {
	tb.Helper()
	return strings.Fields(w.Must(tb, args...))
}

// Whole wants fsck to find no broken invariant.
func (w *World) Whole(tb testing.TB) {
	tb.Helper()
	w.Must(tb, "ctrd", "fsck")
}

// settleFor bounds what ends by itself: a supervisor whose starter died looks once a second.
const settleFor = 15 * time.Second

// Settle waits until nothing of the world is left but what is stored.
func (w *World) Settle(tb testing.TB) {
	tb.Helper()
	until(tb, settleFor, w.Leaks)
}

func until(tb testing.TB, limit time.Duration, left func() []string) {
	tb.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		l := left()
		if len(l) == 0 {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("left behind:\n%s", strings.Join(l, "\n"))
		}
	}
}

// Empty removes every container, snapshot and image of the namespace default, and wants nothing to be
// left of them: no process, no mount, no file.
func (w *World) Empty(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat(filepath.Join(w.State, "pods")); err == nil {
		w.Must(tb, "ctr-cri", "rmp", "-f", "-a")
		w.Must(tb, "ctr-cri", "rmi", "-a")
	}
	for _, id := range w.Fields(tb, "ctr-task", "ls", "-q") {
		w.Must(tb, "ctr-task", "rm", "-f", id)
	}
	// The cgroup of the supervisors may stay, empty, until a collection: on a busy machine the last one ends late.
	until(tb, settleFor, func() []string {
		return slices.DeleteFunc(w.Leaks(), func(l string) bool {
			return strings.HasPrefix(l, "cgroup ") && strings.HasSuffix(l, "/"+w.Prefix()+"--shims")
		})
	})
	w.Must(tb, "ctrd", "gc")
	w.Settle(tb)
	w.Must(tb, append([]string{"ctr-image", "rm", "-f", "none"}, w.Fields(tb, "ctr-image", "ls", "-q")...)...)
	keys := w.Fields(tb, "ctr-snap", "ls", "-q")
	for len(keys) > 0 { // children go before their parents
		n := len(keys)
		keys = slices.DeleteFunc(keys, func(key string) bool { return w.Run(tb, nil, "ctr-snap", "rm", key).Status == 0 })
		if len(keys) == n {
			tb.Fatalf("none of these snapshots can be removed: %v", keys)
		}
	}
	if found := w.Must(tb, "ctrd", "fsck"); found != "" {
		tb.Fatalf("after everything was removed, fsck finds\n%s", found)
	}
	until(tb, 2*time.Second, w.Residue)
}

// destroy ends and removes whatever is left, by force.
func (w *World) destroy() error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		pids := w.Processes()
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			w.end(pid)
		}
		w.thaw()
	}
	for _, m := range slices.Backward(hostMounts(w.Dir)) {
		syscall.Unmount(m, syscall.MNT_DETACH)
	}
	var errs []error
	for _, c := range slices.Backward(w.Cgroups()) {
		errs = append(errs, os.Remove(c))
	}
	return errors.Join(append(errs, os.RemoveAll(w.Dir))...)
}
