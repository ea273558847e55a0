// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
)

// sandbox is a pod as containerd's sandbox API sees it. One that is created with a rootfs has a container of its
// own, with the sandbox's id; any other is the supervisor itself. The supervisor lives until ShutdownSandbox.
type sandbox struct {
	id   string
	own  bool // it has a container
	done chan struct{}

	// Guarded by the server's mu.
	created  time.Time
	started  bool
	stopping bool   // StopSandbox was called
	end      ending // once done is closed
}

// stopTime is how long StopSandbox waits before it kills, unless the caller says.
const stopTime = 10 * time.Second

// CreateSandbox makes the sandbox; the supervisor has one at most.
func (s *server) CreateSandbox(ctx context.Context, r *taskapi.CreateSandboxRequest) error {
	b := &sandbox{id: r.SandboxID, own: len(r.Rootfs) > 0, done: make(chan struct{}), created: time.Now().UTC()}
	s.mu.Lock()
	if s.sandbox != nil {
		s.mu.Unlock()
		return fmt.Errorf("sandbox %q: the supervisor has sandbox %q: %w", r.SandboxID, s.sandbox.id, errdefs.ErrAlreadyExists)
	}
	s.sandbox = b
	t, e := s.first(), s.prepared
	if t != nil && !b.own {
		// It was made for a container of that id, of which nothing is said.
		t.finished()
		delete(s.tasks, t.id)
		s.prepared = nil
	}
	s.mu.Unlock()
	if t != nil && !b.own {
		e.close()
		t.release()
	}
	if !b.own {
		return nil
	}
	_, err := s.Create(ctx, &taskapi.CreateTaskRequest{ID: r.SandboxID, Bundle: r.BundlePath, Rootfs: r.Rootfs, Options: r.Options})
	if err != nil {
		s.mu.Lock()
		s.sandbox = nil
		s.mu.Unlock()
		s.leave()
	}
	return err
}

// box finds the sandbox.
func (s *server) box(id string) (*sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil || s.sandbox.id != id {
		return nil, fmt.Errorf("sandbox %q: %w", id, errdefs.ErrNotFound)
	}
	return s.sandbox, nil
}

// StartSandbox runs the sandbox's own container, if it has one.
func (s *server) StartSandbox(ctx context.Context, r *taskapi.StartSandboxRequest) (*taskapi.StartSandboxResponse, error) {
	b, err := s.box(r.SandboxID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	again := b.started
	b.started = true
	s.mu.Unlock()
	if again {
		return nil, fmt.Errorf("start sandbox %q: it is started: %w", b.id, errdefs.ErrFailedPrecondition)
	}
	out := &taskapi.StartSandboxResponse{Pid: uint32(os.Getpid()), CreatedAt: b.created}
	if !b.own {
		return out, nil
	}
	started, err := s.Start(ctx, &taskapi.StartRequest{ID: b.id})
	if err != nil {
		return nil, err
	}
	out.Pid = started.Pid
	init, err := s.get(b.id, "")
	if err != nil {
		return nil, err
	}
	go func() {
		<-init.done
		s.endSandbox(b, init.end)
	}()
	return out, nil
}

// endSandbox notes the end of the sandbox; the first one counts.
func (s *server) endSandbox(b *sandbox, e ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isClosed(b.done) {
		return
	}
	b.end = e
	close(b.done)
}

// Platform tells what the sandbox's containers run on: this host.
func (s *server) Platform(_ context.Context, r *taskapi.PlatformRequest) (*taskapi.PlatformResponse, error) {
	if _, err := s.box(r.SandboxID); err != nil {
		return nil, err
	}
	return &taskapi.PlatformResponse{Platform: &taskapi.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}, nil
}

// StopSandbox ends all containers: with SIGTERM, and with SIGKILL what is left after the time. From then on none can
// be created; one whose Create is under way is ended once it is there.
func (s *server) StopSandbox(ctx context.Context, r *taskapi.StopSandboxRequest) error {
	b, err := s.box(r.SandboxID)
	if err != nil {
		return err
	}
	grace := stopTime
	if r.TimeoutSecs > 0 {
		grace = time.Duration(r.TimeoutSecs) * time.Second
	}
	s.mu.Lock()
	b.stopping = true
	s.mu.Unlock()
	var stops sync.WaitGroup
	for _, init := range s.inits() {
		stops.Go(func() { s.stop(ctx, init, grace) })
	}
	stops.Wait()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("stop sandbox %q: %w", b.id, err)
	}
	s.endSandbox(b, ending{at: time.Now().UTC()})
	return nil
}

