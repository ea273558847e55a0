// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestVerbRun(t *testing.T) {
	volume := t.TempDir()
	if err := os.WriteFile(filepath.Join(volume, "script"), []byte("no shebang and no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, stdin     string
		options         []string
		command         []string
		status          int
		stdout, problem string
	}{
		{name: "success", command: []string{"true"}},
		{name: "status", command: []string{"sh", "-c", "exit 7"}, status: 7},
		{name: "killed", options: []string{"--init"}, command: []string{"sh", "-c", "kill -9 $$"}, status: 137},
		{name: "streams", command: []string{"sh", "-c", "echo out; echo err >&2"}, stdout: "out\n", problem: "err\n"},
		{name: "stdin", options: []string{"-i"}, command: []string{"wc", "-c"}, stdin: strings.Repeat("x", 1<<20), stdout: "1048576\n"},
		{name: "options", options: []string{"-e", "A=b", "-w", "/tmp", "--hostname", "box", "-u", "65534:5"},
			command: []string{"sh", "-c", "echo $A $PWD $(hostname) $(id -u):$(id -g)"}, stdout: "b /tmp box 65534:5\n"},
		{name: "volume", options: []string{"-v", volume + ":/v:ro"}, command: []string{"sh", "-c", "cat /v/script; touch /v/x 2>/dev/null || echo; echo read-only"}, stdout: "no shebang and no program\nread-only\n"},
		{name: "read-only", options: []string{"--read-only"}, command: []string{"sh", "-c", "touch /x 2>/dev/null || echo refused"}, stdout: "refused\n"},
		{name: "seccomp", command: []string{"grep", "Seccomp:", "/proc/self/status"}, stdout: "Seccomp:\t2\n"},
		{name: "host-network", options: []string{"--net", "host"}, command: []string{"sh", "-c", "ls /sys/class/net | grep -c lo"}, stdout: "1\n"},
		{name: "missing", command: []string{"no-such-program"}, status: 127, problem: "no-such-program"},
		{name: "forbidden", command: []string{"/etc/passwd"}, status: 126, problem: "/etc/passwd"},
		{name: "no-device", options: []string{"--device", "/dev/none"}, command: []string{"true"}, status: 125, problem: "/dev/none"},
		{name: "no-image", command: nil, status: 125, problem: "none:1"},
	}
	withEngine(t, func(t *testing.T, b box) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				args := b.args("run", append([]string{"--rm"}, test.options...)...)
				if test.command == nil {
					args = append(args, registry+"/none:1")
				} else {
					args = append(append(args, busybox), test.command...)
				}
				r := b.feed(t, test.stdin, args...)
				if r.status != test.status || r.stdout != test.stdout || !strings.Contains(r.stderr, test.problem) || test.problem == "" && r.stderr != "" {
					t.Errorf("want status %d, stdout %q, stderr with %q: %s", test.status, test.stdout, test.problem, r)
				}
				b.Settle(t)
				if left := b.Must(t, "ctr-task", "ls", "-q"); left != "" {
					t.Errorf("containers are left: %s", left)
				}
			})
		}
	})
}

