// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// tasker is a world that ctrd serves, with an image and a namespace of its own for containers.
type tasker struct {
	*native
	ctx       context.Context
	namespace string
	runtime   string
	options   any // of the runtime
}

// withTasks runs a test with our shim and with containerd's, each in a new world, and wants nothing to be left behind.
func withTasks(t *testing.T, test func(t *testing.T, n *tasker)) {
	for i, s := range shims {
		t.Run(s.name, func(t *testing.T) {
			n := &tasker{native: withNative(t), namespace: fmt.Sprintf("%s-n%d", mark, i), runtime: s.program}
			if s.program == ours {
				n.runtime = "io.containerd.runc.v2" // there is no other on the server's PATH
			} else {
				n.options = &options.Options{BinaryName: filepath.Join(peers, "runc")}
			}
			ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), n.namespace), 3*patience)
			t.Cleanup(cancel)
			n.ctx = ctx
			n.command(t, "ctr-pull", "-q", busybox)
			n.after = func() { n.check(t) }
			test(t, n)
		})
	}
}

// command runs one of our commands in the namespace and gives its stdout.
func (n *tasker) command(t *testing.T, args ...string) string {
	t.Helper()
	return n.Must(t, append([]string{args[0], "-n", n.namespace}, args[1:]...)...)
}

// ctr runs containerd's ctr.
func (n *tasker) ctr(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return finish(t, ctx, n.ctrCommand(ctx, args...))
}

func (n *tasker) ctrCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(peers, "ctr"), append([]string{"--address", n.socket(), "-n", n.namespace}, args...)...)
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	return cmd
}

// rootfs makes a snapshot for a container and gives its mounts.
func (n *tasker) rootfs(t *testing.T, key string) (all []mount.Mount) {
	t.Helper()
	n.command(t, "ctr-snap", "prepare", "--image", busybox, key)
	for d := json.NewDecoder(strings.NewReader(n.command(t, "ctr-snap", "mounts", "--json", key))); d.More(); {
		var m mount.Mount
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		m.Target = ""
		all = append(all, m)
	}
	return all
}

