// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/taskapi"
)

const maxSignal = 64

// Kill sends a signal to a process, or to all of the container. To one that has ended it is errdefs.ErrNotFound. A signal that comes before init has become the
// program does not reach what sets init up: in a created container it has its default effect, after Start
// it waits for the program.
func (s *server) Kill(ctx context.Context, r *taskapi.KillRequest) error {
	sig := unix.Signal(r.Signal)
	if r.Signal > maxSignal {
		return fmt.Errorf("signal %d: %w", r.Signal, errdefs.ErrInvalidArgument)
	}
	p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return err
	}
	all := r.All && r.ExecID == "" // containerd's shims take no notice of it with an exec
	if all && isClosed(p.died) {
		return p.ended() // what it has left is being killed
	}
	if sig == unix.SIGKILL && p.frozen != nil {
		if p.killFrozen() {
			return nil
		}
		if !all {
			p.awaitOp() // it is being restored, and has no process yet
		}
	}
	if sig == unix.SIGKILL && all {
		return cgroup.Kill(p.t.cgroup)
	}
	if sig != unix.SIGKILL && p.execID == "" && !isClosed(p.died) {
		p.awaitOp()
		if sent, err := p.killWaiting(sig); sent || err != nil {
			return err
		}
		if err := p.awaitProgram(ctx); err != nil {
			return err
		}
	}
	if all {
		return p.t.killAll(sig)
	}
	thaw, err := p.signal(sig)
	if thaw {
		return p.t.thaw()
	}
	return err
}

// signal sends a signal to a process that has not been reaped. It tells whether the container must be thawed for
// it: init, frozen by the v1 freezer, does not die. An exec dies when its container is resumed.
func (p *process) signal(sig unix.Signal) (thaw bool, err error) {
	p.t.s.mu.Lock()
	defer p.t.s.mu.Unlock()
	switch {
	case p.pid == 0:
		return false, p.wrong("kill", p.status)
	case isClosed(p.died):
		return false, p.ended()
	}
	// Not reaped yet, so the pid is still its own.
	if err := unix.Kill(p.pid, sig); err != nil {
		return false, fmt.Errorf("signal %d to process %d: %w", sig, p.pid, err)
	}
	return sig == unix.SIGKILL && p.t.paused && p.execID == "", nil
}

// ended is the error of a signal to a process that has been reaped.
func (p *process) ended() error {
	return fmt.Errorf("process %d of container %q has ended: %w", p.pid, p.t.id, errdefs.ErrNotFound)
}

// killWaiting sends a signal to an init that waits for Start, and reports false when it does not wait. The
// engine's code in that process would take the signal as its own; so the signal's default action is done
// here: what would end a program ends it, with the status that the signal gives, and nothing else happens.
func (p *process) killWaiting(sig unix.Signal) (bool, error) {
	p.t.s.mu.Lock()
	defer p.t.s.mu.Unlock()
	if p.status != taskapi.StatusCreated || p.pid == 0 && p.frozen == nil || isClosed(p.died) {
		return false, nil
	}
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return true, nil
	}
	if p.dieFrozen(sig) {
		return true, nil
	}
	p.killedBy = sig
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
		return true, fmt.Errorf("signal %d to process %d: %w", sig, p.pid, err)
	}
	return true, nil
}

// killFrozen ends a container that waits to be restored, and reports false for any other.
func (p *process) killFrozen() bool {
	p.t.s.mu.Lock()
	defer p.t.s.mu.Unlock()
	return p.dieFrozen(unix.SIGKILL)
}

// endWaiting kills an init that waits for Start, and waits until it is dead. It leaves any other alone.
func (p *process) endWaiting(ctx context.Context) error {
	p.t.s.mu.Lock()
	waits := p.status == taskapi.StatusCreated
	if waits {
		p.t.kill("deleted before it was started")
	}
	p.t.s.mu.Unlock()
	if !waits {
		return nil
	}
	select {
	case <-p.died:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("delete container %q: it does not end: %w", p.t.id, ctx.Err())
	}
}

// programWait bounds how long a signal waits for init to become the program.
const programWait = 5 * time.Second

// awaitProgram waits until init, which Start has let go, has become the container's program: its executable
// is another one then.
func (p *process) awaitProgram(ctx context.Context) error {
	if p.waiting == (executable{}) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, programWait)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !isClosed(p.died) {
		if now := executableOf(p.pid); now != p.waiting {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("init of container %q has not become its program: %w", p.t.id, ctx.Err())
		case <-p.died:
		case <-tick.C:
		}
	}
	return nil
}

// executable identifies the file that a process runs.
type executable struct{ dev, inode uint64 }

// executableOf tells what the process runs; zero when it has ended.
func executableOf(pid int) executable {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &st); err != nil {
		return executable{}
	}
	return executable{st.Dev, st.Ino}
}

func (t *task) killAll(sig unix.Signal) error {
	pids, err := cgroup.Pids(t.cgroup)
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("signal %d to process %d: %w", sig, pid, err))
		}
	}
	return errors.Join(errs...)
}

// awaitOp waits until a Create or Start that is under way has come to its end.
func (p *process) awaitOp() {
	p.op.Lock()
	defer p.op.Unlock()
}
