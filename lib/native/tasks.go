// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	taskmessages "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/checkpoint"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

type taskService struct {
	tasksapi.UnimplementedTasksServer
	s *Server
}

// on calls fn with the task of a container.
func (s taskService) on(ctx context.Context, id string, fn func(*task.Task) error) error {
	ns, err := namespace(ctx)
	if err != nil {
		return err
	}
	t, err := task.OpenTask(ctx, s.s.d, ns, id)
	if err != nil {
		return err
	}
	defer t.Close() // nothing is written on the connection any more
	return fn(t)
}

// do is on for calls that have nothing to tell.
func (s taskService) do(ctx context.Context, id string, fn func(*task.Task) error) (*emptypb.Empty, error) {
	if err := s.on(ctx, id, fn); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Create makes a task, whose program waits for Start as long as it must.
func (s taskService) Create(ctx context.Context, r *tasksapi.CreateTaskRequest) (_ *tasksapi.CreateTaskResponse, err error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	t, err := task.Open(ctx, s.s.d, ns, r.ContainerID)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	given := task.Given{
		IO:      taskdir.IO{Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr},
		Options: shimAny(r.Options), Shim: r.RuntimePath,
	}
	dir, done, err := s.thawed(ctx, t, r)
	if err != nil {
		return nil, err
	}
	given.Checkpoint = dir
	defer func() { err = done(err) }()
	all, root, err := s.s.rootfs(ctx, t, r.Rootfs)
	if err != nil {
		return nil, err
	}
	given.Rootfs = all
	err = t.CreateGiven(ctx, given)
	root.settle(ctx, err)
	if err != nil {
		return nil, err
	}
	return &tasksapi.CreateTaskResponse{ContainerID: r.ContainerID, Pid: uint32(t.PID())}, nil
}

// Start runs the task's program, or an exec.
func (s taskService) Start(ctx context.Context, r *tasksapi.StartRequest) (*tasksapi.StartResponse, error) {
	pid := 0
	err := s.on(ctx, r.ContainerID, func(t *task.Task) (err error) {
		if r.ExecID != "" {
			pid, err = t.StartExec(ctx, r.ExecID)
			return err
		}
		restores, err := t.ToRestore()
		if err == nil {
			err = t.Begin(ctx)
		}
		pid = t.PID()
		if err == nil && restores {
			err = checkpoint.Sweep(s.s.d, t) // what it was restored from
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &tasksapi.StartResponse{Pid: uint32(pid)}, nil
}

// Delete deletes a task that has ended or was not started.
func (s taskService) Delete(ctx context.Context, r *tasksapi.DeleteTaskRequest) (m *tasksapi.DeleteResponse, err error) {
	err = s.on(ctx, r.ContainerID, func(t *task.Task) error {
		root, err := s.s.rootOf(ctx, t) // while the task is there: no other has the container's mounts
		if err != nil {
			return err
		}
		p, err := t.Delete(ctx)
		m = deletedMessage(p)
		if err == nil {
			s.s.endRoot(ctx, t.Namespace, root)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// DeleteProcess deletes an exec that does not run.
func (s taskService) DeleteProcess(ctx context.Context, r *tasksapi.DeleteProcessRequest) (m *tasksapi.DeleteResponse, err error) {
	if r.ExecID == "" {
		return nil, fmt.Errorf("delete a process of container %q: no exec id: %w", r.ContainerID, errdefs.ErrInvalidArgument)
	}
	err = s.on(ctx, r.ContainerID, func(t *task.Task) error {
		p, err := t.DeleteExec(ctx, r.ExecID)
		m = deletedMessage(p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func deletedMessage(p task.ProcessState) *tasksapi.DeleteResponse {
	return &tasksapi.DeleteResponse{ID: processID(p), Pid: uint32(p.PID), ExitStatus: uint32(p.Exit.Status), ExitedAt: stamp(p.Exit.ExitedAt)}
}

// Get tells what a task or an exec does.
func (s taskService) Get(ctx context.Context, r *tasksapi.GetRequest) (*tasksapi.GetResponse, error) {
	var m *taskmessages.Process
	err := s.on(ctx, r.ContainerID, func(t *task.Task) error {
		p, err := t.State(ctx, r.ExecID)
		m = processMessage(p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &tasksapi.GetResponse{Process: m}, nil
}

// List tells of all tasks of the namespace.
func (s taskService) List(ctx context.Context, _ *tasksapi.ListTasksRequest) (*tasksapi.ListTasksResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	all, err := task.States(ctx, s.s.d, ns, func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	answer := &tasksapi.ListTasksResponse{}
	for _, p := range all {
		answer.Tasks = append(answer.Tasks, processMessage(p))
	}
	return answer, nil
}

func processMessage(p task.ProcessState) *taskmessages.Process {
	return &taskmessages.Process{
		ContainerID: p.ContainerID, ID: processID(p), Pid: uint32(p.PID), Status: taskmessages.Status(p.Status), // the numbers are the same
		Stdin: p.IO.Stdin, Stdout: p.IO.Stdout, Stderr: p.IO.Stderr, Terminal: p.IO.Terminal,
		ExitStatus: uint32(p.Exit.Status), ExitedAt: stamp(p.Exit.ExitedAt),
	}
}

// processID names a task by its container, as containerd does.
func processID(p task.ProcessState) string {
	if p.ExecID != "" {
		return p.ExecID
	}
	return p.ContainerID
}

// stamp is nil for the zero time.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Kill sends a signal to a process, or to all of the task.
func (s taskService) Kill(ctx context.Context, r *tasksapi.KillRequest) (*emptypb.Empty, error) {
	return s.do(ctx, r.ContainerID, func(t *task.Task) error { return t.SignalProcess(ctx, r.ExecID, unix.Signal(r.Signal), r.All) })
}

// Exec adds a process to a task, which Start runs.
func (s taskService) Exec(ctx context.Context, r *tasksapi.ExecProcessRequest) (*emptypb.Empty, error) {
	if r.ExecID == "" {
		return nil, fmt.Errorf("exec in container %q: no exec id: %w", r.ContainerID, errdefs.ErrInvalidArgument)
	}
	io := taskdir.IO{Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr}
	return s.do(ctx, r.ContainerID, func(t *task.Task) error { return t.AddExec(ctx, r.ExecID, io, shimAny(r.Spec)) })
}

// ResizePty sets the size of a process's terminal.
func (s taskService) ResizePty(ctx context.Context, r *tasksapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return s.do(ctx, r.ContainerID, func(t *task.Task) error { return t.ResizeProcess(ctx, r.ExecID, r.Width, r.Height) })
}

// CloseIO ends a process's input.
func (s taskService) CloseIO(ctx context.Context, r *tasksapi.CloseIORequest) (*emptypb.Empty, error) {
	return s.do(ctx, r.ContainerID, func(t *task.Task) error {
		if !r.Stdin {
			return nil
		}
		return t.CloseStdin(ctx, r.ExecID)
	})
}

// Pause stops all processes of a task where they are.
func (s taskService) Pause(ctx context.Context, r *tasksapi.PauseTaskRequest) (*emptypb.Empty, error) {
	return s.do(ctx, r.ContainerID, func(t *task.Task) error { return t.Pause(ctx) })
}

// Resume lets a paused task go on.
func (s taskService) Resume(ctx context.Context, r *tasksapi.ResumeTaskRequest) (*emptypb.Empty, error) {
	return s.do(ctx, r.ContainerID, func(t *task.Task) error { return t.Resume(ctx) })
}

// ListPids lists the processes of a task.
func (s taskService) ListPids(ctx context.Context, r *tasksapi.ListPidsRequest) (*tasksapi.ListPidsResponse, error) {
	answer := &tasksapi.ListPidsResponse{}
	err := s.on(ctx, r.ContainerID, func(t *task.Task) error {
		all, err := t.Pids(ctx)
		for _, p := range all {
			answer.Processes = append(answer.Processes, &taskmessages.ProcessInfo{Pid: p.Pid, Info: clientAny(p.Info)})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// Update changes the limits of a task.
func (s taskService) Update(ctx context.Context, r *tasksapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return s.do(ctx, r.ContainerID, func(t *task.Task) error {
		return t.UpdateNow(ctx, &taskapi.UpdateTaskRequest{Resources: shimAny(r.Resources), Annotations: r.Annotations})
	})
}

// Metrics measures the tasks that a filter fits. One that does not run, or is gone, has no answer.
func (s taskService) Metrics(ctx context.Context, r *tasksapi.MetricsRequest) (*tasksapi.MetricsResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return nil, err
	}
	all, err := task.States(ctx, s.s.d, ns, func(id string) bool { return f.Match(taskFields(ns, id)) })
	if err != nil {
		return nil, err
	}
	answer := &tasksapi.MetricsResponse{}
	for _, p := range all {
		if p.Status == taskapi.StatusStopped {
			continue
		}
		err := s.on(ctx, p.ContainerID, func(t *task.Task) error {
			stats, err := t.Stats(ctx)
			if err == nil {
				answer.Metrics = append(answer.Metrics, &types.Metric{Timestamp: timestamppb.Now(), ID: p.ContainerID, Data: clientAny(stats)})
			}
			return err
		})
		if err != nil && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			s.s.log.Debug("a task cannot be measured", "namespace", ns, "container", p.ContainerID, "error", err)
		}
	}
	return answer, nil
}

// taskFields are those that a filter of tasks can name.
func taskFields(ns, id string) filter.Fields {
	return func(path []string) (string, bool) {
		if len(path) != 1 {
			return "", false
		}
		switch path[0] {
		case "id":
			return id, true
		case "namespace":
			return ns, true
		}
		return "", false
	}
}

// Wait answers when a process has ended. When the server ends before, it breaks: its client asks the next one.
func (s taskService) Wait(ctx context.Context, r *tasksapi.WaitRequest) (*tasksapi.WaitResponse, error) {
	var exit taskdir.Exit
	err := s.on(ctx, r.ContainerID, func(t *task.Task) (err error) {
		exit, err = t.WaitProcess(ctx, r.ExecID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &tasksapi.WaitResponse{ExitStatus: uint32(exit.Status), ExitedAt: stamp(exit.ExitedAt)}, nil
}

// shimAny is a message for a shim; nil for one that says nothing.
func shimAny(m *anypb.Any) *taskapi.Any {
	if m.GetTypeUrl() == "" && len(m.GetValue()) == 0 {
		return nil
	}
	return &taskapi.Any{TypeURL: m.TypeUrl, Value: m.Value}
}

func clientAny(a *taskapi.Any) *anypb.Any {
	if a == nil {
		return nil
	}
	return &anypb.Any{TypeUrl: a.TypeURL, Value: a.Value}
}
