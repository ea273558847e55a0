// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/lib/taskapi"
)

// containerd is what a shim sees of it: an address for events, and how it calls a shim's binary.
type containerd struct {
	*testing.T
	dir    string
	mu     sync.Mutex
	topics []string
	times  []time.Time // of the topics
	exits  map[string]int
	server *ttrpc.Server
}

func newContainerd(t *testing.T) *containerd {
	c := &containerd{T: t, dir: t.TempDir(), exits: make(map[string]int)}
	c.listen()
	t.Cleanup(func() { c.server.Close() })
	return c
}

func (c *containerd) listen() {
	c.Helper()
	path := filepath.Join(c.dir, "ttrpc")
	os.Remove(path)
	l, err := net.Listen("unix", path)
	must(c, err)
	c.server, err = ttrpc.NewServer()
	must(c, err)
	events.RegisterTTRPCEventsService(c.server, c)
	go c.server.Serve(context.Background(), l)
}

func (c *containerd) Forward(_ context.Context, r *events.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := r.Envelope
	// An event whose answer was lost comes again.
	if n := len(c.times); n > 0 && c.times[n-1].Equal(e.Timestamp.AsTime()) {
		return new(emptypb.Empty), nil
	}
	c.times = append(c.times, e.Timestamp.AsTime())
	c.topics = append(c.topics, strings.TrimPrefix(e.Topic, "/tasks/"))
	if e.Namespace != namespace {
		c.Errorf("event of namespace %q", e.Namespace)
	}
	if e.Event.TypeUrl == "containerd.events.TaskExit" {
		var x apievents.TaskExit
		must(c, proto.Unmarshal(e.Event.Value, &x))
		c.exits[x.ID]++
	}
	return new(emptypb.Empty), nil
}

func (c *containerd) seen() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.topics, " ")
}

// call calls the shim's binary for k's bundle.
func (c *containerd) call(k *task, stdin []byte, env []string, action string, more ...string) []byte {
	c.Helper()
	b, err := json.Marshal(k.spec)
	must(c, err)
	// In one step: the engine that an earlier start has made may be reading it.
	must(c, os.WriteFile(filepath.Join(k.dir, "config.new"), b, 0o600))
	must(c, os.Rename(filepath.Join(k.dir, "config.new"), filepath.Join(k.dir, "config.json")))
	return c.run(k, stdin, env, action, more...)
}

// run is call with the config.json that is there.
func (c *containerd) run(k *task, stdin []byte, env []string, action string, more ...string) []byte {
	c.Helper()
	args := append([]string{"-namespace", namespace, "-address", filepath.Join(c.dir, "sock"), "-publish-binary", "/nosuch", "-id", k.id}, more...)
	cmd := exec.Command(shimBinary, append(args, action)...)
	cmd.Dir, cmd.Stdin = k.dir, bytes.NewReader(stdin)
	cmd.Env = append(append(os.Environ(), "GOMAXPROCS=2"), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.Fatalf("%s: %v: %s", action, err, stderr.String())
	}
	return out
}

func (c *containerd) params(k *task) []byte {
	c.Helper()
	sockets := filepath.Join(c.dir, "s")
	b, err := proto.Marshal(&bootapi.BootstrapParams{
		InstanceID: k.id, Namespace: namespace, ContainerdTtrpcAddress: filepath.Join(c.dir, "ttrpc"),
		ContainerdGrpcAddress: filepath.Join(c.dir, "sock"), SocketDir: &sockets,
	})
	must(c, err)
	return b
}

// start starts the shim for k, or finds it, as containerd 2.3 and later do.
func (c *containerd) start(k *task) string {
	c.Helper()
	var r bootapi.BootstrapResult
	must(c, proto.Unmarshal(c.call(k, c.params(k), nil, "start"), &r))
	if r.Version != 3 || r.Protocol != "ttrpc" || !strings.HasPrefix(r.Address, "unix://"+c.dir+"/s/") {
		c.Fatalf("answer %v", &r)
	}
	if b, err := os.ReadFile(filepath.Join(k.dir, "address")); string(b) != r.Address || err != nil {
		c.Errorf("address file %q, %v", b, err)
	}
	if k.client == nil {
		var err error
		k.client, err = taskapi.Dial(c.Context(), r.Address)
		must(c, err)
	}
	return r.Address
}

