// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// longestLine stands for any length of a line of a log, in bytes.
const longestLine = 512 << 10

// maxLine is how many bytes of output a record of a container's log has.
func (h Host) maxLine() int {
	n := h.config().CRI.MaxContainerLogLineSize
	if n <= 0 || n > longestLine {
		return longestLine
	}
	return n
}

// containerID is the id of a container, which follows from its pod, its name and its attempt: the same call makes the same
// container.
func containerID(pod, name string, attempt uint32) string {
	h := sha256.Sum256([]byte(strings.Join([]string{pod, name, strconv.FormatUint(uint64(attempt), 10)}, "\x00")))
	return hex.EncodeToString(h[:])
}

// CreateContainer makes a container of a pod that is ready, and gives its id. It does not run. The same container once more
// is that container.
func (h Host) CreateContainer(ctx context.Context, pod string, c ContainerConfig) (string, error) {
	id, err := h.createContainer(ctx, pod, c)
	if err = c.named(err); err != nil {
		return "", fmt.Errorf("create container %q in pod %q: %w", c.Name, pod, err)
	}
	return id, nil
}

// named has an error about an option of lib/spec name the field that it was made of.
func (c ContainerConfig) named(err error) error {
	var o *spec.OptionError
	if !errors.As(err, &o) {
		return err
	}
	field := map[string]string{
		"cap-add": "capabilities.add_capabilities", "cap-drop": "capabilities.drop_capabilities", "device": "devices.host_path",
		"workdir": "working_dir", "env": "envs",
	}[o.Option]
	switch {
	case o.Option != "user":
	case c.Security.Username != "":
		field = "security_context.run_as_username"
	case c.Security.UID != nil:
		field = "security_context.run_as_user"
	default:
		return fmt.Errorf("user of the image: %w", err)
	}
	if field == "" {
		return err
	}
	return bad(field, "%q: %s", o.Value, o.Reason)
}

func (h Host) createContainer(ctx context.Context, pod string, c ContainerConfig) (id string, err error) {
	if err := c.check(); err != nil {
		return "", err
	}
	if st, err := h.get(ctx, pod); err == nil {
		// Nobody has been told of one that is being made, and it is not waited for.
		if v, err := taskdir.LookPod(h.dir(st)); err == nil && v.Starting {
			return "", fmt.Errorf("the pod is not ready: %w", errdefs.ErrFailedPrecondition)
		}
	}
	s, p, l, err := h.locked(ctx, pod)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	st, err := h.status(s, p)
	if err != nil {
		return "", err
	}
	if !st.Ready {
		return "", fmt.Errorf("the pod is not ready: %w", errdefs.ErrFailedPrecondition)
	}
	id = containerID(s.ID, c.Name, c.Attempt)
	if _, err := task.Open(ctx, h.Dir, h.Namespace, id); err == nil || !errdefs.IsNotFound(err) {
		return id, err // an earlier call has made it
	}
	le, err := lease.Take(h.Dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, le.Release()) }()
	o, err := h.options(ctx, l, le, s, p, c)
	if err != nil {
		return "", err
	}
	o.ID = id
	amend := o.Amend
	o.Amend = func(r *spec.Result, open spec.Opener) error {
		if err := amend(r, open); err != nil {
			return err
		}
		return h.askPlugins(ctx, st, id, c, r)
	}
	if o.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(o.LogPath), 0o755); err != nil {
			return "", fmt.Errorf("log_path: %w", err)
		}
	}
	t, err := func() (*task.Task, error) {
		defer h.enter()()
		return task.Create(ctx, h.Dir, h.Namespace, o)
	}()
	if err != nil {
		return "", err
	}
	crash.Point("pod.container-created")
	h.tell(ctx, ContainerCreated, t.ID())
	return id, nil
}

