// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/engine/ask"
)

// without is a profile that refuses a system call.
func without(names ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: names, Action: specs.ActErrno}},
	}
}

// tries says what a container with that profile may do, and a process that is started in it.
func tries(t *testing.T, dir string, profile *specs.LinuxSeccomp) string {
	t.Helper()
	const try = "busybox mkdir /tmp/d 2>/dev/null && busybox rmdir /tmp/d && echo mkdir;" +
		"busybox ln -s x /tmp/l 2>/dev/null && busybox rm /tmp/l && echo ln; busybox grep Seccomp: /proc/self/status"
	b := newBundle(t, ask.Engine{}, "sh", "-c", "until [ -e /tmp/go ]; do sleep 0.01; done; "+try)
	b.filters, b.spec.Linux.Seccomp = dir, profile
	o, err := b.create()
	must(t, err)
	must(t, b.start())
	pid, exec, err := b.exec(&specs.Process{Args: []string{"sh", "-c", try + "; : >/tmp/go"}, Env: b.spec.Process.Env, Cwd: "/"})
	must(t, err)
	b.wait(pid)
	inExec := exec.all()
	b.wait(b.made.Pid)
	out := o.all()
	if inExec != out {
		t.Errorf("init may do %q, an exec %q", out, inExec)
	}
	if !strings.HasSuffix(out, "Seccomp:\t2\n") {
		t.Errorf("no filter: %q", out)
	}
	return strings.Join(strings.Fields(out[:strings.Index(out+"Seccomp", "Seccomp")]), " ")
}

func TestFiltersAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "filters")
	files := func() []string {
		all, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		return all
	}
	noMkdir, noSymlink := without("mkdir", "mkdirat"), without("symlink", "symlinkat")
	for i := range 2 {
		if got := tries(t, dir, noMkdir); got != "ln" {
			t.Fatalf("start %d without mkdir: may %q", i, got)
		}
		if n := len(files()); n != 1 {
			t.Fatalf("start %d: %d filters are kept", i, n)
		}
	}
	first := files()[0]
	compiled, err := os.ReadFile(first)
	must(t, err)
	if got := tries(t, dir, noSymlink); got != "mkdir" {
		t.Fatalf("without symlink: may %q", got)
	}
	if got := tries(t, "", noMkdir); got != "ln" {
		t.Fatalf("with nothing kept: may %q", got)
	}
	if n := len(files()); n != 2 {
		t.Fatalf("%d filters are kept of two profiles", n)
	}
	// What is kept is what is loaded.
	for _, f := range files() {
		if f != first {
			other, err := os.ReadFile(f)
			must(t, err)
			must(t, os.WriteFile(first, other, 0o600))
		}
	}
	if got := tries(t, dir, noMkdir); got != "mkdir" {
		t.Errorf("the kept filter was not used: may %q", got)
	}
	// What cannot be a filter is compiled again.
	for _, damaged := range [][]byte{nil, compiled[:len(compiled)-1], make([]byte, 4097*8)} {
		must(t, os.WriteFile(first, damaged, 0o600))
		if got := tries(t, dir, noMkdir); got != "ln" {
			t.Errorf("with a damaged file: may %q", got)
		}
		if now, err := os.ReadFile(first); err != nil || string(now) != string(compiled) {
			t.Errorf("a damaged file of %d bytes stays: %v", len(damaged), err)
		}
	}
}

// TestFiltersAreBounded: who gives each container its own profile fills no memory.
func TestFiltersAreBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 64 {
		must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("x", i+1)), nil, 0o600))
	}
	if got := tries(t, dir, without("mkdir", "mkdirat")); got != "ln" {
		t.Errorf("may %q", got)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 64 {
		t.Errorf("%d files, %v", len(all), err)
	}
}
