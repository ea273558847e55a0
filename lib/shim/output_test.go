// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"encoding/json"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskapi"
)

// loggingProgram makes a logging program that writes down its arguments, environment and input.
func (k *task) loggingProgram(ready string) (path, record string) {
	k.Helper()
	path, record = filepath.Join(k.state, "logger"), filepath.Join(k.state, "logged")
	text := "#!/bin/sh\nexec 6>'" + record + "'\necho \"$# $* $CONTAINER_ID $CONTAINER_NAMESPACE\" >&6\n" + ready + "\nexec 5>&-\ncat <&3 >&6\ncat <&4 >&6\necho end >&6\n"
	must(k, os.WriteFile(path, []byte(text), 0o755))
	return path, record
}

// TestBinaryOutput: a logging program gets arguments, environment and both outputs, and has read them to their
// end when the exit is recorded.
func TestBinaryOutput(t *testing.T) {
	for _, scheme := range []string{"binary", "binary-v2"} {
		for _, terminal := range []bool{false, true} {
			k := newTask(t, "sh", "-c", "echo out; echo err >&2")
			k.spec.Process.Terminal = terminal
			ready := ":"
			if scheme == "binary-v2" {
				ready = "echo >&5"
			}
			program, record := k.loggingProgram(ready)
			r := k.request()
			r.Stdout, r.Stderr = scheme+"://"+program+"?key=a%20value", ""
			k.serve()
			k.createAndStart(r)
			k.wait()
			want := "2 key a value " + k.id + " " + namespace + "\nout\nerr\nend\n"
			b, err := os.ReadFile(record)
			if got := strings.ReplaceAll(string(b), "\r", ""); got != want || err != nil {
				t.Errorf("%s, terminal %v: %q, %v", scheme, terminal, got, err)
			}
			k.nothingLeft()
		}
	}
	k := newTask(t, "true")
	program, _ := k.loggingProgram(":")
	r := k.request()
	r.Stdout, r.Stderr = "binary-v2://"+program, ""
	k.serve()
	if _, err := k.client.Create(t.Context(), r); err == nil || !strings.Contains(err.Error(), "before it was ready") {
		t.Errorf("a program that is not ready: %v", err)
	}
	<-k.gone
	k.nothingLeft()
}

