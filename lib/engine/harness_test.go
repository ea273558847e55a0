// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/test/world"
)

// The test program is ctr-shim in all its lives: the supervisor, the engine and the first life of a process
// in a container.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "init" {
		Init()
	}
	if len(os.Args) == 4 && os.Args[1] == "engine" {
		os.Exit(Main(os.Args[2], os.Args[3]))
	}
	os.Exit(world.Ended(m.Run(), mark))
}

// mark begins the ids of this process's containers.
var mark = fmt.Sprintf("e%d-", os.Getpid())

// bundle is a container's directory, its spec and the engine that is to run it.
type bundle struct {
	*testing.T
	ask.Engine
	id, dir string
	spec    *specs.Spec
	made    ask.Result
	status  *os.File // the file of made
	delete  bool
	timeout time.Duration
	filters string // the directory of compiled seccomp filters
}

// newBundle runs args in busybox. When the test ends nothing may be left of the container.
func newBundle(t *testing.T, e ask.Engine, args ...string) *bundle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static busybox in /bin")
	}
	must(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	b := &bundle{T: t, Engine: e, dir: t.TempDir(), id: fmt.Sprint(mark, time.Now().UnixNano())}
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		must(t, os.MkdirAll(b.path("rootfs", d), 0o755))
	}
	must(t, os.WriteFile(b.path("rootfs/bin/busybox"), busybox, 0o755))
	for _, name := range []string{"sh", "true", "cat", "echo", "sleep", "stty", "tty", "wc"} {
		must(t, os.Symlink("busybox", b.path("rootfs/bin", name)))
	}
	must(t, os.WriteFile(b.path("rootfs/etc/passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o644))
	b.spec = &specs.Spec{
		Version: "1.2.0",
		Root:    &specs.Root{Path: "rootfs"},
		Process: newTestProcess(args...),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/ctrd-enginetest--" + b.id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
			Resources: &specs.LinuxResources{},
		},
	}
	t.Cleanup(b.cleanUp)
	return b
}

func newTestProcess(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{
		Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"},
	}}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bundle) path(name ...string) string {
	return filepath.Join(append([]string{b.dir}, name...)...)
}

// cgroup is the path of the container's cgroup.
func (b *bundle) cgroup() string {
	b.Helper()
	path, err := cgroup.Path(b.spec.Linux.CgroupsPath)
	must(b, err)
	return path
}

// child is an engine process that waits to be asked.
type child struct {
	*exec.Cmd
	conn *os.File
}

func (b *bundle) spawn(verb string) *child {
	b.Helper()
	ours, theirs, err := ask.Pair()
	must(b, err)
	defer theirs.Close()
	c := &child{exec.Command("/proc/self/exe", "engine", verb, b.id), ours}
	c.Args[0] = "ctr-shim"
	c.Dir, c.Stderr, c.ExtraFiles = b.dir, os.Stderr, []*os.File{theirs}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(b, c.Start())
	return c
}

// request asks a new engine process. The error is what the engine said.
func (b *bundle) request(verb string, r ask.Request, files ...*os.File) (ask.Result, *os.File, error) {
	b.Helper()
	c := b.spawn(verb)
	defer c.Wait()
	defer c.conn.Close()
	if verb == ask.Create || verb == ask.Restore {
		var h ask.Hello
		_, err := ask.Receive(c.conn, &h)
		must(b, err)
	}
	r.Engine, r.Timeout, r.Filters = b.Engine, b.timeout, b.filters
	must(b, ask.Send(c.conn, r, files...))
	var res ask.Result
	got, err := ask.Receive(c.conn, &res)
	if err != nil {
		b.Fatalf("%s: the engine died: %v", verb, err)
	}
	var status *os.File
	if len(got) == 1 {
		status = got[0]
	}
	if res.Error != "" {
		return res, status, &unrunnable{res.Kind, res.Error}
	}
	return res, status, nil
}

// output is where a process writes, and what it has written once it has ended.
type output struct {
	b       *bundle
	give    []*os.File
	r       *os.File // of pipe or terminal
	socket  *os.File // a terminal comes here
	console bool
}

func (b *bundle) output(terminal bool) *output {
	b.Helper()
	o := &output{b: b, console: terminal}
	if terminal {
		ours, theirs, err := ask.Pair()
		must(b, err)
		o.socket, o.give = ours, []*os.File{theirs}
		return o
	}
	null, err := os.Open("/dev/null")
	must(b, err)
	r, w, err := os.Pipe()
	must(b, err)
	o.r, o.give = r, []*os.File{null, w, w}
	return o
}

