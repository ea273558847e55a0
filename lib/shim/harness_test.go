// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/tail"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
	"ctrd.dev/ctrd/test/world"
)

var shimBinary string // the real ctr-shim, with crash points

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "ctr-shim-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shimBinary = filepath.Join(dir, "ctr-shim")
	build := exec.Command("go", "build", "-tags", "seccomp netgo osusergo crashpoints", "-o", shimBinary,
		"-ldflags", "-s -w -linkmode external -extldflags -static", "ctrd.dev/ctrd/cmd/ctr-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build ctr-shim:", err)
		return 1
	}
	return world.Ended(m.Run(), mark)
}

// mark begins the ids of this process's tasks.
var mark = fmt.Sprintf("t%d-", os.Getpid())

// task is a task directory and the supervisor that serves it.
type task struct {
	*testing.T
	id       string
	state    string // the state directory
	dir      string
	spec     *specs.Spec
	log      stdio.Log
	rootfs   []taskapi.Mount
	record   taskdir.Task
	binary   string
	wrapper  []string // what starts it
	bare     bool     // there is no task.json: the client is containerd
	byEngine bool     // execs of life are put into the container by an engine
	args     []string // more arguments for the supervisor
	env      []string
	files    []*os.File // more that the starter leaves open
	shim     *exec.Cmd
	client   *taskapi.Client
	gone     chan struct{} // the supervisor has ended
	starts   *lock.Held
}

const namespace = "shimtest"

// newTask makes a bundle that runs args in busybox, on an overlay. When the test ends nothing may be left
// of it.
func newTask(t *testing.T, args ...string) *task {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	state := t.TempDir()
	k := &task{T: t, binary: shimBinary, id: mark + itoa(int(time.Now().UnixNano())), state: state}
	k.dir = filepath.Join(state, "tasks", namespace, k.id)
	lower, upper, work := filepath.Join(state, "lower"), filepath.Join(state, "upper"), filepath.Join(state, "work")
	for _, d := range []string{filepath.Join(k.dir, "rootfs"), upper, work, filepath.Join(state, "log")} {
		must(t, os.MkdirAll(d, 0o755))
	}
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(lower, d), 0o755))
	}
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static busybox in /bin")
	}
	must(t, os.WriteFile(filepath.Join(lower, "bin/busybox"), bb, 0o755))
	for _, name := range []string{"sh", "true", "wc", "cat", "sleep", "dd", "head", "id", "stty", "yes", "echo", "kill", "ps", "seq", "setsid", "sha256sum", "tail", "trap"} {
		must(t, os.Symlink("busybox", filepath.Join(lower, "bin", name)))
	}
	must(t, os.WriteFile(filepath.Join(lower, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o644))
	k.rootfs = []taskapi.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work}}}
	k.log = stdio.Log{Path: filepath.Join(state, "log/log")}
	k.spec = newSpec(k.id, args)
	k.record = taskdir.Task{Incarnation: taskdir.NewIncarnation(), Namespace: namespace, ID: k.id, Owner: taskdir.Kept, Created: time.Now().UTC()}
	t.Cleanup(k.cleanUp)
	return k
}

func newSpec(id string, args []string) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{
			Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"},
		}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/ctrd-shimtest--" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
			Resources: &specs.LinuxResources{},
		},
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (k *task) journal() event.Journal { return event.Journal{Dir: filepath.Join(k.state, "events")} }

// serve starts the supervisor and connects to it.
func (k *task) serve() {
	k.Helper()
	must(k, k.tryServe())
	var s struct{ Address string }
	k.readJSON("shim.json", &s)
	var err error
	k.client, err = taskapi.Dial(k.Context(), s.Address)
	must(k, err)
}

