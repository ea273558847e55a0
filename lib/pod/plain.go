// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// The methods of this file are for sandboxes that clients of containerd's API have recorded: a supervisor that containers
// share, without namespaces and network of its own.

// SandboxState is what such a sandbox does.
type SandboxState struct {
	Ready   bool
	PID     int       // of the supervisor; 0: there is none
	Address string    // of its socket
	Since   time.Time // when it was started; zero: not in this boot
}

// SandboxState tells what a sandbox does.
func (h Host) SandboxState(ctx context.Context, id string) (SandboxState, error) {
	s, err := h.exact(ctx, id)
	if err != nil {
		return SandboxState{}, err
	}
	return h.sandboxState(s)
}

func (h Host) sandboxState(s sandbox.Sandbox) (SandboxState, error) {
	v, err := taskdir.LookPod(h.dir(s))
	st := SandboxState{Ready: v.Ready, Since: v.Pod.Created}
	if v.Supervised {
		st.PID, st.Address = v.Supervisor.PID, v.Supervisor.Address
	}
	return st, err
}

// exact reads the record of a sandbox by its whole id.
func (h Host) exact(ctx context.Context, id string) (sandbox.Sandbox, error) {
	s, err := h.get(ctx, id)
	if err == nil && s.ID != id {
		err = fmt.Errorf("sandbox %q in namespace %q: %w", id, h.Namespace, errdefs.ErrNotFound)
	}
	return s, err
}

// plain takes the lock of a sandbox and reads its record under it. A pod is errdefs.ErrFailedPrecondition: who made it ends it.
func (h Host) plain(ctx context.Context, id string) (sandbox.Sandbox, *lock.Lock, error) {
	l, err := h.lockKey(ctx, "sandbox\x00"+id)
	if err != nil {
		return sandbox.Sandbox{}, nil, err
	}
	s, err := h.exact(ctx, id)
	if err == nil && len(s.Pod) > 0 {
		err = fmt.Errorf("sandbox %q is a pod of the CRI: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return s, nil, errors.Join(err, l.Release())
	}
	return s, l, nil
}

// StartSandbox starts the supervisor of a sandbox. One that runs is errdefs.ErrFailedPrecondition. What a killed call or a
// dead supervisor has left is removed first. When it fails, nothing is left but the record.
func (h Host) StartSandbox(ctx context.Context, id string) (st SandboxState, err error) {
	defer h.Dir.EmptyTrash()
	s, l, err := h.plain(ctx, id)
	if err != nil {
		return st, fmt.Errorf("start sandbox %q: %w", id, err)
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if st, err = h.sandboxState(s); err == nil && st.Ready {
		err = fmt.Errorf("it is started: %w", errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = h.stop(ctx, l, s)
	}
	if err == nil {
		if err = h.makePlain(ctx, s); err != nil {
			err = errors.Join(err, h.stop(context.WithoutCancel(ctx), l, s))
		}
	}
	if err != nil {
		return st, fmt.Errorf("start sandbox %q: %w", id, err)
	}
	_ = h.Dir.Journal().Append(h.Namespace, event.SandboxStart{SandboxID: s.ID})
	return h.sandboxState(s)
}

// makePlain makes the directory of a sandbox and starts its supervisor.
func (h Host) makePlain(ctx context.Context, s sandbox.Sandbox) (err error) {
	dir := h.dir(s)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	making, err := lock.Hold(filepath.Join(dir, taskdir.StartLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, making.Release()) }()
	p := taskdir.Pod{Namespace: h.Namespace, ID: s.ID, UID: s.UID, Created: time.Now().UTC()}
	if err := taskdir.Write(dir, taskdir.PodRecord, p); err != nil {
		return err
	}
	crash.Point("pod.directory")
	if err := task.StartPod(ctx, h.Dir, p, dir, h.Shim); err != nil {
		return err
	}
	return taskdir.Write(dir, taskdir.PodReady, ready{At: time.Now().UTC()})
}

// StopSandbox ends what runs in a sandbox, and its supervisor. One that does not run is success.
func (h Host) StopSandbox(ctx context.Context, id string) error {
	defer h.Dir.EmptyTrash()
	s, l, err := h.plain(ctx, id)
	if err == nil {
		err = errors.Join(h.stop(ctx, l, s), l.Release())
	}
	if err != nil {
		return fmt.Errorf("stop sandbox %q: %w", id, err)
	}
	return nil
}

// WaitSandbox returns when the supervisor of a sandbox has ended; at once when it does not run.
func (h Host) WaitSandbox(ctx context.Context, id string) error {
	s, err := h.exact(ctx, id)
	if err != nil {
		return err
	}
	return task.AwaitPod(ctx, h.dir(s))
}
