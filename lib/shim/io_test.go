// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

func TestStdin(t *testing.T) {
	k := newTask(t, "wc", "-c")
	r := k.request()
	r.Stdin = filepath.Join(k.dir, "stdin")
	must(t, stdio.MakeFIFO(r.Stdin))
	k.serve()
	k.createAndStart(r)
	// The first client goes without closing the container's stdin; the second one closes it.
	const size = 50 << 20
	for _, n := range []int{1000, size - 1000} {
		w, err := stdio.OpenWriter(r.Stdin)
		must(t, err)
		_, err = io.CopyN(w, zeros{}, int64(n))
		must(t, err)
		must(t, w.Close())
	}
	must(t, k.client.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: k.id, Stdin: true}))
	k.wait()
	if out, _ := k.output(); strings.TrimSpace(out) != strconv.Itoa(size) {
		t.Errorf("counted %q, want %d", out, size)
	}
	if _, err := stdio.OpenWriter(r.Stdin); !errdefs.IsUnavailable(err) {
		t.Errorf("stdin afterwards: %v", err)
	}
	k.nothingLeft()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestMuchOutput(t *testing.T) {
	const line = "0123456789abcdefghijklmnopqrstuvwxyz some more text to make it a line of a hundred characters, no less\n"
	const lines = 100 << 20 / len(line)
	k := newTask(t, "sh", "-c", "yes '"+line[:len(line)-1]+"' | head -n "+strconv.Itoa(lines))
	k.log.MaxSize, k.log.MaxFiles = 16<<20, 50
	k.start()
	// One client reads, the other has stopped after its first record.
	var readers []*stdio.Reader
	for range 2 {
		r, err := k.log.Open(t.Context(), stdio.ReadOptions{Tail: -1, Follow: true})
		must(t, err)
		defer r.Close()
		readers = append(readers, r)
	}
	_, err := readers[1].Next()
	must(t, err)
	counted := make(chan count)
	go func() {
		var c count
		c.err = readers[0].Copy(&c, io.Discard, false)
		counted <- c
	}()
	k.wait()
	readers[0].End()
	if c := <-counted; c.err != nil || c.lines != lines || c.bytes != lines*len(line) {
		t.Errorf("the reading client has %d lines, %d bytes, %v", c.lines, c.bytes, c.err)
	}
	readers[1].End()
	var c count
	must(t, readers[1].Copy(&c, io.Discard, false))
	if c.lines != lines-1 {
		t.Errorf("the stopped client has %d lines", c.lines)
	}
	k.nothingLeft()
}

type count struct {
	lines, bytes int
	err          error
}

func (c *count) Write(p []byte) (int, error) {
	c.lines += bytes.Count(p, []byte{'\n'})
	c.bytes += len(p)
	return len(p), nil
}

func TestOutputBesides(t *testing.T) {
	k := newTask(t, "sh", "-c", "echo out; echo err >&2")
	r := k.request()
	file := filepath.Join(k.state, "out")
	r.Stdout, r.Stderr = "file://"+file, ""
	k.serve()
	k.createAndStart(r)
	k.wait()
	if b, err := os.ReadFile(file); string(b) != "out\nerr\n" {
		t.Errorf("file: %q %v", b, err)
	}

	k = newTask(t, "sh", "-c", "seq 100000")
	r = k.request()
	r.Stdout, r.Stderr = filepath.Join(k.state, "fifo"), ""
	must(t, stdio.MakeFIFO(r.Stdout))
	k.serve()
	k.createAndStart(r)
	// Nobody reads yet: the container waits. A client reads a little and goes; the next one gets the rest.
	f, err := stdio.OpenReader(r.Stdout)
	must(t, err)
	some := make([]byte, 100)
	_, err = io.ReadFull(f, some)
	must(t, err)
	must(t, f.Close())
	f, err = stdio.OpenReader(r.Stdout)
	must(t, err)
	rest, err := io.ReadAll(f)
	must(t, err)
	if all := string(some) + string(rest); !strings.HasPrefix(all, "1\n2\n") || !strings.HasSuffix(all, "\n100000\n") || strings.Count(all, "\n") != 100000 {
		t.Errorf("%d bytes", len(all))
	}
	k.wait()
	k.nothingLeft()
}

