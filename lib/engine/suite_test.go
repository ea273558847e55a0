// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
)

// engines are what the suite runs over. A directory in CTRD_ENGINES is searched before PATH.
var engines = []string{"", "runc", "crun", "youki", "runsc"}

// TestEngines is the suite that each engine passes.
func TestEngines(t *testing.T) {
	for _, name := range engines {
		title := name
		if name == "" {
			title = "embedded"
		}
		t.Run(title, func(t *testing.T) {
			e := ask.Engine{Binary: name}
			if name != "" {
				e.Binary = findEngine(t, name)
			}
			if name == "crun" {
				e.Binary = withoutHybrid(t, e.Binary)
			}
			for _, c := range suite {
				t.Run(c.name, func(t *testing.T) { c.run(t, e) })
			}
		})
	}
}

// findEngine gives the path of an engine that knows the specs that we write; runc is built from the module
// that libcontainer is in.
func findEngine(t *testing.T, name string) string {
	t.Helper()
	if name == "runc" {
		binary := filepath.Join(t.TempDir(), "runc")
		build := exec.Command("go", "build", "-tags", "seccomp", "-o", binary, "github.com/opencontainers/runc")
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build runc: %v\n%s", err, out)
		}
		return binary
	}
	if dir := os.Getenv("CTRD_ENGINES"); dir != "" {
		if binary, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return binary
		}
	}
	binary, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s", name)
	}
	if out, _ := exec.Command(binary, "--version").Output(); strings.HasPrefix(string(out), "crun version 1.8.") {
		t.Skipf("needs a %s that knows spec 1.2; %s does not (scripts/getcrun)", name, strings.Fields(string(out))[2])
	}
	return binary
}

// withoutHybrid gives a crun that does not see the cgroup2 mount of a hybrid host: it refuses a host on which
// that has controllers.
func withoutHybrid(t *testing.T, crun string) string {
	t.Helper()
	const hybrid = "/sys/fs/cgroup/unified"
	if c, err := os.ReadFile(hybrid + "/cgroup.controllers"); err != nil || len(c) < 2 {
		return crun
	}
	script := filepath.Join(t.TempDir(), "crun")
	text := "#!/bin/sh\nexec unshare -m --propagation private sh -c 'umount " + hybrid + "; exec \"$@\"' sh " + crun + " \"$@\"\n"
	must(t, os.WriteFile(script, []byte(text), 0o755))
	return script
}

var suite = []struct {
	name string
	run  func(*testing.T, ask.Engine)
}{
	{"status and output", testStatus},
	{"terminal", testTerminal},
	{"exec", testExec},
	{"exec in a terminal", testExecTerminal},
	{"programs that cannot run", testUnrunnable},
	{"program that the kernel refuses", testRefused},
	{"update", testUpdate},
	{"kill", testKill},
	{"delete", testDelete},
	{"checkpoint", testCheckpoint},
	{"checkpoint of a terminal", testCheckpointTerminal},
	{"checkpoint of a read-only root", testCheckpointReadOnly},
	{"checkpoint of a FIFO", testCheckpointFIFO},
	{"two at once", testTwo},
	{"odd specs", testOddSpecs},
	{"specs that fail", testBadSpecs},
	{"long arguments", testLongArguments},
}

func testStatus(t *testing.T, e ask.Engine) {
	b := newBundle(t, e, "sh", "-c", "echo out; echo err >&2; exit 7")
	if out, status := b.run(); out != "out\nerr\n" || status != 7 {
		t.Errorf("%q, %d", out, status)
	}
	b.remove()
}

func testTerminal(t *testing.T, e ask.Engine) {
	b := newBundle(t, e, "sh", "-c", "tty; stty size; exit 3")
	b.spec.Process.Terminal, b.spec.Process.ConsoleSize = true, &specs.Box{Height: 44, Width: 99}
	if out, status := b.run(); !strings.HasPrefix(out, "/dev/") || !strings.HasSuffix(out, "44 99\n") || status != 3 {
		t.Errorf("%q, %d", out, status)
	}
	b.remove()
}

// running is a container that does nothing.
func running(t *testing.T, e ask.Engine) *bundle {
	t.Helper()
	b := newBundle(t, e, "sleep", "1000")
	_, err := b.create()
	must(t, err)
	must(t, b.start())
	return b
}

// end kills init and removes the container.
func (b *bundle) end() {
	b.Helper()
	must(b, unix.Kill(b.made.Pid, unix.SIGKILL))
	if status := b.wait(b.made.Pid); status != 137 {
		b.Errorf("status %d", status)
	}
	b.remove()
}