// given is called when the engine has answered.
func (o *output) given(err error) {
	for _, f := range o.give[:min(2, len(o.give))] {
		f.Close()
	}
	if o.console {
		if err == nil {
			_, files, err := ask.ReceiveFiles(o.socket, make([]byte, 4096))
			must(o.b, err)
			if len(files) != 1 {
				o.b.Fatalf("%d files came for the terminal", len(files))
			}
			o.r = files[0]
		}
		o.socket.Close()
	}
}

func (o *output) all() string {
	defer o.r.Close()
	text, err := io.ReadAll(o.r)
	if err != nil && !errors.Is(err, unix.EIO) {
		o.b.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

func (b *bundle) writeSpec() {
	b.Helper()
	text, err := json.Marshal(b.spec)
	must(b, err)
	must(b, os.WriteFile(b.path("config.json"), text, 0o600))
}

// addHook has the engine run a shell script while it creates the container.
func (b *bundle) addHook(script string) {
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}}
}

// create makes the container.
func (b *bundle) create() (*output, error) {
	b.Helper()
	b.writeSpec()
	return b.createAsIs()
}

func (b *bundle) createAsIs() (*output, error) {
	b.Helper()
	terminal := b.spec.Process != nil && b.spec.Process.Terminal
	o := b.output(terminal)
	res, status, err := b.request(ask.Create, ask.Request{Terminal: terminal}, o.give...)
	o.given(err)
	b.made, b.status, b.delete = res, status, err == nil
	return o, err
}

// start lets init become the program.
func (b *bundle) start() error {
	b.Helper()
	if b.made.FIFO == "" {
		_, _, err := b.request(ask.Start, ask.Request{})
		return err
	}
	f, err := os.Open(b.path(b.made.FIFO))
	must(b, err)
	defer f.Close()
	_, err = io.ReadFull(f, make([]byte, 1))
	must(b, err)
	defer b.status.Close()
	kind, text, err := ask.Unrunnable(b.status)
	must(b, err)
	if text != "" {
		return &unrunnable{kind, text}
	}
	return nil
}

func (b *bundle) exec(p *specs.Process) (int, *output, error) {
	b.Helper()
	text, err := json.Marshal(p)
	must(b, err)
	file := filepath.Join(b.TempDir(), "process.json")
	must(b, os.WriteFile(file, text, 0o600))
	o := b.output(p.Terminal)
	res, _, err := b.request(ask.Exec, ask.Request{Terminal: p.Terminal, File: file}, o.give...)
	o.given(err)
	return res.Pid, o, err
}

// ended has how processes ended that nobody has waited for yet.
var ended = make(map[int]unix.WaitStatus)

// wait waits for the end of a process that the engine has left to us. All others are reaped as well: a pid
// namespace does not end before all its processes have been.
func (b *bundle) wait(pid int) int {
	b.Helper()
	for {
		if ws, ok := ended[pid]; ok {
			delete(ended, pid)
			if ws.Signaled() {
				return 128 + int(ws.Signal())
			}
			return ws.ExitStatus()
		}
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		if err != nil && err != unix.EINTR {
			b.Fatalf("wait for %d: %v", pid, err)
		}
		if got > 0 {
			ended[got] = ws
		}
	}
}

// run creates and starts, and gives output and status.
func (b *bundle) run() (string, int) {
	b.Helper()
	o, err := b.create()
	must(b, err)
	must(b, b.start())
	return o.all(), b.wait(b.made.Pid)
}

// remove deletes the ended container as the supervisor does, and checks that nothing is left.
func (b *bundle) remove() {
	b.Helper()
	b.delete = false
	if b.made.Delete {
		if _, _, err := b.request(ask.Delete, ask.Request{}); err != nil {
			b.Errorf("delete: %v", err)
		}
	}
	if err := cgroup.Remove(b.cgroup()); err != nil {
		b.Error(err)
	}
	must(b, os.RemoveAll(b.path("engine")))
	b.nothingLeft()
}

func (b *bundle) nothingLeft() {
	b.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		if m, _ := filepath.Glob(pattern + b.cgroup()); len(m) > 0 {
			b.Errorf("cgroups are left: %v", m)
		}
	}
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), b.id) {
			b.Errorf("%s is left: %q", f, text)
		}
	}
	if table, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(table), b.dir) {
		b.Error("a mount is left")
	}
}

func (b *bundle) cleanUp() {
	if err := errors.Join(cgroup.Kill(b.cgroup()), cgroup.Remove(b.cgroup())); err != nil {
		b.Error(err)
	}
	if b.delete && b.made.Delete {
		b.request(ask.Delete, ask.Request{})
	}
	// What was killed is nobody else's child.
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && err != unix.EINTR {
			return
		}
	}
}