// options translates the configuration of a container.
func (h Host) options(ctx context.Context, l *lock.Lock, le *lease.Lease, s sandbox.Sandbox, p Config, c ContainerConfig) (o task.CreateOptions, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return o, err
	}
	run, err := h.handler(p.Handler)
	if err != nil {
		return o, err
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); run.CgroupWritable && err != nil {
		return o, fmt.Errorf("runtime %q: cgroup_writable of the configuration: this machine has not cgroup v2 alone: %w", p.Handler, errdefs.ErrFailedPrecondition)
	}
	runtime, runtimeOptions, err := runtimeOf(run)
	if err != nil {
		return o, err
	}
	base, err := readBase(cmp.Or(p.Handler, h.config().DefaultRuntime), run.BaseRuntimeSpec)
	if err != nil {
		return o, err
	}
	driver, parent := p.parent()
	o = task.CreateOptions{
		Image: c.ImageName, Runtime: runtime, RuntimeOptions: runtimeOptions, Snapshotter: run.Snapshotter, Labels: labels(s, c), StopSignal: c.StopSignal, Stdin: c.Stdin, StdinOnce: c.StdinOnce,
		CgroupDriver: driver, CgroupParent: parent, LogMaxLine: h.maxLine(),
		Sandbox: s.ID, JoinSandbox: joins(p, c), Pod: data,
		Spec: spec.Options{
			Args: c.Args, Env: c.Env, Workdir: c.Dir, User: c.Security.user(), TTY: c.TTY,
			ReadOnly: c.Security.ReadOnlyRoot, Privileged: c.Security.Privileged,
			BaseCaps: baseCaps(base), CapAdd: c.Security.AddCaps, CapDrop: c.Security.DropCaps,
			UserNS:     spec.UserNS{UIDs: p.Namespaces.UIDs, GIDs: p.Namespaces.GIDs},
			OwnDevices: run.PrivilegedWithoutHostDevices, AllDevices: run.PrivilegedWithoutHostDevicesAllDevicesAllowed,
			CgroupWritable: run.CgroupWritable, NoImageVolumes: h.config().CRI.IgnoreImageDefinedVolumes,
		},
	}
	if len(c.Command) > 0 {
		none := ""
		o.Spec.Entrypoint, o.Spec.Args = &none, append(append([]string(nil), c.Command...), c.Args...)
	}
	if c.LogPath != "" && p.LogDirectory != "" {
		o.LogPath = filepath.Join(p.LogDirectory, c.LogPath)
	}
	for _, d := range c.Devices {
		if strings.Contains(d.Source+d.Destination, ":") {
			return o, bad("devices.host_path", "%q: a colon is not supported", d.Source)
		}
		o.Spec.Devices = append(o.Spec.Devices, d.Source+":"+d.Destination+":"+d.Permissions)
	}
	n := c.Security.Namespaces
	if p.Namespaces.Network == Node {
		o.Spec.Net, o.Spec.UTS = "host", "host"
	} else {
		o.Spec.Hostname = p.Hostname // for the variable HOSTNAME; the name itself is the pod's
	}
	if p.Namespaces.IPC == Node {
		o.Spec.IPC = "host"
	}
	switch n.PID {
	case Node:
		o.Spec.PID = "host"
	case Target:
		o.Spec.PID = "container:" + n.Target
		if err := h.checkTarget(ctx, s, n.Target); err != nil {
			return o, err
		}
	}
	if o.Spec.SecurityOpt, err = securityOptions(c.Security, h.config().CRI.UnsetSeccompProfile); err != nil {
		return o, err
	}
	a := amendment{id: s.ID, p: p, c: c, run: run, conf: h.config().CRI, base: base}
	if a.images, err = h.imageVolumes(ctx, l, le, c.Mounts, run.Snapshotter, o.Labels); err != nil {
		return o, err
	}
	o.Amend = a.amend
	return o, nil
}

// checkTarget refuses a target of the PID namespace that is no container of the pod.
func (h Host) checkTarget(ctx context.Context, s sandbox.Sandbox, id string) error {
	var c container.Container
	err := h.Dir.View(ctx, func(tx *state.Tx) (err error) {
		c, err = container.Get(tx, h.Namespace, id)
		return err
	})
	if errdefs.IsNotFound(err) || err == nil && c.Sandbox != s.ID {
		return bad("namespace_options.target_id", "%q is no container of the pod", id)
	}
	return err
}

// Labels that containerd gives to the containers of pods.
const (
	labelKind = "io.cri-containerd.kind"
	kindValue = "container"
)

// labels are those of the record: the container's, and what says that it is one of a pod.
func labels(_ sandbox.Sandbox, c ContainerConfig) map[string]string {
	all := map[string]string{}
	maps.Copy(all, c.Labels)
	all[labelKind] = kindValue
	return all
}

// joins lists the kinds of namespaces that the container has of the pod.
func joins(p Config, c ContainerConfig) (all []string) {
	for _, kind := range p.kinds() {
		if kind != taskdir.PIDNS || c.Security.Namespaces.PID == Pod {
			all = append(all, kind)
		}
	}
	return all
}
