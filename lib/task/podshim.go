// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// StartPod starts the supervisor of a pod, whose directory has a taskdir.Pod, and returns when it has the pod's namespaces and
// listens. shim is the path of ctr-shim; empty: beside this program, else on PATH. When it fails, no process is left.
func StartPod(ctx context.Context, d *state.Dir, p taskdir.Pod, dir, shim string) error {
	r, err := findRuntime("", shim)
	if err != nil {
		return err
	}
	cmd := exec.Command(r.shim, "-namespace", p.Namespace, "-id", p.ID, "-bundle", dir, "-sockets", d.Run("s"),
		"-events", d.Journal().Dir, "-root", d.Path(), "-state", d.Run(), "serve")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOMAXPROCS=1")
	s, answer, err := runSupervisor(ctx, cmd, dir, patience(d), func(cmd *exec.Cmd) error {
		return cgroup.Start(cmd, supervisors(d))
	})
	if err != nil {
		return err
	}
	if _, err = taskapi.ParseBootstrap(answer); err == nil {
		return nil
	}
	if len(answer) == 0 {
		s.awaitEnd() // its output ends a moment before it does
	}
	how := s.ended()
	s.kill()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A plain error, as in [Task.spawn].
	said := strings.TrimSuffix(err.Error(), ": "+errdefs.ErrInvalidArgument.Error())
	if text, _ := os.ReadFile(filepath.Join(dir, taskdir.ShimLog)); len(bytes.TrimSpace(text)) > 0 {
		said = string(bytes.TrimPrefix(bytes.TrimSpace(text), []byte("ctr-shim: ")))
	} else if how != "" {
		said = how + ": " + said
	}
	return fmt.Errorf("shim %s: %s", r.shim, said)
}

// AwaitPodStart returns when the supervisor of the pod in a directory has the pod's namespaces and listens, whoever has started
// it. One that has ended before is errdefs.ErrFailedPrecondition.
func AwaitPodStart(ctx context.Context, d *state.Dir, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, patience(d))
	defer cancel()
	for wait := time.Millisecond / 2; ; wait = min(2*wait, pollEvery) {
		v, err := taskdir.LookPod(dir)
		if err != nil {
			return err
		}
		if !v.Supervised {
			return fmt.Errorf("the supervisor of the pod has ended: %w", errdefs.ErrFailedPrecondition)
		}
		if v.Supervisor.PID != 0 {
			return nil
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// EndPod ends the supervisor of the pod in a directory with all containers that it has, and returns when it is gone. One that
// does not end by itself is killed; its containers are orphans then. hooks is asked before, how long it may be busy with those that run
// after the stop of its containers; see [Task.PoststopTime].
func EndPod(ctx context.Context, d *state.Dir, dir string, hooks func() time.Duration) error {
	v, err := taskdir.LookPod(dir)
	if err != nil || !v.Supervised {
		return errors.Join(err, endPodSocket(d, dir))
	}
	pid := v.Supervisor.Process
	if pid.PID == 0 {
		pid = v.Pinned.Supervisor
	}
	defer sweepAfterPod(d, pid, v.Pinned.Init)()
	if address := v.Supervisor.Address; address != "" {
		short, cancel := context.WithTimeout(ctx, answerWithin)
		if c, err := taskapi.Dial(short, address); err == nil {
			c.Namespace = v.Pod.Namespace
			_ = c.ShutdownSandbox(short, &taskapi.ShutdownSandboxRequest{SandboxID: v.Pod.ID}) // how it went shows in whether it ends
			c.Close()
		}
		cancel()
	}
	for _, sig := range []unix.Signal{0, unix.SIGCONT, unix.SIGKILL} {
		within := answerWithin
		if sig == unix.SIGCONT {
			within += hooks()
		}
		if sig != 0 && pid.PID != 0 {
			if fd := pid.Open(); fd >= 0 {
				unix.PidfdSendSignal(fd, sig, nil, 0)
				unix.Close(fd)
			}
		}
		if err = awaitUnsupervised(ctx, dir, within); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("supervisor pid %d does not end: %w", pid.PID, err)
	}
	return endPodSocket(d, dir)
}

// sweepPodWithin bounds the wait for the processes of a pod that has ended. They are ending; a busy machine takes its time.
const sweepPodWithin = 2 * time.Second

// sweepAfterPod is sweep once the processes of a pod are gone that are in the cgroup of the supervisors: the supervisor lets go
// of the pod a moment before it ends, and its init ends a moment after it. What it gives is to be called when they end.
func sweepAfterPod(d *state.Dir, supervisor taskdir.Process, init int) func() {
	fds := []int{supervisor.Open(), -1}
	if fd, err := unix.PidfdOpen(init, 0); init > 0 && err == nil {
		fds[1] = fd
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), sweepPodWithin)
		defer cancel()
		for _, fd := range fds {
			if fd >= 0 {
				_ = poll(ctx, fd)
				unix.Close(fd)
			}
		}
		sweep(d)
	}
}

// awaitUnsupervised waits for the end of a supervisor.
func awaitUnsupervised(ctx context.Context, dir string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for wait := time.Millisecond / 2; ; wait = min(2*wait, pollEvery) {
		if there, err := taskdir.Supervised(dir); err != nil || !there {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// endPodSocket removes the socket that a supervisor that was killed has left, and the cgroup of the supervisors if none is
// left.
func endPodSocket(d *state.Dir, dir string) error {
	err := os.Remove(d.Run("s", taskapi.SocketName(dir)))
	sweep(d)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// AwaitPod returns when the supervisor of the pod in a directory has ended; at once when there is none.
func AwaitPod(ctx context.Context, dir string) error {
	v, err := taskdir.LookPod(dir)
	if err != nil || !v.Supervised {
		return err
	}
	fd := v.Supervisor.Open()
	if fd < 0 {
		return nil
	}
	defer unix.Close(fd)
	return poll(ctx, fd)
}
