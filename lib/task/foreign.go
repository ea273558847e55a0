// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// A foreign shim keeps no files of a task. Whoever learns something from it writes that down for all: the
// starter who its process is, that init exists and that it was started; whoever waits first, the exit.

// startForeign makes the command the start of a foreign shim, which forks its server and ends (containerd,
// docs/runtime-v2.md). The address stands for this task alone: shims name their socket after it, so that no two
// incarnations share one. A shim of containerd 1.6 or earlier (old) reads the options of the runtime alone from
// stdin; one of 2.3 or later does not start without the message that they are a part of.
func (t *Task) startForeign(cmd *exec.Cmd, o *taskapi.Any, old bool) error {
	address := filepath.Join(t.Dir(), "ctrd.sock")
	cmd.Args = []string{cmd.Path, "-namespace", t.Namespace, "-id", t.ID(), "-address", address, "start"}
	cmd.Env = []string{"GRPC_ADDRESS=" + address, "TTRPC_ADDRESS=" + address + ".ttrpc", "NAMESPACE=" + t.Namespace, "MAX_SHIM_VERSION=3"}
	params := taskapi.BootstrapParams{ID: t.ID(), Namespace: t.Namespace, GRPCAddress: address, TTRPCAddress: address + ".ttrpc", SocketDir: t.d.Run("s")}
	params.Extensions = append(params.Extensions, *o)
	cmd.Stdin = bytes.NewReader(taskapi.Marshal(&params))
	if old {
		cmd.Stdin = bytes.NewReader(params.Old())
	}
	// It opens what containerd makes a FIFO there, and takes a file as well.
	log, err := os.OpenFile(filepath.Join(t.bundleDir(), taskdir.BundleLog), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	// A shim waits 5 s, with each event, for a socket that is not there; a file refuses it at once. In work it has criu write
	// beside a checkpoint.
	return errors.Join(log.Close(), os.WriteFile(address+".ttrpc", nil, 0o600), os.MkdirAll(filepath.Join(t.bundleDir(), "work"), 0o700), os.MkdirAll(t.d.Run("s"), 0o700))
}

// refusedParams tells whether a foreign shim that has failed took the message on its stdin for options of a type
// that it does not know, and forgets that it failed.
func (t *Task) refusedParams() bool {
	path := filepath.Join(t.Dir(), taskdir.ShimLog)
	text, err := os.ReadFile(path)
	return err == nil && bytes.Contains(text, []byte("type with url")) && os.Truncate(path, 0) == nil
}

// foreignLog has a foreign shim's output written to our log, by ctr-shim as a logging program. The shim starts it
// itself; but containerd's passes no stdin on then, so that with one it is started here, on FIFOs.
func (t *Task) foreignLog(req *taskapi.CreateTaskRequest, log stdio.Log) error {
	logger, err := Beside(ourShim)
	if err != nil {
		return err
	}
	// It is there also if the shim never starts the program.
	f, err := os.OpenFile(log.Path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if req.Stdin == "" {
		req.Stdout = "binary://" + logger + "?logger=&uri=" + url.QueryEscape(log.String())
		if !req.Terminal {
			req.Stderr = req.Stdout
		}
		return nil
	}
	ready, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer w.Close()
	cmd := exec.Command(logger, "logger", "", "uri", log.String())
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Setsid: true}
	for _, name := range []string{"stdout", "stderr"} {
		path := filepath.Join(t.Dir(), name)
		if err := stdio.MakeFIFO(path); err != nil {
			return err
		}
		r, w, err := stdio.OpenBoth(path)
		if err != nil {
			return err
		}
		defer r.Close()
		t.given = append(t.given, w) // the logger goes on until the shim has opened it
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, w)
	if err := t.startOut(cmd, ""); err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	go cmd.Wait()
	req.Stdout = filepath.Join(t.Dir(), "stdout")
	if !req.Terminal {
		req.Stderr = filepath.Join(t.Dir(), "stderr")
	}
	w.Close()
	_, err = ready.Read(make([]byte, 1))
	return err
}

// closeGiven closes what a foreign shim has opened itself by now.
func (t *Task) closeGiven() {
	for _, f := range t.given {
		f.Close()
	}
	t.given = nil
}

// unmountForeign takes away what a foreign shim has mounted below the task's directory and not unmounted. The
// directory is never deleted through a mount of a snapshot.
func (t *Task) unmountForeign() error {
	rootfs := filepath.Join(t.Dir(), t.ID(), taskdir.Rootfs)
	if _, err := os.Lstat(rootfs); err != nil {
		return nil
	}
	return mount.Unmount(rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// keep starts the process that stands in for a supervisor of ours at the end of a transient container's task.
func (t *Task) keep() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "--root", t.d.Path(), "--state", t.d.Run(), "-n", t.Namespace, "rm", "--keeper", "--incarnation", string(t.inc), t.ID())
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Setsid: true}
	if err := t.startOut(cmd, ""); err != nil {
		return err
	}
	go cmd.Wait()
	return nil
}