func TestTerminal(t *testing.T) {
	k := newTask(t, "sh", "-c", "stty size; read x; stty size; echo got $x; read y; exit 4")
	k.spec.Process.Terminal = true
	k.spec.Process.ConsoleSize = &specs.Box{Width: 81, Height: 25}
	r := k.request()
	r.Stdin = filepath.Join(k.dir, "stdin")
	must(t, stdio.MakeFIFO(r.Stdin))
	k.serve()
	k.createAndStart(r)
	output := func(want string) {
		k.until(strconv.Quote(want), func() bool { out, _ := k.output(); return strings.HasSuffix(out, want) })
	}
	output("25 81\r\n")
	must(t, k.client.ResizePty(t.Context(), &taskapi.ResizePtyRequest{ID: k.id, Width: 100, Height: 40}))
	in, err := stdio.OpenWriter(r.Stdin)
	must(t, err)
	in.WriteString("hello\n")
	output("hello\r\n40 100\r\ngot hello\r\n")
	in.WriteString("\x04")
	must(t, in.Close())
	if e := k.wait(); e.Status != 4 {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}

// exec runs a program in the container and gives its output and status.
type execution struct {
	k              *task
	id             string
	stdout, stderr *os.File
	req            *taskapi.ExecProcessRequest
}

func (k *task) exec(id string, terminal, stdin bool, args ...string) *execution {
	k.Helper()
	p := *k.spec.Process
	p.Args, p.Terminal = args, terminal
	spec, err := json.Marshal(p)
	must(k, err)
	dir := filepath.Join(k.dir, "execs", id)
	must(k, os.MkdirAll(dir, 0o700))
	e := &execution{k: k, id: id, req: &taskapi.ExecProcessRequest{ID: k.id, ExecID: id, Terminal: terminal, Spec: &taskapi.Any{Value: spec}}}
	if stdin {
		e.req.Stdin = filepath.Join(dir, "stdin")
		must(k, stdio.MakeFIFO(e.req.Stdin))
	}
	e.req.Stdout = filepath.Join(dir, "stdout")
	must(k, stdio.MakeFIFO(e.req.Stdout))
	e.stdout, err = stdio.OpenReader(e.req.Stdout)
	must(k, err)
	if !terminal {
		e.req.Stderr = filepath.Join(dir, "stderr")
		must(k, stdio.MakeFIFO(e.req.Stderr))
		e.stderr, err = stdio.OpenReader(e.req.Stderr)
		must(k, err)
	}
	return e
}

func (e *execution) start() error {
	if err := e.k.client.Exec(e.k.Context(), e.req); err != nil {
		return err
	}
	_, err := e.k.client.Start(e.k.Context(), &taskapi.StartRequest{ID: e.k.id, ExecID: e.id})
	return err
}

func (e *execution) wait() uint32 {
	e.k.Helper()
	ctx, cancel := context.WithTimeout(e.k.Context(), 30*time.Second)
	defer cancel()
	w, err := e.k.client.Wait(ctx, &taskapi.WaitRequest{ID: e.k.id, ExecID: e.id})
	must(e.k, err)
	return w.ExitStatus
}

func (e *execution) del() {
	e.k.Helper()
	_, err := e.k.client.Delete(e.k.Context(), &taskapi.DeleteRequest{ID: e.k.id, ExecID: e.id})
	if errdefs.IsUnavailable(err) {
		<-e.k.gone // it has ended the container, and that the supervisor
		return
	}
	must(e.k, err)
	if _, err := os.Lstat(filepath.Join(e.k.dir, "execs", e.id)); err == nil {
		e.k.Errorf("execs/%s is left", e.id)
	}
}

func TestExec(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	ctx := t.Context()

	e := k.exec("one", false, true, "sh", "-c", "cat; echo err >&2; exit 9")
	must(t, e.start())
	if err := k.client.Exec(ctx, e.req); !errdefs.IsAlreadyExists(err) {
		t.Errorf("exec again: %v", err)
	}
	if _, err := k.client.Delete(ctx, &taskapi.DeleteRequest{ID: k.id, ExecID: "one"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of running: %v", err)
	}
	in, err := stdio.OpenWriter(e.req.Stdin)
	must(t, err)
	in.WriteString("through\n")
	in.Close()
	must(t, k.client.CloseIO(ctx, &taskapi.CloseIORequest{ID: k.id, ExecID: "one", Stdin: true}))
	if st := e.wait(); st != 9 {
		t.Errorf("status %d", st)
	}
	out, err := io.ReadAll(e.stdout)
	errOut, err2 := io.ReadAll(e.stderr)
	if string(out) != "through\n" || string(errOut) != "err\n" || err != nil || err2 != nil {
		t.Errorf("output %q %q %v %v", out, errOut, err, err2)
	}
	s, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id, ExecID: "one"})
	if err != nil || s.Status != taskapi.StatusStopped || s.ExitStatus != 9 {
		t.Errorf("state %+v %v", s, err)
	}
	if err := k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, ExecID: "one", Signal: 9}); !errdefs.IsNotFound(err) {
		t.Errorf("kill of stopped: %v", err)
	}
	var x exitRecord
	k.readJSON("execs/one/exit.json", &x)
	if x.Status != 9 {
		t.Errorf("exit.json %+v", x)
	}
	e.del()

	e = k.exec("tty", true, true, "sh", "-c", "read x; stty size; echo got $x")
	must(t, e.start())
	must(t, k.client.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: k.id, ExecID: "tty", Width: 100, Height: 40}))
	in, err = stdio.OpenWriter(e.req.Stdin)
	must(t, err)
	in.WriteString("x\n")
	in.Close()
	if st := e.wait(); st != 0 {
		t.Errorf("status %d", st)
	}
	if out, err := io.ReadAll(e.stdout); !strings.HasSuffix(string(out), "got x\r\n") || !strings.Contains(string(out), "40 100\r\n") || err != nil {
		t.Errorf("output %q %v", out, err)
	}
	e.del()

	e = k.exec("missing", false, false, "nosuch")
	if err := e.start(); !errdefs.IsNotFound(err) || err.Error() != `exec: "nosuch": executable file not found in $PATH` {
		t.Errorf("missing program: %v", err)
	}
	e.del()

	for _, id := range []string{"", "..", "a/b", strings.Repeat("x", 300)} {
		if err := k.client.Exec(ctx, &taskapi.ExecProcessRequest{ID: k.id, ExecID: id, Spec: e.req.Spec}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("exec id %q: %v", id, err)
		}
	}
	if got := k.topics(); got != "create start exec-added exec-started exit delete exec-added exec-started exit delete exec-added" {
		t.Errorf("events: %s", got)
	}
}

