// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskapi"
)

// State tells what a process does.
func (s *server) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	out := &taskapi.StateResponse{
		ID: r.ID, Bundle: p.t.bundle, Pid: uint32(p.pid), Status: p.state(), Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr,
		Terminal: p.terminal, ExecID: r.ExecID,
	}
	if p.status == taskapi.StatusStopped {
		out.ExitStatus, out.ExitedAt = p.end.status, p.end.at
	}
	return out, nil
}

// Wait tells how a process ended, as soon as it has.
func (s *server) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-p.dropped:
		return nil, p.deleted()
	case <-ctx.Done():
		// The end of init ends the supervisor, and with it every call's context.
		if !isClosed(p.done) {
			return nil, ctx.Err()
		}
	}
	return &taskapi.WaitResponse{ExitStatus: p.end.status, ExitedAt: p.end.at}, nil
}

// Pause freezes all processes of the container.
func (s *server) Pause(ctx context.Context, r *taskapi.PauseRequest) error {
	p, err := s.get(r.ID, "")
	if err != nil {
		return err
	}
	p.op.Lock()
	defer p.op.Unlock()
	s.mu.Lock()
	st := p.state()
	s.mu.Unlock()
	if st != taskapi.StatusRunning || isClosed(p.died) {
		return p.wrong("pause", st)
	}
	if err := cgroup.Freeze(ctx, p.t.cgroup); err != nil {
		return err
	}
	s.mu.Lock()
	p.t.paused = true
	s.mu.Unlock()
	s.emit(event.TaskPaused{ContainerID: r.ID})
	return nil
}

// Resume lets a paused container go on.
func (s *server) Resume(_ context.Context, r *taskapi.ResumeRequest) error {
	p, err := s.get(r.ID, "")
	if err != nil {
		return err
	}
	p.op.Lock()
	defer p.op.Unlock()
	s.mu.Lock()
	st := p.state()
	s.mu.Unlock()
	if st != taskapi.StatusPaused {
		return p.wrong("resume", st)
	}
	if err := p.t.thaw(); err != nil {
		return err
	}
	s.emit(event.TaskResumed{ContainerID: r.ID})
	return nil
}

func (t *task) thaw() error {
	if err := cgroup.Thaw(t.cgroup); err != nil {
		return err
	}
	t.s.mu.Lock()
	t.paused = false
	t.s.mu.Unlock()
	return nil
}

// ResizePty sets the size of a process's terminal; a process without one has none to set.
func (s *server) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) error {
	st, err := s.streamsOf(r.ID, r.ExecID)
	if err != nil || st == nil || st.console == nil {
		return err
	}
	if r.Width > 0xffff || r.Height > 0xffff {
		return fmt.Errorf("terminal of %d x %d characters: %w", r.Width, r.Height, errdefs.ErrInvalidArgument)
	}
	return stdio.SetSize(st.console, uint16(r.Width), uint16(r.Height))
}

// CloseIO closes a process's stdin after what has been written to it.
func (s *server) CloseIO(_ context.Context, r *taskapi.CloseIORequest) error {
	st, err := s.streamsOf(r.ID, r.ExecID)
	if err != nil || st == nil || !r.Stdin {
		return err
	}
	return st.closeStdin()
}

// streamsOf gives the streams of a process that has been started; nil when they are closed.
func (s *server) streamsOf(id, execID string) (*streams, error) {
	p, err := s.get(id, execID)
	if err != nil {
		return nil, err
	}
	if isClosed(p.died) {
		return nil, nil
	}
	p.op.Lock()
	defer p.op.Unlock()
	return p.io, nil
}

// Update changes the container's limits.
func (s *server) Update(_ context.Context, r *taskapi.UpdateTaskRequest) error {
	p, err := s.get(r.ID, "")
	if err != nil {
		return err
	}
	if r.Resources == nil {
		return fmt.Errorf("update container %q: no resources: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	p.op.Lock()
	defer p.op.Unlock()
	if isClosed(p.died) {
		return p.wrong("update", taskapi.StatusStopped)
	}
	file := p.t.path("update.json")
	defer os.Remove(file)
	if err := os.WriteFile(file, r.Resources.Value, 0o600); err != nil {
		return err
	}
	return p.t.ask(ask.Update, ask.Request{File: file}, nil)
}

// Pids lists all processes of the container.
func (s *server) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	init, err := s.get(r.ID, "")
	if err != nil {
		return nil, err
	}
	pids, err := cgroup.Pids(init.t.cgroup)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &taskapi.PidsResponse{Processes: make([]taskapi.ProcessInfo, len(pids))}
	for i, pid := range pids {
		out.Processes[i].Pid = uint32(pid)
		if p := init.t.byPid(pid); p != nil && p.execID != "" {
			// containerd.runc.v1.ProcessDetails{exec_id}
			v := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), p.execID)
			out.Processes[i].Info = &taskapi.Any{TypeURL: "containerd.runc.v1.ProcessDetails", Value: v}
		}
	}
	return out, nil
}

// Stats measures the container.
func (s *server) Stats(_ context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	p, err := s.get(r.ID, "")
	if err != nil {
		return nil, err
	}
	m, err := cgroup.Measure(p.t.cgroup)
	if err != nil {
		return nil, err
	}
	oom, _ := cgroup.OOMKills(p.t.cgroup)
	out := taskapi.Metrics{
		Pids: m.Pids.Current, PidsLimit: limit(m.Pids.Limit),
		CPUUsage: m.CPU.Total, CPUUser: m.CPU.User, CPUSystem: m.CPU.System,
		Periods: m.CPU.Periods, ThrottledPeriods: m.CPU.ThrottledPeriods, ThrottledTime: m.CPU.Throttled,
		MemoryUsage: m.Memory.Usage, MemoryLimit: limit(m.Memory.Limit), MemoryPeak: m.Memory.Max,
		SwapUsage: m.Memory.Swap, SwapLimit: limit(0), InactiveFile: m.Memory.InactiveFile, OOMKills: oom,
	}
	if m.Block.Read+m.Block.Write > 0 {
		out.IO = []taskapi.IOMetrics{{ReadBytes: m.Block.Read, WriteBytes: m.Block.Write}}
	}
	if unified() {
		return &taskapi.StatsResponse{Stats: taskapi.MetricsV2(out)}, nil
	}
	return &taskapi.StatsResponse{Stats: taskapi.MetricsV1(out)}, nil
}

func limit(n uint64) uint64 {
	if n == 0 {
		return ^uint64(0)
	}
	return n
}

// unified says whether the host has cgroup v2 alone.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}