// TestVerbs takes one container through its life with every verb.
func TestVerbs(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		const script = `echo begun; trap "echo asked; exit 5" TERM; touch /ready; while :; do sleep 0.05; done`
		if got := b.Must(t, b.args("create", "--name", "c", busybox, "sh", "-c", script)...); got != "c\n" {
			t.Errorf("create prints %q", got)
		}
		b.awaitStatus(t, "c", "created")
		b.Must(t, "ctr-task", "rename", "c", "other")
		if r := b.Run(t, nil, "ctr-task", "start", "c"); r.Status != 3 {
			t.Errorf("start by the old name: %s", r)
		}
		b.Must(t, "ctr-task", "rename", "other", "c")
		b.Must(t, "ctr-task", "start", "c")
		b.awaitStatus(t, "c", "running")
		b.awaitOutput(t, "c", "begun\n")
		until(t, "the trap is set", func() error {
			if r := b.Run(t, nil, "ctr-task", "exec", "c", "test", "-e", "/ready"); r.Status != 0 {
				return errors.New(r.String())
			}
			return nil
		})
		if r := b.Run(t, nil, "ctr-task", "start", "c"); r.Status == 0 {
			t.Errorf("started twice: %s", r)
		}
		if got := b.Must(t, "ctr-task", "inspect", "c"); !strings.Contains(got, `"running"`) {
			t.Errorf("inspect: %s", got)
		}
		if got := b.Must(t, "ctr-task", "top", "c"); !strings.Contains(got, "touch /ready") {
			t.Errorf("top: %s", got)
		}
		if got := b.Must(t, "ctr-task", "stats", "c"); !strings.HasPrefix(got, "c\t") {
			t.Errorf("stats: %s", got)
		}
		b.Must(t, "ctr-task", "update", "--memory", "64m", "--pids-limit", "77", "c")
		for file, want := range map[string]string{"memory.limit_in_bytes": "67108864", "pids.max": "77"} {
			if got := b.setting(t, "c", file); got != want {
				t.Errorf("after update %s is %q, want %q", file, got, want)
			}
		}
		b.Must(t, "ctr-task", "pause", "c")
		b.awaitStatus(t, "c", "paused")
		b.Must(t, "ctr-task", "resume", "c")
		b.awaitStatus(t, "c", "running")
		if r := b.Run(t, nil, "ctr-task", "rm", "c"); r.Status != 5 {
			t.Errorf("rm of a running one: %s", r)
		}
		b.Must(t, "ctr-task", "restart", "c")
		b.awaitOutput(t, "c", "begun\nasked\nbegun\n")
		until(t, "the trap is set again", func() error {
			if r := b.Run(t, nil, "ctr-task", "exec", "c", "grep", "-q", "SigCgt:.*4", "/proc/1/status"); r.Status != 0 {
				return errors.New(r.String())
			}
			return nil
		})
		b.Must(t, "ctr-task", "kill", "-s", "TERM", "c")
		if got := b.Want(t, 5, "ctr-task", "wait", "c"); got != "5\n" {
			t.Errorf("wait prints %q", got)
		}
		b.awaitStatus(t, "c", "stopped (5)")
		b.awaitOutput(t, "c", "begun\nasked\nbegun\nasked\n")
		if r := b.Run(t, nil, "ctr-task", "exec", "c", "true"); r.Status != 125 {
			t.Errorf("exec after the end: %s", r)
		}
		b.Must(t, "ctr-task", "start", "c")
		b.Must(t, "ctr-task", "rm", "-f", "c")
	})
}

type execTest struct {
	name, stdin string
	args        []string
	status      int
	stdout      string
}

func TestVerbExec(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		b.background(t, "c", "sleep 1000")
		for _, test := range []execTest{
			{name: "success", args: []string{"c", "true"}},
			{name: "status", args: []string{"c", "sh", "-c", "exit 7"}, status: 7},
			{name: "killed", args: []string{"c", "sh", "-c", "kill -9 $$"}, status: 137},
			{name: "output", args: []string{"c", "sh", "-c", "echo out"}, stdout: "out\n"},
			{name: "large", args: []string{"c", "sh", "-c", "head -c 4000000 /dev/zero | tr '\\0' x"}, stdout: strings.Repeat("x", 4000000)},
			{name: "stdin", args: []string{"-i", "c", "wc", "-c"}, stdin: strings.Repeat("x", 3000000), stdout: "3000000\n"},
			{name: "options", args: []string{"-e", "A=1", "-w", "/tmp", "-u", "5:6", "c", "sh", "-c", "echo $A $PWD $(id -u):$(id -g)"}, stdout: "1 /tmp 5:6\n"},
			{name: "missing", args: []string{"c", "no-such-program"}, status: 127},
			{name: "forbidden", args: []string{"c", "/etc/passwd"}, status: 126},
		} {
			r := b.feed(t, test.stdin, append([]string{"ctr-task", "exec"}, test.args...)...)
			if r.status != test.status || r.stdout != test.stdout {
				r.stdout = r.stdout[:min(len(r.stdout), 200)]
				t.Errorf("%s: want status %d and %d bytes: %s", test.name, test.status, len(test.stdout), r)
			}
			if told := r.stderr != ""; told != (test.status == 126 || test.status == 127) {
				t.Errorf("%s: stderr is %q", test.name, r.stderr)
			}
		}
		b.awaitStatus(t, "c", "running")
	})
}

// TestVerbExecs: of many execs at once none loses its input, or the last of its output.
func TestVerbExecs(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		b.background(t, "c", "sleep 1000")
		text := strings.Repeat("x", 30000)
		var execs sync.WaitGroup
		for range 4 {
			execs.Go(func() {
				for range 10 {
					if r := b.feed(t, "", "ctr-task", "exec", "c", "echo", "out"); r.stdout != "out\n" {
						t.Errorf("output %q: %s", r.stdout, r)
					}
					if r := b.feed(t, text, "ctr-task", "exec", "-i", "c", "cat"); r.stdout != text {
						t.Errorf("%d bytes of %d come back: status %d, %s", len(r.stdout), len(text), r.status, r.stderr)
					}
				}
			})
		}
		execs.Wait()
	})
}

