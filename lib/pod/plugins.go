// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Plugins are programs of the node that are asked about pods and told of them. Only a server has any: a process that makes
// pods by itself asks none. It is an interface so that this package, and what links it, need not link their protocol.
type Plugins interface {
	// Enter keeps plugins that come in at the door until leave is called, and waits for one that is coming in: what is made
	// between the two calls is told to a new plugin or is in what it is shown. It must not be called twice at a time.
	Enter() (leave func())
	// Count is how many plugins there are. Between Enter and leave none are added.
	Count() int
	// Pod asks about an event of a pod, or tells it. Only PodRun and PodUpdate can be refused.
	Pod(ctx context.Context, e PodEvent, p Status) error
	// Container asks about an event of a container, or tells it, and gives what other containers are to be changed. s is the
	// container's spec. Only ContainerStart can be refused.
	Container(ctx context.Context, e ContainerEvent, p Status, c ContainerStatus, s *specs.Spec) ([]Change, error)
	// Create asks about a container that is to be made, and changes its spec.
	Create(ctx context.Context, p Status, c ContainerStatus, s *specs.Spec) ([]Change, error)
	// Update asks about bounds that a container is to have, and gives those that it shall have.
	Update(ctx context.Context, p Status, c ContainerStatus, s *specs.Spec, r *specs.LinuxResources) (*specs.LinuxResources, []Change, error)
}

// PodEvent is what happens to a pod.
type PodEvent int

// The events of a pod.
const (
	PodRun     PodEvent = iota // it is all made, and nobody has been told
	PodUpdate                  // it is to have the resources that its configuration says
	PodUpdated                 // it has them
	PodStopped                 // its containers have ended
	PodRemoved                 // it is no more
)

// ContainerEvent is what happens to a container.
type ContainerEvent int

// The events of a container.
const (
	ContainerCreated ContainerEvent = iota // it has been made
	ContainerStart                         // it is to be started
	ContainerStarted                       // it runs
	ContainerUpdated                       // it has other bounds
	ContainerStopped                       // it has ended; told once
	ContainerRemoved                       // it is no more
)

// Change is what a plugin wants changed of a container.
type Change struct {
	ID            string
	Resources     *specs.LinuxResources
	IgnoreFailure bool
}

// Apply carries out changes that plugins want, without asking or telling them, and gives those that failed with the first
// error. Of one whose failure is to be ignored there is no error.
func (h Host) Apply(ctx context.Context, all []Change) (failed []Change, err error) {
	for _, c := range all {
		if c.Resources == nil {
			continue
		}
		e := h.apply(ctx, c)
		if e == nil {
			continue
		}
		failed = append(failed, c)
		if !c.IgnoreFailure && err == nil {
			err = fmt.Errorf("change that a plugin wants: %w", e)
		}
	}
	return failed, err
}

func (h Host) apply(ctx context.Context, c Change) error {
	t, err := h.Open(ctx, c.ID)
	if err != nil {
		return err
	}
	defer t.Close()
	return t.Update(ctx, swapped(c.Resources))
}

// swapped gives bounds of which that of swap is not below that of memory, which the kernel refuses. Who names none wants no swap.
func swapped(r *specs.LinuxResources) *specs.LinuxResources {
	if r.Memory == nil || r.Memory.Limit == nil || !swapLimited() {
		return r
	}
	to, memory := *r, *r.Memory
	if memory.Swap == nil || *memory.Swap >= 0 && *memory.Swap < *memory.Limit {
		memory.Swap = memory.Limit
	}
	to.Memory = &memory
	return &to
}

// enter is Plugins.Enter, where there are plugins.
func (h Host) enter() (leave func()) {
	if h.Plugins == nil {
		return func() {}
	}
	return h.Plugins.Enter()
}

// asks tells whether there is a plugin to be asked. Without one nothing is read for plugins: one that comes later is shown what there is.
func (h Host) asks() bool { return h.Plugins != nil && h.Plugins.Count() > 0 }

// askPod is Plugins.Pod, where there are plugins.
func (h Host) askPod(ctx context.Context, e PodEvent, st Status) error {
	if !h.asks() {
		return nil
	}
	if err := h.Plugins.Pod(ctx, e, st); err != nil {
		return fmt.Errorf("a plugin refuses it: %w", err)
	}
	return nil
}

// tellPod tells plugins of a pod; what they say to it does not matter.
func (h Host) tellPod(ctx context.Context, e PodEvent, s sandbox.Sandbox, c Config) {
	defer h.enter()()
	if h.asks() {
		_ = h.askPod(ctx, e, h.brief(s, c))
	}
}

// subject is a container as plugins are told of it.
type subject struct {
	p Status
	c ContainerStatus
	s *specs.Spec
}