// inits are the first processes of all containers that have not ended.
func (s *server) inits() (all []*process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if t.init != nil && !isClosed(t.init.done) {
			all = append(all, t.init)
		}
	}
	return all
}

// stop ends one container and waits until its end is recorded.
func (s *server) stop(ctx context.Context, init *process, grace time.Duration) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	r := &taskapi.KillRequest{ID: init.t.id, Signal: uint32(unix.SIGTERM)}
	if err := s.Kill(ctx, r); err != nil && !errdefs.IsNotFound(err) {
		init.t.logf("stop: %v", err)
	}
	select {
	case <-init.done:
		return
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	r.Signal, r.All = uint32(unix.SIGKILL), true
	if err := s.Kill(ctx, r); err != nil && !errdefs.IsNotFound(err) {
		init.t.logf("stop: %v", err)
	}
	select {
	case <-init.done:
	case <-ctx.Done():
	}
}

// WaitSandbox tells how the sandbox ended, as soon as it has.
func (s *server) WaitSandbox(ctx context.Context, r *taskapi.WaitSandboxRequest) (*taskapi.WaitSandboxResponse, error) {
	b, err := s.box(r.SandboxID)
	if err != nil {
		return nil, err
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		if !isClosed(b.done) {
			return nil, ctx.Err()
		}
	}
	return &taskapi.WaitSandboxResponse{ExitStatus: b.end.status, ExitedAt: b.end.at}, nil
}

// SandboxStatus tells what the sandbox does.
func (s *server) SandboxStatus(_ context.Context, r *taskapi.SandboxStatusRequest) (*taskapi.SandboxStatusResponse, error) {
	b, err := s.box(r.SandboxID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &taskapi.SandboxStatusResponse{SandboxID: b.id, Pid: uint32(os.Getpid()), State: taskapi.SandboxNotReady, CreatedAt: b.created}
	if t := s.tasks[b.id]; b.own && t != nil && t.init != nil {
		out.Pid = uint32(t.init.pid)
	}
	switch {
	case isClosed(b.done):
		out.ExitedAt = b.end.at
	case b.started:
		out.State = taskapi.SandboxReady
	}
	return out, nil
}

// PingSandbox tells whether the sandbox is there.
func (s *server) PingSandbox(_ context.Context, r *taskapi.PingRequest) error {
	_, err := s.box(r.SandboxID)
	return err
}

// ShutdownSandbox ends the supervisor, and with it what is left in the sandbox.
func (s *server) ShutdownSandbox(_ context.Context, r *taskapi.ShutdownSandboxRequest) error {
	b, err := s.box(r.SandboxID)
	if err != nil {
		return err
	}
	s.endSandbox(b, ending{at: time.Now().UTC()})
	s.abandon("sandbox shut down")
	return nil
}

// SandboxMetrics measures the sandbox's own container; a sandbox without one has nothing to measure.
func (s *server) SandboxMetrics(ctx context.Context, r *taskapi.SandboxMetricsRequest) (*taskapi.SandboxMetricsResponse, error) {
	b, err := s.box(r.SandboxID)
	if err != nil {
		return nil, err
	}
	m := &taskapi.Metric{ID: b.id, Timestamp: time.Now().UTC()}
	if b.own {
		stats, err := s.Stats(ctx, &taskapi.StatsRequest{ID: b.id})
		if err != nil {
			return nil, err
		}
		m.Data = stats.Stats
	}
	return &taskapi.SandboxMetricsResponse{Metrics: m}, nil
}
