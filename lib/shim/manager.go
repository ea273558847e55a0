// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// groupAnnotations name the pod of a container, as containerd's shims look for it: containers of one pod have
// one supervisor.
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// bundleSpec is the part of config.json that is looked at without the engine.
type bundleSpec struct {
	Annotations map[string]string `json:"annotations"`
	Linux       struct {
		CgroupsPath string `json:"cgroupsPath"`
	} `json:"linux"`
}

const (
	// startLock bounds how long start waits for another start of the same pod, and how long a supervisor may take to
	// listen.
	startLock = 30 * time.Second
	// maxSaid bounds what a supervisor may say in that time, in bytes: an address, or why it cannot serve.
	maxSaid = 64 << 10
	// maxReason bounds what of that is passed on.
	maxReason = 4 << 10
)

// Start gives the answer that containerd reads: the address of the supervisor of the container's pod, which it
// starts unless it lives. argv is the command that serves, in the bundle; it is given -socket PATH.
func Start(ctx context.Context, b Bootstrap, argv []string) ([]byte, error) {
	var spec bundleSpec
	if _, err := taskdir.Read(b.Bundle, taskdir.Config, &spec); err != nil {
		return nil, err
	}
	group := b.ID
	for _, name := range groupAnnotations {
		if value := spec.Annotations[name]; value != "" {
			group = value
			break
		}
	}
	socket := b.socket(group)
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	l, err := lock.Dir{Path: filepath.Dir(socket), Wait: startLock}.Acquire(ctx, nil, lock.Container, filepath.Base(socket), lock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if !lives(ctx, socket) {
		if err := b.fork(append(argv, "-socket", socket)); err != nil {
			return nil, err
		}
	}
	address := "unix://" + socket
	err = errors.Join(
		os.WriteFile(filepath.Join(b.Bundle, "address"), []byte(address), 0o644),
		os.WriteFile(filepath.Join(b.Bundle, "bootstrap.json"), b.result(address).JSON(), 0o644),
	)
	return b.answer(address), err
}

// answerTime bounds how long a supervisor may take to say that it lives.
const answerTime = 5 * time.Second

// lives tells whether a supervisor answers at a socket. That somebody listens is not enough: one that is dying does so
// until the kernel has closed its files. One that is stopped lives.
func lives(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := taskapi.Dial(ctx, "unix://"+socket)
	if err == nil {
		_, err = c.Connect(ctx, new(taskapi.ConnectRequest))
		c.Close()
	}
	return !errdefs.IsUnavailable(err)
}

// fork starts the supervisor and returns once it listens.
func (b *Bootstrap) fork(argv []string) error {
	// The core scheduling group that containerd asks for is the thread's, and is inherited.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Getenv("SCHED_CORE") != "" {
		const processGroup = 2
		if err := unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_CREATE, 0, processGroup, 0); err != nil {
			return os.NewSyscallError("make a core scheduling group", err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.Bundle, w, w
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "TTRPC_ADDRESS="+b.TTRPC)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	r.SetReadDeadline(time.Now().Add(startLock))
	said, err := io.ReadAll(io.LimitReader(r, maxSaid))
	if err == nil && !bytes.HasPrefix(said, []byte("{")) {
		err = errors.New(strings.TrimSpace(string(said[:min(len(said), maxReason)])))
	}
	if err == nil {
		err = b.place(cmd.Process.Pid)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("supervisor: %w", err)
	}
	return cmd.Process.Release()
}

// place moves the supervisor to the cgroup that the options name, and makes the kernel end it rather than
// containerd when memory is short.
func (b *Bootstrap) place(pid int) error {
	o, err := readOptions(b.Options)
	if err != nil {
		return err
	}
	if o.ShimCgroup != "" {
		if err := cgroup.Place(pid, o.ShimCgroup); err != nil {
			return err
		}
	}
	return cgroup.Expose(pid)
}

// Delete removes what a supervisor that was killed has left of a container of containerd's, and gives the
// message that containerd reads (containerd.task.v3.DeleteResponse).
func Delete(b Bootstrap) ([]byte, error) {
	if err := deleteLeft(b); err != nil {
		return nil, fmt.Errorf("delete container %q: %w", b.ID, err)
	}
	text, _ := os.ReadFile(filepath.Join(b.Bundle, taskdir.BundleInit))
	pid, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	return taskapi.Marshal(&taskapi.DeleteResponse{Pid: uint32(pid), ExitStatus: 128 + uint32(unix.SIGKILL), ExitedAt: time.Now()}), nil
}

// forgetEngine has the OCI engine that made the container, if one did, remove what it keeps of it.
func forgetEngine(b Bootstrap) error {
	var e ask.Engine
	known, err := taskdir.Read(b.Bundle, engineFile, &e)
	if err != nil || !known {
		return err
	}
	s := newServer(Config{Namespace: b.Namespace, ID: b.ID, Bundle: b.Bundle, Containerd: true})
	s.watchChildren()
	p, err := s.newTask(b.ID, b.Bundle).spawnEngine(ask.Delete)
	if err != nil {
		return err
	}
	if hooks, err := taskdir.Hooks(b.Bundle); err == nil { // else they have the usual time
		p.limit += ask.PoststopTime(hooks)
	}
	return p.run(ask.Request{Engine: e}, nil)
}

// awaitEngines waits until the engines of a supervisor that was killed have ended, so that none makes anything anew. One
// that hangs, and a supervisor that lives, are not waited for without end.
func awaitEngines(bundle string) error {
	for deadline := time.Now().Add(drainTime); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if held, err := lock.IsHeld(filepath.Join(bundle, taskdir.EngineLock)); !held || err != nil {
			return err
		}
	}
	return nil
}

func deleteLeft(b Bootstrap) error {
	if alive, err := taskdir.Supervised(b.Bundle); alive || err != nil {
		return errors.Join(err, errors.New("its supervisor lives"))
	}
	var spec bundleSpec
	known, err := taskdir.Read(b.Bundle, taskdir.Config, &spec)
	if err != nil {
		return err
	}
	if err := awaitEngines(b.Bundle); err != nil {
		return err
	}
	if known {
		cg, err := cgroup.Path(cmp.Or(spec.Linux.CgroupsPath, "/"+b.ID))
		if err == nil {
			err = errors.Join(cgroup.Kill(cg), cgroup.Remove(cg))
		}
		if err != nil {
			return err
		}
	}
	if err := forgetEngine(b); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(b.Bundle, taskdir.Engine)); err != nil {
		return err
	}
	address, err := os.ReadFile(filepath.Join(b.Bundle, "address"))
	socket, ok := strings.CutPrefix(string(address), "unix://")
	if err == nil && ok && !lives(context.Background(), socket) {
		os.Remove(socket)
	}
	return nil
}