// subject looks at a container that plugins are to be told of.
func (h Host) subject(ctx context.Context, t *task.Task) (one subject, err error) {
	if one.c, one.s, err = h.inspect(ctx, t); err != nil {
		return one, err
	}
	if one.p, err = h.Status(ctx, one.c.Pod); errdefs.IsNotFound(err) {
		one.p, err = Status{ID: one.c.Pod}, nil
	}
	return one, err
}

// ask asks plugins about an event of a container, and carries out what they want changed.
func (h Host) ask(ctx context.Context, e ContainerEvent, t *task.Task) error {
	defer h.enter()()
	if !h.asks() {
		return nil
	}
	one, err := h.subject(ctx, t)
	if err != nil {
		return err
	}
	return h.askOf(ctx, e, one)
}

// askOf is ask of a container that has been looked at.
func (h Host) askOf(ctx context.Context, e ContainerEvent, one subject) error {
	changes, err := h.Plugins.Container(ctx, e, one.p, one.c, one.s)
	if err != nil {
		return fmt.Errorf("a plugin refuses it: %w", err)
	}
	_, err = h.Apply(ctx, changes)
	return err
}

// askUpdate asks plugins about bounds, and gives those that the container shall have.
func (h Host) askUpdate(ctx context.Context, t *task.Task, r *specs.LinuxResources) (*specs.LinuxResources, error) {
	defer h.enter()()
	if !h.asks() {
		return r, nil
	}
	one, err := h.subject(ctx, t)
	if err != nil {
		return nil, err
	}
	to, changes, err := h.Plugins.Update(ctx, one.p, one.c, one.s, r)
	if err != nil {
		return nil, fmt.Errorf("a plugin refuses it: %w", err)
	}
	_, err = h.Apply(ctx, changes)
	return swapped(to), err
}

// tell tells plugins of an event that has happened to a container, with the container as it is now; of one that has been removed
// meanwhile they have been told more. What they say to it does not matter.
func (h Host) tell(ctx context.Context, e ContainerEvent, id string) {
	defer h.enter()()
	if !h.asks() {
		return
	}
	t, err := h.Open(ctx, id)
	if err != nil {
		return
	}
	if one, err := h.subject(ctx, t); err == nil {
		_ = h.askOf(ctx, e, one)
	}
}

// Stopped tells plugins that a container of a pod has ended, if it has, and unless they know. It is for those that end by
// themselves.
func (h Host) Stopped(ctx context.Context, id string) error {
	t, err := h.Open(ctx, id)
	if err != nil {
		return err
	}
	return h.tellStopped(ctx, t)
}

func (h Host) tellStopped(ctx context.Context, t *task.Task) error {
	defer h.enter()()
	if !h.asks() {
		return nil
	}
	one, err := h.subject(ctx, t)
	if err == nil && one.c.State == Exited {
		_ = h.askOf(ctx, ContainerStopped, one)
	}
	return err
}

// removeContainer removes a container of a pod.
func (h Host) removeContainer(ctx context.Context, t *task.Task) error {
	if h.Plugins == nil || len(t.Container.Pod) == 0 { // that of a pause image is nothing to plugins
		return t.Remove(ctx, true)
	}
	// Plugins are told of its end before they are told of its removal.
	if err := t.End(ctx); err != nil {
		return err
	}
	leave := h.enter()
	if !h.asks() {
		defer leave() // one that comes in is not shown what is being removed: it could not be told that it has gone
		return t.Remove(ctx, true)
	}
	leave()
	if err := h.tellStopped(ctx, t); err != nil {
		return err
	}
	one, err := h.subject(ctx, t)
	if err != nil {
		return err
	}
	if err := t.Remove(ctx, true); err != nil {
		return err
	}
	defer h.enter()()
	_ = h.askOf(ctx, ContainerRemoved, one)
	return nil
}

// askPlugins asks plugins about a container that is to be made, whose spec they may change.
func (h Host) askPlugins(ctx context.Context, pod Status, id string, c ContainerConfig, r *spec.Result) error {
	if h.Plugins == nil {
		return nil
	}
	st := ContainerStatus{ContainerConfig: c, ID: id, Pod: pod.ID, State: Unknown, User: r.Spec.Process.User}
	changes, err := h.Plugins.Create(ctx, pod, st, r.Spec)
	if err != nil {
		return fmt.Errorf("a plugin refuses it: %w", err)
	}
	for _, kind := range joins(pod.Config, c) {
		if !slices.ContainsFunc(r.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == taskdir.NamespaceType(kind) && n.Path == "" }) {
			return fmt.Errorf("a plugin changes the namespace %s, which is the pod's: %w", kind, errdefs.ErrNotImplemented)
		}
	}
	if s := r.Spec.Process.OOMScoreAdj; s != nil {
		*s = score(*s, h.config().CRI)
	}
	if r.Spec.Linux.Seccomp != nil {
		r.DefaultSeccomp = false
	}
	_, err = h.Apply(ctx, changes)
	return err
}