func (k *task) tryServe() error {
	b, err := json.Marshal(k.spec)
	must(k, err)
	must(k, os.WriteFile(filepath.Join(k.dir, "config.json"), b, 0o600))
	k.starts, err = lock.Hold(filepath.Join(k.dir, "start.lock"))
	must(k, err)
	log, err := os.OpenFile(filepath.Join(k.dir, "shim.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(k, err)
	defer log.Close()
	if !k.bare {
		must(k, taskdir.Write(k.dir, taskdir.Record, k.record))
	}
	r, w, err := os.Pipe()
	must(k, err)
	defer r.Close()
	args := []string{"-namespace", namespace, "-id", k.id, "-events", k.journal().Dir, "-sockets", filepath.Join(k.state, "s")}
	args = append(append(args, k.args...), "serve")
	argv := append(append(append([]string(nil), k.wrapper...), k.binary), args...)
	k.shim = exec.Command(argv[0], argv[1:]...)
	k.shim.Dir, k.shim.Stdout, k.shim.Stderr, k.shim.ExtraFiles = k.dir, w, log, k.files
	k.shim.Env = append(append(os.Environ(), "GOMAXPROCS=1"), k.env...)
	k.shim.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	must(k, k.shim.Start())
	w.Close()
	shim, gone := k.shim, make(chan struct{}) // a test may start another one
	k.gone = gone
	go func() {
		shim.Wait()
		close(gone)
	}()
	answer, err := io.ReadAll(r)
	must(k, err)
	var boot struct {
		Version           int
		Address, Protocol string
	}
	if json.Unmarshal(answer, &boot) != nil {
		<-k.gone
		return errors.New(k.shimLog())
	}
	if boot.Version != 3 || boot.Protocol != "ttrpc" {
		return fmt.Errorf("answer %q", answer)
	}
	return nil
}

func (k *task) request() *taskapi.CreateTaskRequest {
	return &taskapi.CreateTaskRequest{ID: k.id, Bundle: k.dir, Rootfs: k.rootfs, Terminal: k.spec.Process.Terminal, Stdout: k.log.String(), Stderr: k.log.String()}
}

// start serves, creates and starts.
func (k *task) start() {
	k.Helper()
	k.serve()
	k.createAndStart(k.request())
}

func (k *task) createAndStart(r *taskapi.CreateTaskRequest) {
	k.Helper()
	if _, err := k.client.Create(k.Context(), r); err != nil {
		k.Fatalf("create: %v\n%s", err, k.shimLog())
	}
	if _, err := k.client.Start(k.Context(), &taskapi.StartRequest{ID: k.id}); err != nil {
		k.Fatalf("start: %v\n%s", err, k.shimLog())
	}
	must(k, k.starts.Release())
	k.starts = nil
}

type exitRecord struct {
	Status   int
	ExitedAt time.Time `json:"exited_at"`
	OOM      bool
	Reason   string
}

// wait waits for the exit record, and for the end of the supervisor.
func (k *task) wait() exitRecord {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), 60*time.Second)
	defer cancel()
	if err := tail.WaitFile(ctx, k.dir, "exit.json", -1); err != nil {
		k.Fatalf("wait for the exit: %v\n%s", err, k.shimLog())
	}
	var e exitRecord
	k.readJSON("exit.json", &e)
	select {
	case <-k.gone:
	case <-ctx.Done():
		k.Fatalf("the supervisor does not end\n%s", k.shimLog())
	}
	return e
}

func (k *task) readJSON(name string, v any) {
	k.Helper()
	b, err := os.ReadFile(filepath.Join(k.dir, name))
	must(k, err)
	must(k, json.Unmarshal(b, v))
}

func (k *task) shimLog() string {
	b, _ := os.ReadFile(filepath.Join(k.dir, "shim.log"))
	return string(b)
}

// output is what the log holds.
func (k *task) output() (string, string) {
	k.Helper()
	r, err := k.log.Open(k.Context(), stdio.ReadOptions{Tail: -1})
	must(k, err)
	defer r.Close()
	var out, errOut bytes.Buffer
	must(k, r.Copy(&out, &errOut, false))
	return out.String(), errOut.String()
}

// topics are the journal's events of this task, in order.
func (k *task) topics() string {
	k.Helper()
	var all []string
	for e, err := range k.journal().Read(k.Context(), 0, false) {
		must(k, err)
		all = append(all, strings.TrimPrefix(e.Topic, "/tasks/"))
	}
	return strings.Join(all, " ")
}

// until waits for a condition that another process brings about.
func (k *task) until(what string, ok func() bool) {
	k.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			k.Fatalf("%s does not come\n%s", what, k.shimLog())
		}
	}
}

// nothingLeft checks that of the container nothing is left but the directory.
func (k *task) nothingLeft() {
	k.Helper()
	for _, dir := range cgroupDirs(k.spec.Linux.CgroupsPath) {
		k.Errorf("cgroup %s is left", dir)
	}
	if _, err := os.Lstat(filepath.Join(k.dir, "engine")); err == nil {
		k.Error("engine/ is left")
	}
	for _, m := range mountsBelow(k.state) {
		k.Errorf("mount %s is left", m)
	}
	if e, _ := os.ReadDir(filepath.Join(k.state, "s")); len(e) > 0 {
		k.Errorf("sockets are left: %v", e)
	}
	for _, p := range processesOf(k.id) {
		k.Errorf("process %s is left", p)
	}
}

func cgroupDirs(path string) (found []string) {
	for _, pattern := range []string{"/sys/fs/cgroup" + path, "/sys/fs/cgroup/*" + path} {
		m, _ := filepath.Glob(pattern)
		found = append(found, m...)
	}
	return found
}

func mountsBelow(dir string) (found []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir) {
			found = append(found, f[4])
		}
	}
	return found
}

// processesOf finds processes that name the task in their arguments.
func processesOf(id string) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(id)) {
			found = append(found, f+" "+string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// cleanUp leaves nothing behind, whatever happened.
func (k *task) cleanUp() {
	if k.client != nil {
		k.client.Close()
	}
	if k.shim != nil && k.shim.Process != nil {
		k.shim.Process.Kill()
		<-k.gone
	}
	if k.starts != nil {
		k.starts.Release()
	}
	if err := errors.Join(cgroup.Kill(k.spec.Linux.CgroupsPath), cgroup.Remove(k.spec.Linux.CgroupsPath)); err != nil {
		k.Error(err)
	}
	for _, m := range mountsBelow(k.state) {
		unix.Unmount(m, unix.MNT_DETACH)
	}
	if k.Failed() {
		k.Logf("shim.log:\n%s", k.shimLog())
	}
}

func holdFile(t *testing.T, path string) (release func()) {
	t.Helper()
	h, err := lock.Hold(path)
	must(t, err)
	return func() { h.Release() }
}