// bareTask is a task whose client is containerd.
func bareTask(t *testing.T, args ...string) *task {
	k := newTask(t, args...)
	k.bare = true
	must(t, unix.Mkfifo(filepath.Join(k.dir, "log"), 0o700))
	return k
}

func (k *task) mustRun() {
	k.Helper()
	_, err := k.client.Create(k.Context(), k.request())
	must(k, err)
	_, err = k.client.Start(k.Context(), &taskapi.StartRequest{ID: k.id})
	must(k, err)
}

func (k *task) mustDelete() *taskapi.DeleteResponse {
	k.Helper()
	_, err := k.client.Wait(k.Context(), &taskapi.WaitRequest{ID: k.id})
	must(k, err)
	d, err := k.client.Delete(k.Context(), &taskapi.DeleteRequest{ID: k.id})
	must(k, err)
	return d
}

func (k *task) supervisor() int {
	k.Helper()
	r, err := k.client.Connect(k.Context(), &taskapi.ConnectRequest{ID: k.id})
	must(k, err)
	return int(r.ShimPid)
}

func (k *task) ends(pid int) {
	k.Helper()
	k.until("the end of the supervisor", func() bool {
		b, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}

// TestContainerdLife: start, create, exec, pause, kill, delete and shutdown, with the events of containerd's shims
// in their order.
func TestContainerdLife(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "sleep", "1000")
	fifo, err := os.OpenFile(filepath.Join(k.dir, "log"), os.O_RDWR|unix.O_NONBLOCK, 0)
	must(t, err)
	defer fifo.Close()
	address := c.start(k)
	if c.start(k) != address {
		t.Error("a second start is another supervisor")
	}
	pid := k.supervisor()
	defer func() { unix.Kill(pid, unix.SIGKILL) }()
	ctx := t.Context()
	k.mustRun()
	if b, err := os.ReadFile(filepath.Join(k.dir, "init.pid")); string(b) != itoa(k.initPid()) || err != nil {
		t.Errorf("init.pid %q, %v", b, err)
	}
	if got := k.run("one", "echo", "hello"); got != "hello\n" {
		t.Errorf("exec %q", got)
	}
	must(t, k.client.Pause(ctx, &taskapi.PauseRequest{ID: k.id}))
	must(t, k.client.Resume(ctx, &taskapi.ResumeRequest{ID: k.id}))
	must(t, k.client.Shutdown(ctx, &taskapi.ShutdownRequest{ID: k.id}))
	before := "create start exec-added exec-started exit paused resumed"
	k.until("the events", func() bool { return c.seen() == before })
	// containerd goes for a moment. (An event whose answer it does not live to give would come twice.)
	c.server.Close()
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	if d := k.mustDelete(); d.ExitStatus != 137 {
		t.Errorf("%+v", d)
	}
	if _, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id}); !errdefs.IsNotFound(err) {
		t.Errorf("state of deleted: %v", err)
	}
	back := time.Now()
	c.listen()
	want := before + " exit delete"
	k.until("the events", func() bool { return c.seen() == want })
	if last := c.times[len(c.times)-1]; last.After(back) {
		t.Errorf("an event of before %v has the time %v", back, last)
	}
	if c.exits[k.id] != 1 || c.exits["one"] != 1 {
		t.Errorf("exits %v", c.exits)
	}
	must(t, k.client.Shutdown(ctx, &taskapi.ShutdownRequest{ID: k.id}))
	k.ends(pid)
	for _, name := range []string{"shim.json", "init.json", "started.json", "exit.json", "shim.lock"} {
		if _, err := os.Lstat(filepath.Join(k.dir, name)); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	k.nothingLeft()
}

// TestContainerdCreateFails: no event, and the supervisor stays until Shutdown.
func TestContainerdCreateFails(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "nosuch")
	c.start(k)
	pid := k.supervisor()
	defer func() { unix.Kill(pid, unix.SIGKILL) }()
	for range 2 {
		if _, err := k.client.Create(t.Context(), k.request()); !errdefs.IsNotFound(err) {
			t.Errorf("create: %v", err)
		}
	}
	must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id}))
	k.ends(pid)
	if got := c.seen(); got != "" {
		t.Errorf("events: %s", got)
	}
	k.nothingLeft()
}