// container records a container through the client.
func (n *tasker) container(t *testing.T, id string, args []string, opts ...oci.SpecOpts) containerd.Container {
	t.Helper()
	opts = append([]oci.SpecOpts{oci.WithDefaultPathEnv, oci.WithProcessArgs(args...)}, opts...)
	c, err := n.client.NewContainer(n.ctx, id, containerd.WithNewSpec(opts...), containerd.WithRuntime(n.runtime, n.options))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// create makes a task whose output goes to a buffer.
func (n *tasker) create(t *testing.T, c containerd.Container, out *output, opts ...containerd.NewTaskOpts) containerd.Task {
	t.Helper()
	made, err := c.NewTask(n.ctx, cio.NewCreator(cio.WithStreams(nil, out, out), cio.WithFIFODir(n.State+"-fifo")), append(opts, containerd.WithRootFS(n.rootfs(t, c.ID())))...)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// remove deletes container and snapshot.
func (n *tasker) remove(t *testing.T, c containerd.Container) {
	t.Helper()
	if err := c.Delete(n.ctx); err != nil {
		t.Error(err)
	}
	n.command(t, "ctr-snap", "rm", c.ID())
}

func status(t *testing.T, ctx context.Context, p containerd.Process) containerd.Status {
	t.Helper()
	s, err := p.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestNativeTask: the life of a task, from the client's side and from that of the commands.
func TestNativeTask(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		var out output
		c := n.container(t, "c1", []string{"sh", "-c", "echo out; trap 'exit 7' TERM; while :; do sleep 0.1; done"})
		task := n.create(t, c, &out)
		if _, err := c.NewTask(n.ctx, cio.NullIO); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second task: %v", err)
		}
		if s := status(t, n.ctx, task); s.Status != containerd.Created || task.Pid() == 0 {
			t.Errorf("created: %+v", s)
		}
		first, err := task.Wait(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		second, err := task.Wait(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := task.Start(n.ctx); err != nil {
			t.Fatal(err)
		}
		// Not through the task, whose streams a failure closes.
		if _, err := n.client.TaskService().Start(n.ctx, &tasks.StartRequest{ContainerID: "c1"}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
			t.Errorf("start again: %v", err)
		}
		if s := status(t, n.ctx, task); s.Status != containerd.Running {
			t.Errorf("started: %+v", s)
		}
		if _, err := task.Delete(n.ctx); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("delete of one that runs: %v", err)
		}
		if out := n.command(t, "ctr-task", "ls", "-o", "id,status"); out != "c1\trunning\n" {
			t.Errorf("ctr-task ls: %q", out)
		}
		if r := n.ctr(t, "task", "ls"); !strings.Contains(r.stdout, "RUNNING") {
			t.Errorf("ctr task ls: %s", r)
		}
		if err := task.Pause(n.ctx); err != nil {
			t.Error(err)
		}
		if s := status(t, n.ctx, task); s.Status != containerd.Paused {
			t.Errorf("paused: %+v", s)
		}
		if err := task.Resume(n.ctx); err != nil {
			t.Error(err)
		}
		if pids, err := task.Pids(n.ctx); err != nil || !slices.ContainsFunc(pids, func(p containerd.ProcessInfo) bool { return p.Pid == task.Pid() }) {
			t.Errorf("pids: %v, %v; want %d", pids, err, task.Pid())
		}
		if m, err := task.Metrics(n.ctx); err != nil || m.ID != "c1" || m.Data == nil {
			t.Errorf("metrics: %v, %v", m, err)
		}
		limit := int64(64 << 20)
		if err := task.Update(n.ctx, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})); err != nil {
			t.Errorf("update: %v", err)
		}
		until(t, "the program's trap is set", func() error {
			if !strings.Contains(out.String(), "out") {
				return errors.New("no output")
			}
			return nil
		})
		if err := task.Kill(n.ctx, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		for _, ended := range []<-chan containerd.ExitStatus{first, second} {
			if s := <-ended; s.ExitCode() != 7 || s.Error() != nil {
				t.Errorf("wait: %+v", s)
			}
		}
		third, _ := task.Wait(n.ctx)
		if s := <-third; s.ExitCode() != 7 {
			t.Errorf("wait after the end: %+v", s)
		}
		s := status(t, n.ctx, task)
		if s.Status != containerd.Stopped || s.ExitStatus != 7 || s.ExitTime.IsZero() {
			t.Errorf("stopped: %+v", s)
		}
		if err := task.Kill(n.ctx, syscall.SIGCHLD); !errdefs.IsNotFound(err) {
			t.Errorf("kill of one that has ended: %v", err)
		}
		if _, err := c.NewTask(n.ctx, cio.NullIO); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second task beside one that has ended: %v", err)
		}
		if r := n.Run(t, nil, "ctr-task", "-n", n.namespace, "logs", "c1"); r.Status == 0 || !strings.Contains(r.Stderr, "client") {
			t.Errorf("ctr-task logs: %s", r)
		}
		if out := n.Run(t, nil, "ctr-task", "-n", n.namespace, "wait", "c1"); out.Status != 7 && out.Stdout != "7\n" {
			t.Errorf("ctr-task wait: %s", out)
		}
		if e, err := task.Delete(n.ctx); err != nil || e.ExitCode() != 7 || e.ExitTime() != s.ExitTime {
			t.Errorf("delete: %+v, %v", e, err)
		}
		if out.String() != "out\n" {
			t.Errorf("output: %q", out.String())
		}
		if _, err := c.Task(n.ctx, nil); !errdefs.IsNotFound(err) {
			t.Errorf("get of one that is deleted: %v", err)
		}
		if m, err := n.client.TaskService().Metrics(n.ctx, &tasks.MetricsRequest{Filters: []string{"id==c1"}}); err != nil || len(m.Metrics) != 0 {
			t.Errorf("metrics of one that is deleted: %v, %v", m, err)
		}
		n.remove(t, c)
	})
}

