// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/taskapi"
)

// closeEntry has execs come into the container by an engine alone.
func (k *task) closeEntry() {
	k.Helper()
	must(k, os.Remove(filepath.Join(k.dir, "engine", k.id, "entry.json")))
}

// say runs a program in the container and gives what it writes.
func (k *task) say(id string, terminal bool, args ...string) string {
	k.Helper()
	e := k.exec(id, terminal, false, args...)
	must(k, e.start())
	if e.stderr != nil {
		defer e.stderr.Close()
	}
	defer e.stdout.Close()
	text, err := io.ReadAll(e.stdout)
	must(k, err)
	if status := e.wait(); status != 0 {
		k.Errorf("%s: exit status %d", args, status)
	}
	e.del()
	return string(text)
}

// TestExecWithoutEngine: no engine is started for an exec, until one is needed.
func TestExecWithoutEngine(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.env = []string{"CTRD_CRASH=engine.exec.started"}
	k.start()
	if got := k.say("x", false, "echo", "hello"); got != "hello\n" {
		t.Errorf("%q", got)
	}
	k.closeEntry()
	e := k.exec("y", false, false, "true")
	defer e.stdout.Close()
	defer e.stderr.Close()
	if err := e.start(); err == nil || !strings.Contains(err.Error(), "engine died") {
		t.Errorf("exec by an engine: %v", err)
	}
	k.finish()
}

// finish ends the container.
func (k *task) finish() {
	k.Helper()
	must(k, k.client.Kill(k.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.wait()
	k.nothingLeft()
}

// TestExecIsTheSame: a process that has come into the container without an engine is as one that has come by one.
func TestExecIsTheSame(t *testing.T) {
	script := `cat /proc/self/status /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj /proc/self/attr/current 2>/dev/null
		env; pwd; id; umask; ls /proc/self/fd; for n in /proc/self/ns/*; do readlink $n; done; grep -o "_ses.$KEYS: .*" /proc/keys`
	soft := func(n uint64) []specs.POSIXRlimit {
		return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 2 * n, Soft: n}}
	}
	for name, change := range map[string]func(*task){
		"plain": func(*task) {},
		"user": func(k *task) {
			p := k.spec.Process
			p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}}
			p.NoNewPrivileges, p.Env, p.Cwd = true, []string{"PATH=/bin", "A=b", "HOME=/tmp"}, "/bin"
			p.Rlimits = soft(100)
		},
		"privileges": func(k *task) {
			p := k.spec.Process
			p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_CHOWN"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}}
			score := 321
			p.OOMScoreAdj = &score
			p.Rlimits = soft(1000)
			mask := uint32(0o27)
			p.User.Umask = &mask
		},
		"seccomp": func(k *task) {
			k.args = append(k.args, "-root", k.T.TempDir(), "-state", k.T.TempDir())
			must(k, spec.WithSeccomp(k.spec))
			k.spec.Process.NoNewPrivileges = true
		},
	} {
		for _, terminal := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " on a terminal"}[terminal], func(t *testing.T) {
				k := newTask(t, "sleep", "1000")
				change(k)
				k.spec.Process.Env = append(k.spec.Process.Env, "KEYS="+k.id)
				k.start()
				alone := k.say("x", terminal, "sh", "-c", script)
				k.closeEntry()
				byEngine := k.say("y", terminal, "sh", "-c", script)
				a, b := constant(alone), constant(byEngine)
				if len(a) != len(b) || len(a) < 50 {
					t.Errorf("without an engine:\n%q\nby an engine:\n%q", a, b)
				}
				for i := range min(len(a), len(b)) {
					if a[i] != b[i] {
						t.Errorf("without an engine %q, by an engine %q", a[i], b[i])
					}
				}
				k.finish()
			})
		}
	}
}

// changing are lines that differ from one process to the next.
var changing = regexp.MustCompile(`(?m)^(SigQ|Ngid|Tgid|Pid|PPid|NStgid|NSpid|NSpgid|NSsid|Vm\w+|Rss\w+|\w+_ctxt_switches|SHLVL|Speculation\w*|x86\w*|Mems_allowed\w*):?.*\n`)

func constant(text string) []string {
	return strings.Split(changing.ReplaceAllString(strings.ReplaceAll(text, "\r\n", "\n"), ""), "\n")
}

// TestEndBesideFrozenExec: an exec that stands still on its way into the container keeps neither the supervisor nor the end of the
// container from going on.
func TestEndBesideFrozenExec(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	must(t, cgroup.Freeze(t.Context(), k.spec.Linux.CgroupsPath))
	e := k.exec("x", false, false, "true")
	defer e.stdout.Close()
	defer e.stderr.Close()
	started := make(chan error, 1)
	go func() { started <- e.start() }()
	k.until("the process", func() bool {
		for _, p := range processesOf(k.id) {
			if strings.Contains(p, "ctr-shim init") {
				return true
			}
		}
		return len(cgroupPids(k)) > 1
	})
	select {
	case err := <-started:
		t.Fatalf("a process has come into a frozen cgroup: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := k.client.State(t.Context(), &taskapi.StateRequest{ID: k.id}); err != nil {
		t.Error(err)
	}
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	must(t, cgroup.Thaw(k.spec.Linux.CgroupsPath))
	if got := k.wait(); got.Status != 137 {
		t.Errorf("exit %+v", got)
	}
	<-started
	k.nothingLeft()
}

// TestEndBesideHeldProgram: an exec whose program nobody can open for now, as on a file system whose server does not answer, keeps neither the
// supervisor nor the end of the container from going on.
func TestEndBesideHeldProgram(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	path := filepath.Join(k.state, "lower/bin/held")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	// Whoever opens the file waits until the lease is given back, for at most /proc/sys/fs/lease-break-time.
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	must(t, err)
	e := k.exec("x", false, false, "held")
	defer e.stdout.Close()
	defer e.stderr.Close()
	started := make(chan error, 1)
	go func() { started <- e.start() }()
	k.until("somebody opens the program", func() bool {
		lease, err := unix.FcntlInt(f.Fd(), unix.F_GETLEASE, 0)
		return err != nil || lease != unix.F_WRLCK
	})
	if _, err := k.client.State(t.Context(), &taskapi.StateRequest{ID: k.id}); err != nil {
		t.Error(err)
	}
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	if got := k.wait(); got.Status != 137 {
		t.Errorf("exit %+v", got)
	}
	if err := <-started; err == nil || !strings.Contains(err.Error(), "its container has ended") {
		t.Errorf("the exec: %v", err)
	}
	k.nothingLeft()
}

func cgroupPids(k *task) []int {
	pids, err := cgroup.Pids(k.spec.Linux.CgroupsPath)
	must(k, err)
	return pids
}