// TestExecTerminalSlowReader: the end of a process is told when its client has read what the terminal showed.
func TestExecTerminalSlowReader(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	e := k.exec("one", true, false, "sh", "-c", "seq 5000; exit 3")
	must(t, e.start())
	told := make(chan uint32, 1)
	go func() { told <- e.wait() }()
	select {
	case st := <-told:
		t.Error("the end is told before the output is read")
		told <- st
	case <-time.After(300 * time.Millisecond):
	}
	out, err := io.ReadAll(e.stdout)
	must(t, err)
	if !strings.HasSuffix(string(out), "\n5000\r\n") {
		t.Errorf("%d bytes of output", len(out))
	}
	if st := <-told; st != 3 {
		t.Errorf("status %d", st)
	}
}

// TestExecTerminalFile: nobody reads a file, and its end is waited for by nobody, whatever others have written there.
func TestExecTerminalFile(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	e := k.exec("one", true, false, "true")
	file := filepath.Join(k.state, "out")
	must(t, os.WriteFile(file, []byte("of another\n"), 0o600))
	e.req.Stdout = "file://" + file
	must(t, e.start())
	w, err := k.client.Wait(t.Context(), &taskapi.WaitRequest{ID: k.id, ExecID: "one"})
	must(t, err)
	if late := time.Since(w.ExitedAt); late > 900*time.Millisecond {
		t.Errorf("the end is told after %v", late)
	}
}

