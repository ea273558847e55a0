// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// start runs a script below the first process of a PID namespace, or of this one.
func start(t *testing.T, namespace bool, script string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "pid1", "--", "sh", "-c", script)
	cmd.Stderr = os.Stderr
	if namespace {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, bufio.NewReader(out)
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	text, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

func TestStatus(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		want   int
		stderr string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "kill -KILL $$"}, 137, ""},
		{[]string{"sh", "-c", "kill -TERM $$"}, 143, ""},
		{[]string{"/no/such/program"}, 127, "ctr-init: exec /no/such/program: No such file or directory\n"},
		{[]string{plain}, 126, "ctr-init: exec " + plain + ": Permission denied\n"},
		{[]string{strings.Repeat("x", 5000)}, 126, ""},
	} {
		cmd := exec.Command("/proc/self/exe", append([]string{"pid1", "--"}, c.args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != c.want {
			t.Errorf("%.20q: status %d, want %d", c.args, got, c.want)
		}
		if c.stderr != "" && stderr.String() != c.stderr {
			t.Errorf("%q: %q, want %q", c.args, stderr.String(), c.stderr)
		}
	}
}

// TestSignals passes on each signal that a program may want, once. A shell that is told just before it waits sees to it when that has ended.
func TestSignals(t *testing.T) {
	// A shell cannot trap what was ignored before it, as HUP is below nohup.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	cmd, out := start(t, true, `for s in HUP INT QUIT USR1 USR2 TERM WINCH CONT 34 64; do trap "echo $s" $s; done; echo ready; while :; do sleep 0.1 & wait; done`)
	if got := line(t, out); got != "ready" {
		t.Fatal(got)
	}
	for _, s := range []struct {
		name string
		sig  syscall.Signal
	}{
		{"HUP", syscall.SIGHUP}, {"INT", syscall.SIGINT}, {"QUIT", syscall.SIGQUIT}, {"USR1", syscall.SIGUSR1}, {"USR2", syscall.SIGUSR2},
		{"TERM", syscall.SIGTERM}, {"WINCH", syscall.SIGWINCH}, {"CONT", syscall.SIGCONT}, {"34", 34}, {"64", 64},
	} {
		if err := cmd.Process.Signal(s.sig); err != nil {
			t.Fatal(err)
		}
		if got := line(t, out); got != s.name {
			t.Errorf("%s: %q", s.name, got)
		}
	}
}

// TestReap leaves orphans to the first process, also where it is not process 1, and waits until all that ended
// have been taken.
func TestReap(t *testing.T) {
	for _, namespace := range []bool{true, false} {
		cmd, out := start(t, namespace, `for i in 1 2 3 4 5; do (sh -c 'exec true' & exec true) & done; wait; echo ready; exec sleep 1000`)
		line(t, out)
		self := strconv.Itoa(cmd.Process.Pid)
		var children string
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			text, err := os.ReadFile("/proc/" + self + "/task/" + self + "/children")
			if err != nil {
				t.Fatal(err)
			}
			if children = string(text); len(strings.Fields(children)) == 1 {
				break
			}
		}
		if len(strings.Fields(children)) != 1 {
			t.Errorf("namespace %v: children %q", namespace, children)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 143 {
			t.Errorf("status %d", got)
		}
	}
}

// TestSmall bounds what is resident for as long as the container lives.
func TestSmall(t *testing.T) {
	cmd, out := start(t, true, `echo ready; exec sleep 1000`)
	line(t, out)
	text, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "Threads:\t1\n") {
		t.Errorf("%s", text)
	}
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, "RssAnon") {
			kib, _ := strconv.Atoi(strings.Fields(l)[1])
			if kib > 512 {
				t.Errorf("%s", l)
			}
			t.Log(strings.TrimSpace(l))
		}
	}
}
