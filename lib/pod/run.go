// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Run makes a pod: its namespaces and its network, with no container in it. The same pod once more, when it is ready, is
// that pod; while another call makes it, that one is waited for. A pod that a killed call has left unfinished is gone on with
// as long as its supervisor lives; any other that is not ready is removed with its containers, and made anew. When Run fails
// nothing is left.
func (h Host) Run(ctx context.Context, c Config) (Status, error) {
	err := c.check()
	if err == nil {
		err = h.checkHandler(c.Handler)
	}
	if err != nil {
		return Status{}, err
	}
	defer h.Dir.EmptyTrash()
	l, err := h.lockKey(ctx, c.key())
	if err != nil {
		return Status{}, fmt.Errorf("run pod %q: %w", c.Name, err)
	}
	st, err := h.run(ctx, l, c)
	if err = errors.Join(err, l.Release()); err != nil {
		return Status{}, fmt.Errorf("run pod %q: %w", c.Name, err)
	}
	return st, nil
}

// run is Run under the pod's lock.
func (h Host) run(ctx context.Context, l *lock.Lock, c Config) (Status, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return Status{}, err
	}
	s, err := h.named(ctx, sandbox.LockName(c.key()))
	if err != nil && !errdefs.IsNotFound(err) {
		return Status{}, err
	}
	resumed := false
	if err == nil {
		st, err := h.status(s, c)
		if err == nil && st.Ready {
			return st, nil
		}
		if resumed = err == nil && bytes.Equal(s.Pod, data) && h.resume(ctx, l, s, c) == nil; !resumed && err == nil {
			err = h.remove(ctx, l, s)
		}
		if err != nil {
			return Status{}, fmt.Errorf("replace pod %q, which is not ready: %w", s.ID, err)
		}
	}
	if !resumed {
		if s, err = h.record(ctx, l, c, data); err != nil {
			return Status{}, err
		}
		crash.Point("pod.recorded")
		if err := h.make(ctx, l, s, c); err != nil {
			return Status{}, errors.Join(err, h.remove(context.WithoutCancel(ctx), l, s))
		}
	}
	crash.Point("pod.ready")
	// An event that is lost is told by the journal's gap.
	_ = h.Dir.Journal().Append(h.Namespace, event.SandboxStart{SandboxID: s.ID})
	return h.status(s, c)
}

// named reads the record of a pod by its name in the table.
func (h Host) named(ctx context.Context, name string) (s sandbox.Sandbox, err error) {
	err = h.Dir.View(ctx, func(tx *state.Tx) error {
		s, err = sandbox.ByName(tx, h.Namespace, name)
		return err
	})
	return s, err
}

// record makes the record of a new pod; data is its configuration.
func (h Host) record(ctx context.Context, l *lock.Lock, c Config, data []byte) (s sandbox.Sandbox, err error) {
	err = h.Dir.Update(ctx, l, func(tx *state.Tx) error {
		s, err = sandbox.Create(tx, h.Namespace, sandbox.Sandbox{
			ID: newID(), Name: sandbox.LockName(c.key()), Sandboxer: Sandboxer, Labels: maps.Clone(c.Labels),
			Runtime: container.Runtime{Name: container.DefaultRuntime}, Pod: data,
		})
		return err
	})
	return s, err
}

// make makes all of a pod that has a record, and marks it as ready. What it has made when it fails is for the caller to
// take away.
func (h Host) make(ctx context.Context, l *lock.Lock, s sandbox.Sandbox, c Config) (err error) {
	dir := h.dir(s)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	making, err := lock.Hold(filepath.Join(dir, taskdir.StartLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, making.Release()) }()
	p := h.pinned(c)
	p.Namespace, p.ID, p.UID, p.Created, p.Pause = h.Namespace, s.ID, s.UID, s.Created, c.Pause != ""
	if p.Cgroup, err = c.cgroup(); err != nil {
		return err
	}
	if err := taskdir.Write(dir, taskdir.PodRecord, p); err != nil {
		return err
	}
	crash.Point("pod.directory")
	if err := makeShm(dir, c); err != nil {
		return err
	}
	crash.Point("pod.shm")
	if err := task.StartPod(ctx, h.Dir, p, dir, h.Shim); err != nil {
		return ofSysctl(err)
	}
	crash.Point("pod.started")
	return h.finish(ctx, l, s, c)
}