func testExec(t *testing.T, e ask.Engine) {
	b := running(t, e)
	p := newTestProcess("sh", "-c", "echo $A; pwd; readlink /proc/self/ns/pid; exit 9")
	p.Cwd, p.Env = "/tmp", append(p.Env, "A=b")
	pid, o, err := b.exec(p)
	must(t, err)
	ns, _ := os.Readlink("/proc/self/ns/pid")
	out, status := o.all(), b.wait(pid)
	if !strings.HasPrefix(out, "b\n/tmp\npid:[") || strings.Contains(out, ns) || status != 9 {
		t.Errorf("%q, %d", out, status)
	}
	b.end()
}

func testExecTerminal(t *testing.T, e ask.Engine) {
	b := running(t, e)
	// crun lets the program go before it has set the size.
	p := newTestProcess("sh", "-c", `tty; for i in 1 2 3 4 5 6 7 8 9; do s=$(stty size 2>/dev/null); test -z "$s" || break; sleep 0.1; done; echo $s`)
	p.Terminal, p.ConsoleSize = true, &specs.Box{Height: 45, Width: 98}
	pid, o, err := b.exec(p)
	must(t, err)
	out, status := o.all(), b.wait(pid)
	if !strings.HasPrefix(out, "/dev/") || !strings.HasSuffix(out, "45 98\n") || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
	b.end()
}

// programs are files that cannot be run, and what is said of them.
var programs = []struct {
	name, text string
	kind       ask.Kind
	why        string
}{
	{"noshebang", "echo hi\n", ask.NotExecutable, "exec format error"},
	{"empty", "", ask.NotExecutable, "exec format error: the file is empty"},
	{"nointerpreter", "#!/nosuch/sh -e\n", ask.NotFound, `its interpreter "/nosuch/sh": no such file`},
	{"directory", "#!/etc\n", ask.NotExecutable, `bad interpreter "/etc": not a file`},
	{"notexecutable", "#! /etc/passwd\n", ask.NotExecutable, `bad interpreter "/etc/passwd": permission denied`},
	{"crlf", "#!/bin/sh\r\necho hi\r\n", ask.NotExecutable, "CR LF"},
	{"blank", "#! \n", ask.NotExecutable, "no interpreter"},
	{"itself", "#!/itself\n", ask.NotExecutable, "too many"},
	{"cut", "", ask.NotExecutable, "cut short"},
	{"middle", "", ask.NotExecutable, "cut short"},
	{"machine", "", ask.NotExecutable, "a program for arm64"},
	{"loader", "", ask.NotFound, `its interpreter "/nosuch-loader"`},
}

func writePrograms(t *testing.T, root string) {
	t.Helper()
	for _, c := range programs {
		text := []byte(c.text)
		switch c.name {
		case "cut":
			text = testELF(62, "")[:80]
		case "middle":
			text = testELF(62, "")[:4096]
		case "machine":
			text = testELF(183, "")
		case "loader":
			text = testELF(62, "/nosuch-loader")
		}
		must(t, os.WriteFile(filepath.Join(root, c.name), text, 0o755))
	}
	must(t, os.WriteFile(filepath.Join(root, "mode"), nil, 0o644))
}

func testUnrunnable(t *testing.T, e ask.Engine) {
	type attempt struct {
		program string
		kind    ask.Kind
		why     string
	}
	all := []attempt{
		{"nosuch", ask.NotFound, "nosuch"},
		{"/nosuch", ask.NotFound, "/nosuch"},
		{"/etc", ask.NotExecutable, "/etc"},
		{"/mode", ask.NotExecutable, "/mode"},
	}
	for _, p := range programs {
		all = append(all, attempt{"/" + p.name, p.kind, p.why})
	}
	check := func(what string, a attempt, err error) {
		t.Helper()
		kind, text := ask.Other, "no error"
		if err != nil {
			kind, text = explain(err)
		}
		if kind != a.kind || !strings.Contains(text, a.why) {
			t.Errorf("%s of %s: %q: %s; want %q: %s", what, a.program, kind, text, a.kind, a.why)
		}
	}
	for _, a := range all {
		b := newBundle(t, e, a.program)
		writePrograms(t, b.path("rootfs"))
		_, err := b.create()
		check("create", a, err)
		must(t, cgroup.Kill(b.cgroup()))
		b.remove()
	}
	b := newBundle(t, e, "sleep", "1000")
	writePrograms(t, b.path("rootfs"))
	_, err := b.create()
	must(t, err)
	must(t, b.start())
	for _, a := range all {
		_, _, err := b.exec(newTestProcess(a.program))
		check("exec", a, err)
	}
	b.end()
}