// TestLoggerThatIsNotReady: a logging program that says that it will not be ready, and stays, is killed.
func TestLoggerThatIsNotReady(t *testing.T) {
	k := newTask(t, "true")
	program, record := k.loggingProgram("echo $$ >&6\nexec 5>&-\nexec sleep 1000")
	r := k.request()
	r.Stdout, r.Stderr = "binary-v2://"+program, ""
	k.serve()
	if _, err := k.client.Create(t.Context(), r); err == nil {
		t.Error("created")
	}
	b, err := os.ReadFile(record)
	must(t, err)
	pid := strings.Fields(string(b))[3]
	k.until("the end of the program", func() bool {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	<-k.gone
	k.nothingLeft()
}

// TestShimAsLogger: ctr-shim writes our log format for shims that know only logging programs.
func TestShimAsLogger(t *testing.T) {
	k := newTask(t, "sh", "-c", "echo out; echo err >&2")
	r := k.request()
	q := url.QueryEscape(k.log.String())
	r.Stdout, r.Stderr = "binary-v2://"+shimBinary+"?logger=&uri="+q, ""
	k.serve()
	k.createAndStart(r)
	k.wait()
	if out, errOut := k.output(); out != "out\n" || errOut != "err\n" {
		t.Errorf("output %q, %q", out, errOut)
	}
	k.nothingLeft()
}

// TestTerminalOutputs: what a terminal shows goes to each kind of output.
func TestTerminalOutputs(t *testing.T) {
	for _, scheme := range []string{"file", "fifo"} {
		k := newTask(t, "echo", "shown")
		k.spec.Process.Terminal = true
		path := filepath.Join(k.state, "dir", "out")
		r := k.request()
		r.Stdout = "file://" + path
		if scheme == "fifo" {
			must(t, os.Mkdir(filepath.Dir(path), 0o755))
			must(t, stdio.MakeFIFO(path))
			r.Stdout = path
		}
		var fifo *os.File
		k.serve()
		if scheme == "fifo" {
			var err error
			fifo, err = stdio.OpenReader(path)
			must(t, err)
		}
		k.createAndStart(r)
		k.wait()
		var b []byte
		var err error
		if fifo != nil {
			b, err = io.ReadAll(fifo)
		} else {
			b, err = os.ReadFile(path)
		}
		if string(b) != "shown\r\n" || err != nil {
			t.Errorf("%s: %q, %v", scheme, b, err)
		}
		k.nothingLeft()
	}
}

// TestExecTerminalSize: the terminal of an exec has its size before the program starts.
func TestExecTerminalSize(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	for range 10 {
		e := k.exec("tty", true, false, "stty", "size")
		p := *k.spec.Process
		p.Args, p.Terminal, p.ConsoleSize = []string{"stty", "size"}, true, &specs.Box{Height: 44, Width: 99}
		b, err := json.Marshal(p)
		must(t, err)
		e.req.Spec = &taskapi.Any{Value: b}
		must(t, e.start())
		e.wait()
		if out, err := io.ReadAll(e.stdout); string(out) != "44 99\r\n" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		e.del()
	}
}

// TestIOOwner: the options say whose the process's ends are.
func TestIOOwner(t *testing.T) {
	k := newTask(t, "sh", "-c", "echo again >/dev/stdout && echo done >&2")
	k.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	k.spec.Process.Args = []string{"sh", "-c", "ln -s /proc/self/fd /dev/fd 2>/dev/null; echo again >/proc/self/fd/1; busybox stat -L -c '%u %g' /proc/self/fd/1"}
	r := k.request()
	// io_uid 1000, io_gid 1000
	r.Options = &taskapi.Any{TypeURL: "containerd.runc.v1.Options", Value: []byte{0x20, 0xe8, 7, 0x28, 0xe8, 7}}
	k.serve()
	k.createAndStart(r)
	k.wait()
	if out, errOut := k.output(); out != "again\n1000 1000\n" {
		t.Errorf("output %q, %q", out, errOut)
	}
}

// TestCallersSignalsAndMask: a program has no signal blocked or ignored, and the usual umask, whatever the
// starter has.
func TestCallersSignalsAndMask(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	// A shell blocks nothing, but it ignores and masks; env(1) of coreutils blocks.
	k.wrapper = []string{"sh", "-c", "umask 077; trap '' USR1 HUP TERM; exec env --block-signal=USR2,INT,CHLD \"$@\"", "sh"}
	if exec.Command("env", "--block-signal=USR2", "true").Run() != nil {
		t.Skip("needs env --block-signal of coreutils 8.31")
	}
	k.start()
	want := "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
	if got := k.run("look", "busybox", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"); got != want {
		t.Errorf("exec: %q", got)
	}
	if got := k.run("umask", "sh", "-c", "umask"); got != "0022\n" {
		t.Errorf("exec's umask: %q", got)
	}
	b, err := os.ReadFile(filepath.Join("/proc", itoa(k.initPid()), "status"))
	must(t, err)
	for _, line := range []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "Umask:\t0022"} {
		if !strings.Contains(string(b), line) {
			t.Errorf("init's status has no %q:\n%s", line, b)
		}
	}
}

func (k *task) initPid() int {
	k.Helper()
	s, err := k.client.State(k.Context(), &taskapi.StateRequest{ID: k.id})
	must(k, err)
	// It is the program once its executable is not ours.
	k.until("the program", func() bool {
		path, _ := os.Readlink(filepath.Join("/proc", itoa(int(s.Pid)), "exe"))
		return strings.HasSuffix(path, "busybox")
	})
	return int(s.Pid)
}
