// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ctrd.dev/ctrd/test/world"
)

// engine is what ctr-task runs containers with: a shim, and the OCI engine behind ours.
type engine struct {
	name    string
	runtime string // what --runtime is given; empty: the option is left out
	foreign bool   // a shim that is not ours
}

// engines lists all that are there: crun is not in every distribution, and old ones refuse today's specifications.
func engines(t *testing.T) []engine {
	t.Helper()
	all := []engine{
		{name: "ctr"},
		{name: "runc", runtime: filepath.Join(peers, "runc")},
		{name: "shim-runc-v2", runtime: "io.containerd.runc.v2", foreign: true},
	}
	dir := os.Getenv("CTRD_ENGINES")
	if dir == "" {
		dir = filepath.Join(top, "build/engines")
	}
	if _, err := os.Stat(filepath.Join(dir, "crun")); err != nil {
		t.Run("crun", func(t *testing.T) { t.Skipf("no recent crun in %s: scripts/getcrun brings one", dir) })
		return all
	}
	return append(all, engine{name: "crun", runtime: world.WithoutHybrid(t, filepath.Join(dir, "crun"))})
}

// box is a world with an image, and the engine that its containers are to have.
type box struct {
	*world.World
	engine
}

// withEngine runs a test once for each engine, each in a new world, and wants nothing to be left behind.
func withEngine(t *testing.T, test func(t *testing.T, b box)) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			b := box{world.New(t, bin), e}
			b.Must(t, "ctr-pull", "-q", busybox)
			test(t, b)
			if !t.Failed() {
				b.Empty(t)
			}
		})
	}
}

// args are those of `ctr-task run` and create with the engine.
func (b box) args(verb string, args ...string) []string {
	all := []string{"ctr-task", verb}
	if b.runtime != "" {
		all = append(all, "--runtime", b.runtime)
	}
	return append(all, args...)
}

// background starts a container that runs a shell script.
func (b box) background(t *testing.T, id, script string, options ...string) {
	t.Helper()
	b.Must(t, b.args("run", append(append([]string{"-d", "--name", id}, options...), busybox, "sh", "-c", script)...)...)
}

// feed runs a command with a text on its stdin.
func (b box) feed(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := b.Command(ctx, nil, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(t, ctx, cmd)
}

// status is what `ctr-task ls` says of a container.
func (b box) status(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(b.Must(t, "ctr-task", "ls", "-o", "id,status")) {
		if name, status, _ := strings.Cut(strings.TrimSpace(line), "\t"); name == id {
			return status
		}
	}
	return ""
}

func (b box) awaitStatus(t *testing.T, id, want string) {
	t.Helper()
	until(t, id+" is "+want, func() error {
		if got := b.status(t, id); got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// awaitOutput waits until a container's log is a text.
func (b box) awaitOutput(t *testing.T, id, want string) {
	t.Helper()
	until(t, "the log of "+id, func() error {
		if got := b.Must(t, "ctr-task", "logs", id); got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// setting reads a file of a container's cgroup.
func (b box) setting(t *testing.T, id, file string) string {
	t.Helper()
	for _, c := range b.Cgroups() {
		if strings.HasSuffix(c, "--"+id) {
			return setting(t, filepath.Base(c), file)
		}
	}
	t.Fatalf("%s has no cgroup", id)
	return ""
}

// signal signals the one supervisor there is. A foreign shim has a logging program of ours beside it.
func (b box) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	var found []int
	for _, pid := range b.Processes() {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if strings.Contains(filepath.Base(exe), "shim") && strings.Contains(commandOf(pid), "-namespace") {
			found = append(found, pid)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the supervisors are %v", found)
	}
	if err := syscall.Kill(found[0], sig); err != nil {
		t.Fatal(err)
	}
}