// Keep waits until the task has ended, or the client that it depends on, and removes the container then: for a
// transient container whose shim does not see to that.
func (t *Task) Keep(ctx context.Context) error {
	v, err := taskdir.Look(t.Dir())
	if err != nil {
		return err
	}
	ended, cancel := context.WithCancel(ctx)
	defer cancel()
	if v.Task.Owner == taskdir.Client {
		go func() {
			for pause(ended, time.Second) == nil {
				if _, err := os.Lstat(filepath.Join(t.Dir(), taskdir.ClientLock)); err != nil {
					return // it has left the task to us
				}
				if died, err := taskdir.ClientDied(t.Dir()); err == nil && died {
					cancel()
				}
			}
		}()
	}
	for {
		_, err := t.Wait(ended)
		if err == nil || ended.Err() != nil || errdefs.IsNotFound(err) {
			break
		}
		// That it cannot be waited for says nothing of the task.
		if err := pause(ended, time.Second); err != nil {
			break
		}
	}
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		lives, err := t.clientLives()
		if err == nil && !lives {
			return t.RemoveEnded(ctx)
		}
		_ = pause(ctx, time.Second) // as long as it lives, the client sees to it itself
	}
}

// introduce writes down who the foreign shim is.
func (t *Task) introduce(ctx context.Context, b taskapi.Bootstrap) error {
	return t.bounded(ctx, answerWithin, func(ctx context.Context) error {
		who, err := t.api.Connect(ctx, &taskapi.ConnectRequest{ID: t.ID()})
		if err != nil {
			return err
		}
		p, err := taskdir.ProcessOf(int(who.ShimPid))
		if err != nil {
			return err
		}
		return taskdir.Write(t.Dir(), taskdir.Shim, taskdir.Supervisor{Process: p, Address: b.Address, Version: b.Version, Foreign: true})
	})
}

// recordCreated writes down the init process of a foreign shim's task.
func (t *Task) recordCreated(restores bool) error {
	if t.pid <= 0 && restores {
		return taskdir.Write(t.Dir(), taskdir.Init, taskdir.Process{}) // Start gives it one
	}
	if t.pid <= 0 {
		return fmt.Errorf("the shim has made a task without a pid: %w", errdefs.ErrUnknown)
	}
	p, err := taskdir.ProcessOf(t.pid)
	if err != nil {
		return err
	}
	if err := taskdir.Write(t.Dir(), taskdir.Init, p); err != nil {
		return err
	}
	_ = t.d.Journal().Append(t.Namespace, event.TaskCreate{ContainerID: t.ID(), Bundle: t.bundleDir(), Pid: uint32(t.pid)})
	return nil
}

// recordStarted writes down that a foreign shim's task was started; ours does so itself.
func (t *Task) recordStarted(context.Context) error {
	var s taskdir.Supervisor
	if known, err := taskdir.Read(t.Dir(), taskdir.Shim, &s); err != nil || !known || !s.Foreign {
		return err
	}
	if restores, err := t.ToRestore(); err != nil {
		return err
	} else if restores {
		if err := t.recordCreated(false); err != nil {
			return err
		}
	}
	if err := taskdir.Write(t.Dir(), taskdir.Begun, taskdir.Started{At: time.Now().UTC()}); err != nil {
		return err
	}
	_ = t.d.Journal().Append(t.Namespace, event.TaskStart{ContainerID: t.ID(), Pid: uint32(t.pid)})
	return nil
}

// awaitForeign has a foreign shim tell the exit and records it.
func (t *Task) awaitForeign(ctx context.Context) error {
	api, err := t.connect(ctx)
	if err != nil {
		return pause(ctx, pollEvery) // that a shim is dead shows in its process
	}
	w, err := api.Wait(ctx, &taskapi.WaitRequest{ID: t.ID()})
	if err != nil {
		api.Close()
		t.api = nil
		return pause(ctx, pollEvery)
	}
	return t.recordExit(ctx, t.counted(told(w.ExitStatus, w.ExitedAt)))
}

// AwaitForeign waits for the end of a task that a foreign shim has, and records it. It returns at once when our shim has the task, which
// records the end itself.
func (t *Task) AwaitForeign(ctx context.Context) error {
	if !t.shimIsForeign() {
		return nil
	}
	_, err := t.waitFor(ctx, false)
	return err
}

// counted notes in the exit that a shim tells whether the kernel has killed something of the task for want of memory. The cgroup is there
// until the shim deletes the task, but for a scope, which systemd removes.
func (t *Task) counted(e taskdir.Exit) taskdir.Exit {
	if v, err := taskdir.Look(t.Dir()); err == nil {
		n, err := cgroup.OOMKills(t.cgroup(v))
		e.OOM = err == nil && n > 0
	}
	return e
}

