// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/tail"
)

// fakeEngine is a shell script in place of an engine.
func fakeEngine(t *testing.T, script string) ask.Engine {
	t.Helper()
	name := filepath.Join(t.TempDir(), "engine")
	must(t, os.WriteFile(name, []byte("#!/bin/sh\n"+script), 0o755))
	return ask.Engine{Binary: name}
}

func TestEngineThatIsNotThere(t *testing.T) {
	for name, want := range map[string]string{
		"no-runc":         `engine "no-runc": executable file not found in $PATH; install it`,
		"/nosuch/no-runc": `engine "/nosuch/no-runc": `,
		"/etc/passwd":     `engine "/etc/passwd": permission denied; install it`,
	} {
		b := newBundle(t, ask.Engine{Binary: name}, "true")
		_, err := b.create()
		if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "name another one by its path") {
			t.Errorf("%s: %v", name, err)
		}
		if kind, _ := explain(err); kind != ask.Other {
			t.Errorf("%s: %q", name, kind)
		}
		b.remove()
	}
}

// TestEnginesThatFail: rubbish, no pid, a pid file that is none, no words, words on stderr alone, death.
func TestEnginesThatFail(t *testing.T) {
	for script, want := range map[string]string{
		"exit 0":                 "init.pid: no pid",
		"exit 3":                 "exit status 3",
		"head -c 1000 /dev/zero": "init.pid: no pid",
		"kill -9 $$":             "did not terminate successfully",
		"echo boom >$4; exit 1":  "exit status 1",
		`echo '{"level":"error","msg":"boom"}' >$4; exit 1`:                    ": create: boom",
		`for a; do case $last in --pid-file) echo x >$a;; esac; last=$a; done`: "init.pid: no pid",
	} {
		b := newBundle(t, fakeEngine(t, script), "true")
		_, err := b.create()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
		must(t, os.RemoveAll(b.path("engine")))
		b.nothingLeft()
	}
	b := newBundle(t, fakeEngine(t, "echo on stdout; echo last words >&2; exit 1"), "true")
	b.spec.Process.Terminal = true
	if _, err := b.create(); err == nil || !strings.HasSuffix(err.Error(), ": create: last words") {
		t.Errorf("%v", err)
	}
}

// TestEngineThatHangs: it is killed in time, also when a process of its own keeps its output open.
func TestEngineThatHangs(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	e := fakeEngine(t, `case "$*" in *delete*) exit 0;; esac; echo $$ >`+pids+`.new; mv `+pids+`.new `+pids+`; exec sleep 1000`)
	b := newBundle(t, e, "true")
	b.spec.Process.Terminal = true
	b.timeout = 200 * time.Millisecond
	_, err := b.create()
	if kind := ask.Other; err != nil {
		if kind, _ = explain(err); kind != ask.TimedOut || !strings.Contains(err.Error(), "create: killed, no answer within 200ms") {
			t.Errorf("%q: %v", kind, err)
		}
	} else {
		t.Error("created")
	}
	isGone(t, pids)
}

// TestEngineWithHooks: the time of hooks is beside that of the engine.
func TestEngineWithHooks(t *testing.T) {
	e := fakeEngine(t, `case "$*" in *delete*) exit 0;; esac; sleep 0.6; exit 3`)
	b := newBundle(t, e, "true")
	b.addHook("true")
	b.timeout = 200 * time.Millisecond
	if _, err := b.create(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
}

// TestEngineWithPoststop: so is that of the hooks that run while a container is deleted.
func TestEngineWithPoststop(t *testing.T) {
	const second = 1
	b := newBundle(t, fakeEngine(t, `case "$*" in *delete*) sleep 0.6;; esac`), "true")
	b.timeout = 200 * time.Millisecond
	for _, timeout := range []int{0, second} {
		b.spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/true", Timeout: &timeout}}}
		b.writeSpec()
		if _, _, err := b.request(ask.Delete, ask.Request{}); (err == nil) != (timeout == second) {
			t.Errorf("with a timeout of %d s: %v", timeout, err)
		}
	}
}

func isGone(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if unix.Kill(pid, 0) == unix.ESRCH {
			return
		}
	}
	t.Errorf("process %d lives", pid)
}

// TestSupervisorDies: the engine ends with the other end of its socket, and what it has started with it.
func TestSupervisorDies(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	e := fakeEngine(t, `case "$*" in *delete*) exit 0;; esac; echo $$ >`+pids+`.new; mv `+pids+`.new `+pids+`; exec sleep 1000`)
	b := newBundle(t, e, "true")
	b.writeSpec()
	c := b.spawn(ask.Create)
	_, err := ask.Receive(c.conn, new(ask.Hello))
	must(t, err)
	o := b.output(false)
	must(t, ask.Send(c.conn, ask.Request{Engine: e}, o.give...))
	must(t, tail.WaitFile(t.Context(), filepath.Dir(pids), "pids", -1))
	c.conn.Close()
	c.Wait()
	isGone(t, pids)

	// The embedded engine, while it waits in a hook.
	b = newBundle(t, ask.Engine{}, "true")
	must(t, os.Remove(pids))
	b.addHook(`echo $$ >` + pids + `.new; mv ` + pids + `.new ` + pids + `; exec sleep 1000`)
	b.writeSpec()
	c = b.spawn(ask.Create)
	_, err = ask.Receive(c.conn, new(ask.Hello))
	must(t, err)
	o = b.output(false)
	must(t, ask.Send(c.conn, ask.Request{}, o.give...))
	must(t, tail.WaitFile(t.Context(), filepath.Dir(pids), "pids", -1))
	c.conn.Close()
	c.Wait()
	isGone(t, pids)
}

func TestUnaskedEngineEnds(t *testing.T) {
	b := newBundle(t, ask.Engine{}, "true")
	b.writeSpec()
	c := b.spawn(ask.Create)
	_, err := ask.Receive(c.conn, new(ask.Hello))
	must(t, err)
	c.conn.Close()
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	c = b.spawn("nosuch")
	if _, err := ask.Receive(c.conn, new(ask.Hello)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	c.Wait()
}