// testRefused: where hooks may still change the program its file is not looked at, and the kernel decides.
func testRefused(t *testing.T, e ask.Engine) {
	b := newBundle(t, e, "/noshebang")
	writePrograms(t, b.path("rootfs"))
	b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/true"}}}
	_, err := b.create()
	must(t, err)
	err = b.start()
	status := b.wait(b.made.Pid)
	if e.Binary == "" {
		if kind, text := ask.Other, ""; err != nil {
			if kind, text = explain(err); kind != ask.NotExecutable || text != `exec: "/noshebang": exec format error` {
				t.Errorf("%q: %s", kind, text)
			}
		} else {
			t.Error("started")
		}
	} else if status == 0 {
		t.Error("status 0")
	}
	b.remove()
}

func testUpdate(t *testing.T, e ask.Engine) {
	b := running(t, e)
	file := filepath.Join(t.TempDir(), "resources.json")
	must(t, os.WriteFile(file, []byte(`{"memory":{"limit":67108864},"pids":{"limit":123}}`), 0o600))
	_, _, err := b.request(ask.Update, ask.Request{File: file})
	must(t, err)
	m, err := cgroup.Measure(b.cgroup())
	must(t, err)
	if m.Memory.Limit != 64<<20 || m.Pids.Limit != 123 {
		t.Errorf("%+v", m)
	}
	b.end()
}

func testKill(t *testing.T, e ask.Engine) {
	b := newBundle(t, e, "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done")
	o, err := b.create()
	must(t, err)
	must(t, b.start())
	if _, err := o.r.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	must(t, unix.Kill(b.made.Pid, unix.SIGTERM))
	if status := b.wait(b.made.Pid); status != 5 {
		t.Errorf("status %d", status)
	}
	b.remove()
}

// testDelete: a created container that is never started leaves nothing either, and removing is idempotent.
func testDelete(t *testing.T, e ask.Engine) {
	b := newBundle(t, e, "true")
	_, err := b.create()
	must(t, err)
	if b.status != nil {
		b.status.Close()
	}
	b.end()
	if _, _, err := b.request(ask.Delete, ask.Request{}); err != nil {
		t.Errorf("delete again: %v", err)
	}
}

func testTwo(t *testing.T, e ask.Engine) {
	one, two := running(t, e), running(t, e)
	one.end()
	pid, _, err := two.exec(newTestProcess("true"))
	must(t, err)
	if status := two.wait(pid); status != 0 {
		t.Errorf("status %d", status)
	}
	two.end()
}

func testOddSpecs(t *testing.T, e ask.Engine) {
	b := newBundle(t, e, "echo", "hi")
	text, err := json.Marshal(b.spec)
	must(t, err)
	text = append([]byte(`{"future":{"a":[1]},`), text[1:]...)
	must(t, os.WriteFile(b.path("config.json"), text, 0o600))
	o, err := b.createAsIs()
	must(t, err)
	must(t, b.start())
	if out := o.all(); out != "hi\n" {
		t.Errorf("unknown field: %q", out)
	}
	b.wait(b.made.Pid)
	b.remove()
}

func testBadSpecs(t *testing.T, e ask.Engine) {
	for name, spoil := range map[string]func(*bundle){
		"limits": func(b *bundle) {
			quota, period := int64(1), uint64(1)
			b.spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		},
		"device": func(b *bundle) {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/dev/x", Source: "/dev/nosuch", Options: []string{"bind"}})
		},
		"no rootfs":  func(b *bundle) { b.spec.Root.Path = "nosuch" },
		"no process": func(b *bundle) { b.spec.Process = nil },
		"no program": func(b *bundle) { b.spec.Process.Args = nil },
		"cwd":        func(b *bundle) { b.spec.Process.Cwd = "tmp" },
	} {
		b := newBundle(t, e, "true")
		spoil(b)
		_, err := b.create()
		if err == nil {
			t.Errorf("%s: created", name)
			continue
		}
		if kind, text := explain(err); kind != ask.Other || text == "" || strings.Contains(text, "\n") {
			t.Errorf("%s: %q: %s", name, kind, text)
		} else {
			t.Logf("%s: %s", name, text)
		}
		must(t, cgroup.Kill(b.cgroup()))
		b.remove()
	}
	// Without /proc an engine may refuse, or make do.
	b := newBundle(t, e, "true")
	b.spec.Mounts = b.spec.Mounts[1:]
	must(t, os.Remove(b.path("rootfs/proc")))
	if _, err := b.create(); err != nil {
		t.Logf("no /proc: %v", err)
		must(t, cgroup.Kill(b.cgroup()))
	} else {
		must(t, b.start())
		b.wait(b.made.Pid)
	}
	b.remove()
}

func testLongArguments(t *testing.T, e ask.Engine) {
	b := newBundle(t, e, "sh", "-c", `echo ${#1}`, "sh", strings.Repeat("x", 10000))
	if out, status := b.run(); out != "10000\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
	b.remove()
}
