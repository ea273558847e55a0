// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/test/world"
)

// counter writes a growing number again and again, so that what it goes on with tells what it was restored from.
const counter = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.05; done"

// testCheckpoint makes checkpoints of a container that runs on and of one that ends with it, and restores that into a new one.
func testCheckpoint(t *testing.T, e ask.Engine) { checkpointOf(t, e, false) }

// testCheckpointReadOnly is the same where the container cannot write, and nor can criu.
func testCheckpointReadOnly(t *testing.T, e ask.Engine) {
	if e.Binary != "" {
		t.Skip("other engines want a directory /tmp in the root")
	}
	checkpointOf(t, e, true)
}

func checkpointOf(t *testing.T, e ask.Engine, readOnly bool) {
	world.Criu(t)
	b := newBundle(t, e, "sh", "-c", counter)
	b.spec.Root.Readonly = readOnly
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	o, err := b.create()
	must(t, err)
	must(t, b.start())
	out := bufioLines(o.r)
	first := out.next(t)
	for range 3 {
		dir := t.TempDir()
		_, _, err := b.request(ask.Dump, ask.Request{Checkpoint: &ask.Checkpoint{Dir: dir}})
		if err != nil && strings.Contains(err.Error(), "could not load `libcriu") {
			t.Skip("this crun needs the library libcriu: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		out.next(t) // it runs on
	}
	dir := t.TempDir()
	if _, _, err := b.request(ask.Dump, ask.Request{Checkpoint: &ask.Checkpoint{Dir: dir, Exit: true}}); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(b.made.Pid); status != 128+int(unix.SIGKILL) {
		t.Errorf("status %d", status)
	}
	last := out.rest()
	b.remove()

	b2 := newBundle(t, e, "sh", "-c", counter)
	b2.spec.Linux.Namespaces = b.spec.Linux.Namespaces
	b2.spec.Root.Readonly = readOnly
	if readOnly {
		must(t, os.Remove(b2.path("rootfs/tmp")))
	}
	b2.writeSpec()
	o2 := b2.output(false)
	res, _, err := b2.request(ask.Restore, ask.Request{Checkpoint: &ask.Checkpoint{Dir: dir}}, o2.give...)
	o2.given(err)
	b2.made, b2.delete = res, err == nil
	if e.Binary != "" && err != nil && strings.Contains(err.Error(), "cgroup.subtree_control") {
		t.Skip("criu, which crun has make the cgroups, cannot on a host with both versions of them: ", err)
	}
	must(t, err)
	n := bufioLines(o2.r).next(t)
	if n <= last || n > last+5 {
		t.Errorf("it was at %d (began with %d) and goes on with %d", last, first, n)
	}
	// It can be asked for all that one can which was started.
	pid, o3, err := b2.exec(newTestProcess("sh", "-c", "cat /proc/1/cmdline | wc -c; exit 3"))
	must(t, err)
	if out, status := o3.all(), b2.wait(pid); out == "0\n" || status != 3 {
		t.Errorf("exec: %q, %d", out, status)
	}
	must(t, os.WriteFile(b2.path("resources.json"), []byte(`{"pids":{"limit":50}}`), 0o600))
	if _, _, err := b2.request(ask.Update, ask.Request{File: b2.path("resources.json")}); err != nil {
		t.Error(err)
	}
	must(t, cgroup.Kill(b2.cgroup()))
	b2.wait(res.Pid)
	b2.remove()
	if left, _ := filepath.Glob(b2.path("engine", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// testCheckpointFIFO has a program go on that writes to a FIFO, into another one.
func testCheckpointFIFO(t *testing.T, e ask.Engine) {
	world.Criu(t)
	if e.Binary != "" {
		t.Skip("other engines make no checkpoint of a FIFO that is not the container's")
	}
	dir, last := t.TempDir(), 0
	for i := range 2 {
		b := newBundle(t, e, "sh", "-c", counter)
		b.writeSpec()
		path := b.path("fifo")
		must(t, unix.Mkfifo(path, 0o600))
		r, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		null, err := os.Open(os.DevNull)
		must(t, err)
		verb, req := ask.Create, ask.Request{}
		if i > 0 {
			verb, req.Checkpoint = ask.Restore, &ask.Checkpoint{Dir: dir}
		}
		res, status, err := b.request(verb, req, null, w, w)
		must(t, errors.Join(w.Close(), null.Close()))
		b.made, b.status, b.delete = res, status, err == nil
		must(t, err)
		out := bufioLines(r)
		if i == 0 {
			must(t, b.start())
			out.next(t)
			if _, _, err := b.request(ask.Dump, ask.Request{Checkpoint: &ask.Checkpoint{Dir: dir, Exit: true}}); err != nil {
				t.Fatal(err)
			}
			b.wait(b.made.Pid)
			must(t, r.SetReadDeadline(time.Now().Add(time.Second)))
			last = out.rest()
		} else {
			if n := out.next(t); n <= last || n > last+5 {
				t.Errorf("it was at %d and goes on with %d", last, n)
			}
			must(t, cgroup.Kill(b.cgroup()))
			b.wait(res.Pid)
		}
		must(t, r.Close())
		b.remove()
	}
}

// testCheckpointTerminal has a program with a terminal go on in a new one.
func testCheckpointTerminal(t *testing.T, e ask.Engine) {
	world.Criu(t)
	b := newBundle(t, e, "sh", "-c", counter)
	b.spec.Process.Terminal = true
	o, err := b.create()
	must(t, err)
	must(t, b.start())
	out := bufioLines(o.r)
	out.next(t)
	dir := t.TempDir()
	if _, _, err := b.request(ask.Dump, ask.Request{Checkpoint: &ask.Checkpoint{Dir: dir, Exit: true}}); err != nil {
		if strings.Contains(err.Error(), "could not load `libcriu") {
			t.Skip("this crun needs the library libcriu: ", err)
		}
		t.Fatal(err)
	}
	b.wait(b.made.Pid)
	last := out.rest()
	o.r.Close()
	b.remove()

	b2 := newBundle(t, e, "sh", "-c", counter)
	b2.spec.Process.Terminal = true
	b2.writeSpec()
	o2 := b2.output(true)
	res, _, err := b2.request(ask.Restore, ask.Request{Terminal: true, Checkpoint: &ask.Checkpoint{Dir: dir}}, o2.give...)
	o2.given(err)
	b2.made, b2.delete = res, err == nil
	if e.Binary != "" && err != nil && strings.Contains(err.Error(), "cgroup.subtree_control") {
		t.Skip("criu, which crun has make the cgroups, cannot on a host with both versions of them: ", err)
	}
	must(t, err)
	if n := bufioLines(o2.r).next(t); n <= last || n > last+5 {
		t.Errorf("it was at %d and goes on with %d", last, n)
	}
	must(t, cgroup.Kill(b2.cgroup()))
	b2.wait(res.Pid)
	o2.r.Close()
	b2.remove()
}

// numbers are lines of numbers.
type numbers struct {
	r    io.Reader
	buf  []byte
	last int
}

func bufioLines(r *os.File) *numbers { return &numbers{r: r} }

func (l *numbers) next(t *testing.T) int {
	t.Helper()
	if f, ok := l.r.(*os.File); ok {
		f.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	for {
		if i := bytes.IndexByte(l.buf, '\n'); i >= 0 {
			n := 0
			for _, c := range bytes.TrimSpace(l.buf[:i]) {
				n = n*10 + int(c-'0')
			}
			l.buf, l.last = l.buf[i+1:], n
			return n
		}
		b := make([]byte, 256)
		n, err := l.r.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		l.buf = append(l.buf, b[:n]...)
	}
}

// rest reads to the end and gives the last number.
func (l *numbers) rest() int {
	all, _ := io.ReadAll(l.r)
	l.buf = append(l.buf, all...)
	for _, line := range strings.Fields(string(l.buf)) {
		n := 0
		for _, c := range line {
			n = n*10 + int(c-'0')
		}
		l.last = n
	}
	return l.last
}

// A checkpoint that cannot be restored here is refused before anything is made of it.
func TestCheckMade(t *testing.T) {
	core := func(machine byte) []byte {
		b := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, magicImage), magicCore)
		return append(b, 2, 0, 0, 0, 8, machine)
	}
	own := byte(1)
	if runtime.GOARCH == "arm64" {
		own = 3
	}
	made := `{"criu":40101,"arch":"` + runtime.GOARCH + `"}`
	for name, c := range map[string]struct {
		made string
		core []byte
		want string
	}{
		"good":                    {made, core(own), ""},
		"of another tool":         {"", core(own), ""},
		"newer criu":              {`{"criu":90000,"arch":"` + runtime.GOARCH + `"}`, core(own), "made by criu 9.0.0, and the one here is 4.1.1"},
		"another architecture":    {`{"criu":1,"arch":"s390x"}`, core(own), `made on "s390x"`},
		"another core":            {made, core(5), `made on architecture "s390x"`},
		"a core without a number": {made, []byte("\x00\x01"), "no image of criu's"},
		"no core":                 {made, nil, "has no process"},
		"broken":                  {"{", core(own), "unexpected end"},
	} {
		dir := filepath.Join(t.TempDir(), "of [1] * ?")
		must(t, os.Mkdir(dir, 0o700))
		if c.made != "" {
			must(t, os.WriteFile(filepath.Join(dir, madeFile), []byte(c.made), 0o600))
		}
		if c.core != nil {
			must(t, os.WriteFile(filepath.Join(dir, "core-1.img"), c.core, 0o600))
		}
		err := checkMade(&ask.Checkpoint{Dir: dir}, 40101)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without criu the error says what is missing, and how to get it.
func TestNoCriu(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(CriuEnv, "/nowhere/cri")
	if _, err := needCriu(); err == nil || !strings.Contains(err.Error(), "is not the absolute path") {
		t.Error(err)
	}
	t.Setenv(CriuEnv, "")
	if _, err := os.Stat("/usr/sbin/criu"); err == nil {
		t.Skip("criu is installed")
	}
	if _, err := needCriu(); err == nil || !strings.Contains(err.Error(), "install the package criu") {
		t.Error(err)
	}
}