// TestNativeTaskExec: execs stay until they are deleted, also when their container has ended.
func TestNativeTaskExec(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		c := n.container(t, "c1", []string{"sleep", "1000"})
		task := n.create(t, c, new(output))
		if err := task.Start(n.ctx); err != nil {
			t.Fatal(err)
		}
		spec, err := c.Spec(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		add := func(id string, out *output, args ...string) containerd.Process {
			t.Helper()
			p := *spec.Process
			p.Args = args
			made, err := task.Exec(n.ctx, id, &p, cio.NewCreator(cio.WithStreams(strings.NewReader("typed\n"), out, out), cio.WithFIFODir(n.State+"-fifo")))
			if err != nil {
				t.Fatal(err)
			}
			return made
		}
		var out output
		e := add("e1", &out, "sh", "-c", "head -n1; exit 5")
		if s := status(t, n.ctx, e); s.Status != containerd.Created {
			t.Errorf("added: %+v", s)
		}
		if _, err := task.Exec(n.ctx, "e1", spec.Process, cio.NullIO); !errdefs.IsAlreadyExists(err) {
			t.Errorf("the same id: %v", err)
		}
		ended, err := e.Wait(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(n.ctx); err != nil {
			t.Fatal(err)
		}
		if s := <-ended; s.ExitCode() != 5 {
			t.Errorf("wait: %+v", s)
		}
		if s := status(t, n.ctx, e); s.Status != containerd.Stopped || s.ExitStatus != 5 {
			t.Errorf("ended: %+v", s)
		}
		if s, err := e.Delete(n.ctx); err != nil || s.ExitCode() != 5 {
			t.Errorf("delete: %+v, %v", s, err)
		}
		if out.String() != "typed\n" {
			t.Errorf("output: %q", out.String())
		}
		if _, err := e.Status(n.ctx); !errdefs.IsNotFound(err) {
			t.Errorf("of one that is deleted: %v", err)
		}
		if r := n.ctr(t, "task", "exec", "--exec-id", "e2", "c1", "sh", "-c", "echo hi; exit 3"); r.status != 3 || r.stdout != "hi\n" {
			t.Errorf("ctr task exec: %s", r)
		}
		if r := n.Run(t, nil, "ctr-task", "-n", n.namespace, "exec", "c1", "sh", "-c", "id -un; exit 4"); r.Status != 4 || r.Stdout != "root\n" {
			t.Errorf("ctr-task exec: %s", r)
		}

		waits, runs := add("waits", new(output), "true"), add("runs", new(output), "sleep", "1000")
		ended, err = runs.Wait(n.ctx)
		if err == nil {
			err = runs.Start(n.ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		init, err := task.Wait(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := task.Kill(n.ctx, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		if s := <-init; s.ExitCode() != 137 {
			t.Errorf("init: %+v", s)
		}
		if s := <-ended; s.ExitCode() != 137 {
			t.Errorf("the exec of a container that was killed: %+v", s)
		}
		if err := waits.Start(n.ctx); err == nil {
			t.Error("an exec was started in a container that has ended")
		} else if n.runtime != shims[0].program && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("start in a container that has ended: %v", err)
		}
		if n.runtime != shims[0].program {
			if s := status(t, n.ctx, waits); s.Status != containerd.Created {
				t.Errorf("an exec that was not started: %+v", s)
			}
		}
		for _, p := range []containerd.Process{waits, runs} {
			if _, err := p.Delete(n.ctx); err != nil {
				t.Errorf("delete of an exec of a container that has ended: %v", err)
			}
		}
		if _, err := task.Delete(n.ctx); err != nil {
			t.Error(err)
		}
		n.remove(t, c)
	})
}

// TestNativeTaskEvents: each process has one exit, and a Create that fails none.
func TestNativeTaskEvents(t *testing.T) {
	n, out := withOurTasks(t), new(output)
	subscribed, cancel := context.WithCancel(n.ctx)
	defer cancel()
	envelopes, errs := n.subscribe(t, subscribed, `topic~="^/tasks/"`)

	bad := n.container(t, "bad", []string{"/no/such/program"})
	if _, err := bad.NewTask(n.ctx, cio.NullIO, containerd.WithRootFS(n.rootfs(t, "bad"))); err == nil {
		t.Error("a task was made of a program that is not there")
	}
	if _, err := bad.Task(n.ctx, nil); !errdefs.IsNotFound(err) {
		t.Errorf("after a Create that failed: %v", err)
	}
	c := n.container(t, "c1", []string{"sleep", "1000"})
	task := n.create(t, c, out)
	if err := task.Start(n.ctx); err != nil {
		t.Fatal(err)
	}
	if r := n.ctr(t, "task", "exec", "--exec-id", "e1", "c1", "true"); r.status != 0 {
		t.Errorf("exec: %s", r)
	}
	ended, _ := task.Wait(n.ctx)
	if err := task.Kill(n.ctx, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	<-ended
	if _, err := task.Delete(n.ctx); err != nil {
		t.Error(err)
	}
	n.command(t, "ctr-snap", "rm", "bad")
	bad.Delete(n.ctx)
	n.remove(t, c)
	var got []string
	for len(got) == 0 || got[len(got)-1] != "/tasks/delete c1" {
		select {
		case e := <-envelopes:
			v, err := typeurl.UnmarshalAny(e.Event)
			if err != nil {
				t.Fatal(err)
			}
			line := e.Topic
			switch v := v.(type) {
			case *events.TaskExit:
				line += " " + v.ID
			case *events.TaskDelete:
				line += " " + v.ID
			}
			got = append(got, line)
		case err := <-errs:
			t.Fatal(err)
		case <-n.ctx.Done():
			t.Fatalf("no more events than %q", got)
		}
	}
	want := []string{"/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit e1", "/tasks/delete e1", "/tasks/exit c1", "/tasks/delete c1"}
	if !slices.Equal(got, want) {
		t.Errorf("events:\n%q\nwant\n%q", got, want)
	}
}

// withOurTasks is withTasks for tests that one shim is enough for.
func withOurTasks(t *testing.T) *tasker {
	t.Helper()
	n := &tasker{native: withNative(t), namespace: mark + "-own", runtime: "io.containerd.runc.v2"}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), n.namespace), 3*patience)
	n.ctx = ctx
	n.command(t, "ctr-pull", "-q", busybox)
	t.Cleanup(cancel)
	n.after = func() { n.check(t) }
	return n
}

// check wants nothing to be left behind.
func (n *tasker) check(t *testing.T) {
	if !t.Failed() {
		n.command(t, "ctr-image", "rm", busybox)
		n.Empty(t)
	}
	removeCgroups(n.namespace)
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// TestNativeTaskOptions: what the client says goes to the shim: the engine, a logging program, a file, a shim of its own.
func TestNativeTaskOptions(t *testing.T) {
	n := withOurTasks(t)
	for name, opt := range map[string]containerd.NewContainerOpts{
		"task":      containerd.WithRuntime(n.runtime, nil),
		"container": containerd.WithRuntime(n.runtime, &options.Options{BinaryName: "no-runc"}),
	} {
		c, err := n.client.NewContainer(n.ctx, name, containerd.WithNewSpec(oci.WithProcessArgs("true")), opt)
		if err != nil {
			t.Fatal(err)
		}
		var more []containerd.NewTaskOpts
		if name == "task" {
			more = append(more, func(_ context.Context, _ *containerd.Client, i *containerd.TaskInfo) error {
				i.Options = &options.Options{BinaryName: "no-runc"}
				return nil
			})
		}
		if _, err := c.NewTask(n.ctx, cio.NullIO, append(more, containerd.WithRootFS(n.rootfs(t, name)))...); err == nil || !strings.Contains(err.Error(), `"no-runc"`) {
			t.Errorf("options of the %s: %v", name, err)
		}
		n.remove(t, c)
	}
	run := func(id string, creator cio.Creator, opts ...containerd.NewTaskOpts) {
		t.Helper()
		c := n.container(t, id, []string{"sh", "-c", "echo out; echo err >&2"})
		task, err := c.NewTask(n.ctx, creator, append(opts, containerd.WithRootFS(n.rootfs(t, id)))...)
		if err != nil {
			t.Fatal(err)
		}
		ended, err := task.Wait(n.ctx)
		if err == nil {
			err = task.Start(n.ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		if s := <-ended; s.ExitCode() != 0 {
			t.Errorf("%s: %+v", id, s)
		}
		if _, err := task.Delete(n.ctx); err != nil {
			t.Error(err)
		}
		n.remove(t, c)
	}
	file := filepath.Join(t.TempDir(), "log")
	run("file", cio.LogFile(file))
	if text, err := os.ReadFile(file); string(text) != "out\nerr\n" {
		t.Errorf("log file: %q, %v", text, err)
	}
	logger := filepath.Join(t.TempDir(), "logger")
	script := "#!/bin/sh\nexec 5>&-\n{ echo $CONTAINER_NAMESPACE $CONTAINER_ID; cat <&3; cat <&4; } > $2\n"
	if err := os.WriteFile(logger, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	file += "2"
	run("binary", cio.BinaryIO(logger, map[string]string{"to": file}))
	if text, err := os.ReadFile(file); string(text) != n.namespace+" binary\nout\nerr\n" {
		t.Errorf("logging program: %q, %v", text, err)
	}
	run("path", cio.NullIO, containerd.WithRuntimePath(shims[0].program), func(_ context.Context, _ *containerd.Client, i *containerd.TaskInfo) error {
		i.Options = &options.Options{BinaryName: filepath.Join(peers, "runc")}
		return nil
	})
	run("ours", cio.NullIO, containerd.WithRuntimePath(ours))
	info, err := n.client.RuntimeInfo(n.ctx, "", nil)
	if err != nil || info.Name == "" || info.Features == nil {
		t.Errorf("runtime info: %+v, %v", info, err)
	}
}

// TestNativeTaskKilled: a server that is killed between Create and Start, and while tasks run, costs them nothing; a
// supervisor that is killed leaves an exit.
func TestNativeTaskKilled(t *testing.T) {
	n := withOurTasks(t)
	var all []containerd.Container
	for i := range 10 {
		c := n.container(t, fmt.Sprint("c", i), []string{"sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"})
		task := n.create(t, c, new(output))
		if i == 0 {
			n.end(t, syscall.SIGKILL)
			n.native.start(t)
		}
		if i == 1 {
			n.end(t, syscall.SIGKILL)
			n.command(t, "ctr-task", "start", c.ID())
			n.native.start(t)
		} else if err := task.Start(n.ctx); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	waiting, err := all[2].Task(n.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended, err := waiting.Wait(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	n.end(t, syscall.SIGKILL)
	if s := <-ended; s.Error() == nil {
		t.Errorf("a wait does not break with the server: %+v", s)
	}
	n.native.start(t)
	if ended, err = waiting.Wait(n.ctx); err != nil {
		t.Fatal(err)
	}
	n.end(t, syscall.SIGTERM)
	if s := <-ended; s.Error() == nil {
		t.Errorf("a wait does not break when the server ends: %+v", s)
	}
	n.native.start(t)
	shim := 0
	fmt.Sscan(n.command(t, "ctr-task", "inspect", "--format", "{{.supervisor}}", "c9"), &shim)
	if shim == 0 || syscall.Kill(shim, syscall.SIGKILL) != nil {
		t.Errorf("supervisor %d cannot be killed", shim)
	}
	for i, c := range all {
		task, err := c.Task(n.ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		ended, err := task.Wait(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		want := uint32(3)
		if i == 9 {
			want = 137
		} else if r := n.ctr(t, "task", "kill", "-s", "TERM", c.ID()); r.status != 0 {
			t.Errorf("%s", r)
		}
		if s := <-ended; s.ExitCode() != want {
			t.Errorf("%s: %+v", c.ID(), s)
		}
		if s, err := task.Delete(n.ctx); err != nil || s.ExitCode() != want {
			t.Errorf("delete: %+v, %v", s, err)
		}
		n.remove(t, c)
	}
}

// TestNativeTaskBothSides: a task that a command has started is one to a client.
func TestNativeTaskBothSides(t *testing.T) {
	n := withOurTasks(t)
	n.command(t, "ctr-task", "run", "-d", "--name", "mine", busybox, "sh", "-c", "echo hello; sleep 1000")
	c, err := n.client.LoadContainer(n.ctx, "mine")
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(n.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := status(t, n.ctx, task); s.Status != containerd.Running || task.Pid() == 0 {
		t.Errorf("status %+v, pid %d", s, task.Pid())
	}
	if r := n.ctr(t, "task", "exec", "--exec-id", "e", "mine", "sh", "-c", "echo in; exit 2"); r.status != 2 || r.stdout != "in\n" {
		t.Errorf("exec: %s", r)
	}
	if r := n.ctr(t, "task", "ps", "mine"); r.status != 0 || !strings.Contains(r.stdout, fmt.Sprint(task.Pid())) {
		t.Errorf("ps: %s", r)
	}
	if r := n.ctr(t, "task", "metrics", "mine"); r.status != 0 {
		t.Errorf("metrics: %s", r)
	}
	ended, err := task.Wait(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r := n.ctr(t, "task", "kill", "-s", "KILL", "mine"); r.status != 0 {
		t.Errorf("kill: %s", r)
	}
	if s := <-ended; s.ExitCode() != 137 {
		t.Errorf("wait: %+v", s)
	}
	if out := n.command(t, "ctr-task", "logs", "mine"); out != "hello\n" {
		t.Errorf("logs: %q", out)
	}
	if _, err := task.Delete(n.ctx); err != nil {
		t.Error(err)
	}
	if out := n.command(t, "ctr-task", "ls", "-o", "id,status"); out != "mine\tcreated\n" {
		t.Errorf("ctr-task ls: %q", out)
	}
	n.command(t, "ctr-task", "rm", "mine")

	other := n.container(t, "theirs", []string{"sleep", "1000"})
	if err := n.create(t, other, new(output)).Start(n.ctx); err != nil {
		t.Fatal(err)
	}
	n.command(t, "ctr-task", "rm", "-f", "theirs")
	if _, err := other.Info(n.ctx); !errdefs.IsNotFound(err) {
		t.Errorf("after ctr-task rm: %v", err)
	}
	n.command(t, "ctr-snap", "rm", "theirs")
}

// TestNativeTaskMany: 64 clients at once run a container each to its end.
func TestNativeTaskMany(t *testing.T) {
	n := withOurTasks(t)
	const clients = 64
	roots := make([][]mount.Mount, clients)
	for i := range roots {
		roots[i] = n.rootfs(t, fmt.Sprint("m", i))
	}
	one := func(i int) error {
		client, err := containerd.New(n.socket())
		if err != nil {
			return err
		}
		defer client.Close()
		c, err := client.NewContainer(n.ctx, fmt.Sprint("m", i), containerd.WithNewSpec(oci.WithDefaultPathEnv, oci.WithProcessArgs("sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i))), containerd.WithRuntime(n.runtime, nil))
		if err != nil {
			return err
		}
		var out output
		task, err := c.NewTask(n.ctx, cio.NewCreator(cio.WithStreams(nil, &out, nil), cio.WithFIFODir(n.State+"-fifo")), containerd.WithRootFS(roots[i]))
		if err != nil {
			return err
		}
		ended, err := task.Wait(n.ctx)
		if err == nil {
			err = task.Start(n.ctx)
		}
		if err != nil {
			return err
		}
		s := <-ended
		if _, err := task.Delete(n.ctx); err != nil {
			return err
		}
		if int(s.ExitCode()) != i || out.String() != fmt.Sprintln(i) {
			return fmt.Errorf("status %d, output %q, %v", s.ExitCode(), out.String(), s.Error())
		}
		return c.Delete(n.ctx)
	}
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			if err := one(i); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	group.Wait()
	for i := range clients {
		n.command(t, "ctr-snap", "rm", fmt.Sprint("m", i))
	}
}

// TestNativeLeftSnapshots: what a client has prepared for a container that it then does not make is collected; the snapshot of a
// container, and one with a label that says so, stay.
func TestNativeLeftSnapshots(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		if r := n.ctr(t, "run", "-d", busybox, "stays", "sleep", "1000"); r.status != 0 {
			t.Fatal(r)
		}
		if r := n.ctr(t, "run", "--rm", "--user", "nosuch", busybox, "goes", "true"); r.status == 0 {
			t.Fatal(r)
		}
		n.command(t, "ctr-snap", "prepare", "--image", busybox, "work")
		until(t, "the snapshot is collected", func() error {
			if keys := n.command(t, "ctr-snap", "ls", "-q"); strings.Contains(keys, "goes") {
				return errors.New(keys)
			}
			return nil
		})
		if keys := n.command(t, "ctr-snap", "ls", "-q", "--kind", "active"); keys != "stays\nwork\n" {
			t.Errorf("active snapshots: %q", keys)
		}
		if r := n.ctr(t, "tasks", "rm", "-f", "stays"); r.status != 0 {
			t.Error(r)
		}
		if r := n.ctr(t, "containers", "rm", "stays"); r.status != 0 {
			t.Error(r)
		}
		n.command(t, "ctr-snap", "rm", "work")
	})
}