// ofSysctl has an error of a supervisor name the field where the kernel has no such sysctl, or does not take its value.
func ofSysctl(err error) error {
	_, what, ok := strings.Cut(err.Error(), "namespaces of the pod: sysctl ")
	if !ok {
		return err
	}
	for _, errno := range []string{"No such file or directory", "Invalid argument", "Numerical result out of range"} { // of strerror(3)
		if strings.HasSuffix(what, ": "+errno) {
			return bad("linux.sysctls", "%s", what)
		}
	}
	return err
}

// resume goes on with a pod whose maker was killed. An error says no more than that the pod is to be made anew.
func (h Host) resume(ctx context.Context, l *lock.Lock, s sandbox.Sandbox, c Config) (err error) {
	dir := h.dir(s)
	v, err := taskdir.LookPod(dir)
	if err != nil || !v.Known || v.Whole || !v.Supervised {
		return errors.Join(err, errdefs.ErrFailedPrecondition)
	}
	// The supervisor takes the lock before it gives the pod up.
	making, err := lock.Hold(filepath.Join(dir, taskdir.StartLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, making.Release()) }()
	if err := task.AwaitPodStart(ctx, h.Dir, dir); err != nil {
		return err
	}
	return h.finish(ctx, l, s, c)
}

// finish gives a pod that has its supervisor a network and its files, and marks it as ready.
func (h Host) finish(ctx context.Context, l *lock.Lock, s sandbox.Sandbox, c Config) error {
	dir := h.dir(s)
	var pinned taskdir.Pinned
	if _, err := taskdir.Read(dir, taskdir.PodPinned, &pinned); err != nil {
		return err
	}
	ips, err := h.connect(ctx, l, s, c, pinned.Paths[taskdir.NetNS])
	if err != nil {
		return err
	}
	crash.Point("pod.connected")
	if err := writeFiles(dir, c, ips); err != nil {
		return err
	}
	if err := h.pause(ctx, l, s, c); err != nil {
		return err
	}
	return h.publish(ctx, s, c, ips)
}

// publish asks plugins about a pod that is all made, and marks it as ready.
func (h Host) publish(ctx context.Context, s sandbox.Sandbox, c Config, ips []string) error {
	defer h.enter()()
	if h.asks() {
		st, err := h.status(s, c)
		if err != nil {
			return err
		}
		st.IPs = ips
		if err := h.askPod(ctx, PodRun, st); err != nil {
			return err // the others are told with the removal
		}
	}
	return taskdir.Write(h.dir(s), taskdir.PodReady, ready{At: time.Now().UTC(), IPs: ips})
}

// cgroup gives the parent of the containers' cgroups as a path below the hierarchies; empty: the root.
func (c Config) cgroup() (string, error) {
	if c.CgroupParent == "" {
		return "", nil
	}
	driver, parent := c.parent()
	if driver == "systemd" && !cgroup.Booted() {
		return "", bad("linux.cgroup_parent", "%q is a slice, and systemd does not run this machine", c.CgroupParent)
	}
	spec, err := cgroup.Spec(cgroup.Driver(driver), parent, "x", "x")
	if err == nil {
		spec, err = cgroup.Path(spec)
	}
	if err != nil {
		return "", fmt.Errorf("linux.cgroup_parent: %w", err)
	}
	return filepath.Dir(spec), nil
}

// pinned says what the pod's supervisor makes.
func (h Host) pinned(c Config) taskdir.Pod {
	p := taskdir.Pod{Sysctls: maps.Clone(c.Sysctls), Hostname: c.Hostname, Namespaces: c.kinds(), UIDs: c.Namespaces.UIDs, GIDs: c.Namespaces.GIDs}
	if c.Namespaces.Network == Node {
		return p
	}
	if p.Sysctls == nil {
		p.Sysctls = map[string]string{}
	}
	set := func(name, value string) {
		if _, given := p.Sysctls[name]; !given {
			p.Sysctls[name] = value
		}
	}
	if h.config().CRI.EnableUnprivilegedPorts {
		set("net.ipv4.ip_unprivileged_port_start", "0")
	}
	if h.config().CRI.EnableUnprivilegedICMP && len(c.Namespaces.UIDs) == 0 {
		set("net.ipv4.ping_group_range", "0 2147483647")
	}
	return p
}

// kinds lists the namespaces that the pod has.
func (c Config) kinds() (all []string) {
	n := c.Namespaces
	if len(n.UIDs) > 0 {
		all = append(all, taskdir.UserNS)
	}
	if n.Network != Node {
		all = append(all, taskdir.NetNS, taskdir.UTSNS)
	}
	if n.IPC != Node {
		all = append(all, taskdir.IPCNS)
	}
	if n.PID == Pod {
		all = append(all, taskdir.PIDNS)
	}
	return all
}