// TestExecClientDies: the client of an exec goes; the exec that writes on meets that as any program does
// whose reader goes.
func TestExecClientDies(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	e := k.exec("one", false, false, "yes")
	must(t, e.start())
	e.stdout.Close()
	e.stderr.Close()
	if st := e.wait(); st != 128+uint32(unix.SIGPIPE) && st != 1 {
		t.Errorf("status %d", st)
	}
	// A terminal's output is thrown away: the client has detached.
	e = k.exec("two", true, false, "sh", "-c", "seq 100000; exit 3")
	must(t, e.start())
	e.stdout.Close()
	if st := e.wait(); st != 3 {
		t.Errorf("status %d", st)
	}
}

func TestExecsEndWithInit(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.spec.Linux.Namespaces = k.spec.Linux.Namespaces[1:] // the host's pid namespace: nothing dies by itself
	k.start()
	created := k.exec("created", false, false, "true")
	must(t, k.client.Exec(t.Context(), created.req))
	waits := make(chan uint32)
	for _, id := range []string{"a", "b", "c"} {
		e := k.exec(id, false, false, "sleep", "1000")
		must(t, e.start())
		go func() {
			w, err := k.client.Wait(context.Background(), &taskapi.WaitRequest{ID: k.id, ExecID: id})
			if err != nil {
				t.Error(err)
				w = &taskapi.WaitResponse{}
			}
			waits <- w.ExitStatus
		}()
	}
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 15}))
	for range 3 {
		if st := <-waits; st != 137 {
			t.Errorf("exec's status %d", st)
		}
	}
	if e := k.wait(); e.Status != 143 {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}

// TestExecsAtTheEnd: execs that begin while the container ends either run or are refused; nothing is left.
func TestExecsAtTheEnd(t *testing.T) {
	for i := range 5 {
		k := newTask(t, "sleep", "1000")
		if i%2 == 1 {
			k.spec.Linux.Namespaces = k.spec.Linux.Namespaces[1:]
		}
		k.start()
		done := make(chan struct{})
		for j := range 4 {
			go func() {
				defer func() { done <- struct{}{} }()
				for n := range 10 {
					e := k.exec("e"+strconv.Itoa(j)+"-"+strconv.Itoa(n), false, false, "sleep", "1000")
					if err := e.start(); err != nil {
						return
					}
				}
			}()
		}
		time.Sleep(time.Duration(i) * 20 * time.Millisecond)
		must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
		if e := k.wait(); e.Status != 137 {
			t.Errorf("exit %+v", e)
		}
		for range 4 {
			<-done
		}
		k.nothingLeft()
	}
}

// TestFullDisk: the log cannot be written; the container goes on.
func TestFullDisk(t *testing.T) {
	k := newTask(t, "sh", "-c", "seq 100000; echo done >/done")
	small := filepath.Join(k.state, "log")
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=64k"))
	k.start()
	k.wait()
	if b, _ := os.ReadFile(filepath.Join(k.state, "upper/done")); string(b) != "done\n" {
		t.Error("the container did not come to its end")
	}
	var lost taskdir.Dropped
	k.readJSON(taskdir.Lost, &lost)
	if lost.Bytes == 0 || lost.Error == "" {
		t.Errorf("lost.json: %+v", lost)
	}
	if l := k.shimLog(); !strings.Contains(l, "were dropped") {
		t.Errorf("shim.log: %s", l)
	}
	must(t, unix.Unmount(small, 0))
	k.nothingLeft()
}