func TestVerbTerminal(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
		defer cancel()
		terminal := func(args ...string) *terminal { return onTerminal(t, b.Command(ctx, []string{"TERM=xterm"}, args...)) }
		// The size is there before the program is.
		s := terminal(b.args("run", "--rm", "-it", busybox, "stty", "size")...)
		if status := s.end(t); status != 0 {
			t.Errorf("status %d", status)
		}
		s.await(t, "44 99")
		converse(t, terminal(b.args("run", "--rm", "-it", busybox, "sh")...))

		b.background(t, "host", "sleep 1000")
		size := "stty size"
		if b.name == "crun" { // it starts an exec before it gives the terminal away
			size = "until stty size | grep .; do sleep 0.01; done"
		}
		s = terminal("ctr-task", "exec", "-it", "host", "sh", "-c", size)
		s.end(t)
		s.await(t, "44 99")
		converse(t, terminal("ctr-task", "exec", "-it", "host", "sh"))

		// Detached from, and attached to again.
		s = terminal(b.args("run", "-it", "--name", "c", busybox, "sh")...)
		s.enter(t, "echo fi''rst")
		s.await(t, "first")
		if _, err := s.file.WriteString("\x10\x11"); err != nil {
			t.Fatal(err)
		}
		if status := s.end(t); status != 0 {
			t.Errorf("detached with status %d: %q", status, s.shown())
		}
		b.awaitStatus(t, "c", "running")
		s = terminal("ctr-task", "attach", "c")
		s.enter(t, "echo sec''ond; exit 3")
		s.await(t, "second")
		if status := s.end(t); status != 3 {
			t.Errorf("attached, status %d: %q", status, s.shown())
		}
	})
}

// TestVerbStop: the stop signal, its grace, KILL.
func TestVerbStop(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		b.background(t, "polite", `trap "exit 4" INT; echo ready; while :; do sleep 0.05; done`, "--stop-signal", "INT")
		b.background(t, "deaf", `trap "echo no" TERM; echo ready; while :; do sleep 0.05; done`)
		b.awaitOutput(t, "polite", "ready\n")
		b.awaitOutput(t, "deaf", "ready\n")
		b.Must(t, "ctr-task", "stop", "polite")
		b.Must(t, "ctr-task", "stop", "-t", "1", "deaf")
		b.awaitStatus(t, "polite", "stopped (4)")
		b.awaitStatus(t, "deaf", "stopped (137)")
		b.awaitOutput(t, "deaf", "ready\nno\n")

		// A paused one is stopped too.
		b.background(t, "paused", "sleep 1000")
		b.Must(t, "ctr-task", "pause", "paused")
		b.Must(t, "ctr-task", "stop", "-t", "1", "paused")
		if got := b.status(t, "paused"); !strings.HasPrefix(got, "stopped") {
			t.Errorf("it is %q", got)
		}
		b.background(t, "frozen", "sleep 1000")
		b.Must(t, "ctr-task", "pause", "frozen")
		b.Must(t, "ctr-task", "rm", "-f", "frozen")
	})
}

// TestVerbWait: waiters that were there and that come late learn the same, and output is complete for both.
func TestVerbWait(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		b.background(t, "c", "while ! test -e /end; do sleep 0.05; done; seq 1 5000; exit 3")
		const n = 5
		answers := make(chan string, n)
		for range n {
			go func() {
				out, err := b.Command(context.Background(), nil, "ctr-task", "wait", "c").CombinedOutput()
				answers <- fmt.Sprint(string(out), err)
			}()
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		follow := b.Command(ctx, nil, "ctr-task", "logs", "-f", "c")
		var followed bytes.Buffer
		follow.Stdout = &followed
		if err := follow.Start(); err != nil {
			t.Fatal(err)
		}
		b.Must(t, "ctr-task", "exec", "c", "touch", "/end")
		for range n {
			if got := <-answers; got != "3\nexit status 3" {
				t.Errorf("wait: %q", got)
			}
		}
		if err := follow.Wait(); err != nil || strings.Count(followed.String(), "\n") != 5000 {
			t.Errorf("logs -f: %v, %d lines", err, strings.Count(followed.String(), "\n"))
		}
		if got := b.Want(t, 3, "ctr-task", "wait", "c"); got != "3\n" {
			t.Errorf("a late wait: %q", got)
		}
		if got := b.Must(t, "ctr-task", "logs", "--tail", "1", "c"); got != "5000\n" {
			t.Errorf("logs: %q", got)
		}

		// Nobody waits when this ends, and its status is not lost.
		b.background(t, "alone", "exit 6")
		if got := b.Want(t, 6, "ctr-task", "wait", "alone"); got != "6\n" {
			t.Errorf("wait: %q", got)
		}
		b.awaitStatus(t, "alone", "stopped (6)")
	})
}