// TestContainerdPod: containers of one pod have one supervisor.
func TestContainerdPod(t *testing.T) {
	c := newContainerd(t)
	a, b := bareTask(t, "sleep", "1000"), bareTask(t, "sleep", "1000")
	for _, k := range []*task{a, b} {
		k.spec.Annotations = map[string]string{"io.kubernetes.cri.sandbox-id": a.id}
	}
	if one, two := c.start(a), c.start(b); one != two {
		t.Fatalf("%s and %s", one, two)
	}
	pid := a.supervisor()
	defer func() { unix.Kill(pid, unix.SIGKILL) }()
	a.mustRun()
	b.mustRun()
	must(t, a.client.Kill(t.Context(), &taskapi.KillRequest{ID: a.id, Signal: 9}))
	a.mustDelete()
	must(t, a.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: a.id}))
	if got := b.run("one", "echo", "lives"); got != "lives\n" {
		t.Errorf("exec %q", got)
	}
	must(t, b.client.Kill(t.Context(), &taskapi.KillRequest{ID: b.id, Signal: 9}))
	b.mustDelete()
	must(t, b.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: b.id}))
	b.ends(pid)
	a.nothingLeft()
	b.nothingLeft()
}

// TestContainerdDelete: delete removes what a killed supervisor has left.
func TestContainerdDelete(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "sleep", "1000")
	c.start(k)
	k.mustRun()
	pid, init := k.supervisor(), k.initPid()
	must(t, unix.Kill(pid, unix.SIGKILL))
	k.ends(pid)
	if m := mountsBelow(k.state); len(m) > 0 {
		t.Errorf("mounts are left: %q", m)
	}
	var r taskv3.DeleteResponse
	must(t, proto.Unmarshal(c.call(k, nil, nil, "delete", "-bundle", k.dir), &r))
	if int(r.Pid) != init || r.ExitStatus != 137 || time.Since(r.ExitedAt.AsTime()) > time.Minute {
		t.Errorf("%v", &r)
	}
	k.nothingLeft()
	if left, _ := filepath.Glob(filepath.Join(c.dir, "s", strings.Repeat("[0-9a-f]", 32))); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// Again, and what is wrong with the hooks is no matter.
	must(t, os.WriteFile(filepath.Join(k.dir, "config.json"), []byte(`{"hooks": {"poststop": [{"timeout": "5"}]}}`), 0o600))
	c.run(k, nil, nil, "delete", "-bundle", k.dir)
	// The same container can be started again.
	k.client.Close()
	k.client = nil
	c.start(k)
	k.mustRun()
	pid = k.supervisor()
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.mustDelete()
	must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id}))
	k.ends(pid)
}

// TestContainerdBefore23: the answer is what older containerds read.
func TestContainerdBefore23(t *testing.T) {
	for _, c17 := range []bool{false, true} {
		c := newContainerd(t)
		k := bareTask(t, "true")
		env := []string{"TTRPC_ADDRESS=" + filepath.Join(c.dir, "ttrpc")}
		if c17 {
			env = append(env, "MAX_SHIM_VERSION=2")
		}
		options, err := proto.Marshal(&types.RuntimeInfo{Name: "containerd.runc.v1.Options"}) // an Any's type_url
		must(t, err)
		out := string(c.call(k, options, env, "start", "-sockets", filepath.Join(c.dir, "s")))
		if c17 {
			var a struct {
				Version int
				Address string
			}
			must(t, json.Unmarshal([]byte(out), &a))
			if a.Version != 2 {
				t.Errorf("version %d, which containerd 1.7 refuses", a.Version)
			}
			out = a.Address
		}
		k.client, err = taskapi.Dial(t.Context(), out)
		must(t, err)
		pid := k.supervisor()
		must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id}))
		k.ends(pid)
	}
}

// TestInfo: -info tells who the shim is and what the engine can do.
func TestInfo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs the built shim, which is built for root")
	}
	out, err := exec.Command(shimBinary, "-info").Output()
	must(t, err)
	var info types.RuntimeInfo
	must(t, proto.Unmarshal(out, &info))
	var features struct{ OCIVersionMax string }
	must(t, json.Unmarshal(info.Features.Value, &features))
	if info.Name == "" || info.Version == nil || features.OCIVersionMax == "" || !strings.Contains(info.Features.TypeUrl, "features") {
		t.Errorf("%v", &info)
	}
	if out, err := exec.Command(shimBinary, "-v").Output(); err != nil || !strings.HasPrefix(string(out), "ctr-shim ") {
		t.Errorf("%q, %v", out, err)
	}
}