// told is the exit that a shim tells. A time that no JSON can have is taken for none, which is now.
func told(status uint32, at time.Time) taskdir.Exit {
	if at.IsZero() || at.Year() < 1 || at.Year() > 9999 {
		at = time.Now().UTC()
	}
	return taskdir.Exit{Status: int(status), ExitedAt: at}
}

// askExit asks a foreign shim, by its address, whether the task has ended.
func (t *Task) askExit(ctx context.Context, address string, within time.Duration) (exit taskdir.Exit, ended bool) {
	short, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	// A connection of its own: a handle that is only looked at is not closed by anybody.
	api, err := taskapi.Dial(short, address)
	if err != nil {
		return exit, false
	}
	defer api.Close()
	api.Namespace = t.Namespace
	s, err := api.State(short, &taskapi.StateRequest{ID: t.ID()})
	if err != nil || s.Status != taskapi.StatusStopped {
		return exit, false
	}
	return t.counted(told(s.ExitStatus, s.ExitedAt)), true
}

// seeOff is called for a task that has ended: of a foreign shim it records the exit and lets the shim go.
func (t *Task) seeOff(ctx context.Context, v taskdir.View) error {
	if !v.Supervisor.Foreign || !v.Supervised {
		return nil
	}
	return t.recordExit(ctx, v.Exit)
}

// recordExit records what a foreign shim told and lets the shim go. Whoever learns it first does so; all say
// the same.
func (t *Task) recordExit(ctx context.Context, e taskdir.Exit) error {
	l, err := t.lock(ctx)
	if errdefs.IsNotFound(err) {
		return nil // it is being removed
	}
	if err != nil {
		return err
	}
	v, err := taskdir.Look(t.Dir())
	if err == nil && v.State != taskdir.Stopped && v.State != taskdir.None {
		if err = taskdir.WriteExit(t.Dir(), e); err == nil {
			_ = t.d.Journal().Append(t.Namespace, event.TaskExit{
				ContainerID: t.ID(), ID: t.ID(), Pid: uint32(v.Init.PID), ExitStatus: uint32(e.Status), ExitedAt: e.ExitedAt,
			})
		}
	}
	if err = errors.Join(err, l.Release()); err != nil {
		return err
	}
	if err := t.awaitStarter(ctx); err != nil {
		return err
	}
	return t.dismiss(ctx, v)
}

// awaitStarter waits, for a moment, until the starter of the task has the answer to its Start: a program can have
// ended by then, and a shim that is let go answers nobody.
func (t *Task) awaitStarter(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, pollEvery) {
		v, err := taskdir.Look(t.Dir())
		if err != nil || !v.Starting {
			return err
		}
		if pause(short, wait) != nil {
			return ctx.Err()
		}
	}
}

// dismiss has a foreign shim delete the task that has ended, and end itself; one that does not is killed.
func (t *Task) dismiss(ctx context.Context, v taskdir.View) error {
	fd := v.Supervisor.Open()
	if fd < 0 {
		return nil
	}
	defer unix.Close(fd)
	short, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if api, err := taskapi.Dial(short, v.Supervisor.Address); err == nil {
		api.Namespace = t.Namespace
		_, _ = api.Delete(short, &taskapi.DeleteRequest{ID: t.ID()})
		_ = api.Shutdown(short, &taskapi.ShutdownRequest{ID: t.ID()})
		api.Close()
	}
	if poll(short, fd) != nil && ctx.Err() == nil {
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		_ = poll(ctx, fd)
	}
	t.removeSocket(v.Supervisor)
	return ctx.Err()
}

// poll waits until the descriptor is readable: for a pidfd, until the process has ended.
func poll(ctx context.Context, fd int) error {
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(pollEvery/time.Millisecond))
		if n > 0 || err != nil && err != unix.EINTR {
			return err
		}
	}
}

// endStrays kills the processes that work in the task's directory: the server of a foreign shim that has never said
// which process it is leaves no other trace.
func (t *Task) endStrays() {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil || !t.worksHere(link) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if t.worksHere(link) { // it still has that pid
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			_ = poll(ctx, fd)
		}
		unix.Close(fd)
	}
}

func (t *Task) worksHere(link string) bool {
	dir, err := os.Readlink(link)
	return err == nil && strings.HasPrefix(dir+"/", t.Dir()+"/")
}

// cleanForeign has a foreign shim's program clean up what a shim that was killed has left: containerd's `delete`.
func (t *Task) cleanForeign() {
	var known taskdir.Task
	_, _ = taskdir.Read(t.Dir(), taskdir.Record, &known) // of a damaged record: the container's runtime
	r, err := findRuntime(cmp.Or(known.Shim, t.Container.Runtime.Name), "")
	bundle := filepath.Join(t.Dir(), t.ID())
	if err != nil || !r.foreign {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.shim, "-namespace", t.Namespace, "-id", t.ID(), "-address", filepath.Join(t.Dir(), "ctrd.sock"), "-bundle", bundle, "delete")
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.WaitDelay = time.Second
	_ = cmd.Run() // what it leaves, the cgroup tells
}
