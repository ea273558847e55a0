// SPDX-License-Identifier: Apache-2.0

package task

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// CreateOptions are what a container is made of.
type CreateOptions struct {
	ID          string // empty: a random one
	Image       string // name, digest or the beginning of one
	Platform    string // empty: this machine's
	Snapshotter string // keeps the image's layers and the container's root; empty: as the namespace's label says, else overlayfs
	Spec        spec.Options
	NetworkOptions
	Labels      map[string]string
	StopSignal  string // empty: the image's, else TERM
	Stdin       bool   // keep stdin open for clients
	StdinOnce   bool   // with Stdin: it ends with the input of the first client of the CRI
	Transient   bool   // lives in run.db, removed when its task ends
	StopTimeout *int   // seconds that a stop waits before it kills; nil: the default, -1: no bound
	Restart     taskdir.Restart
	Runtime     string // as container.CheckRuntime takes it; empty: as the namespace's label says, else ctr
	// RuntimeOptions are for the shim; nil: none.
	RuntimeOptions *container.Any
	// UserNSAuto asks for a range of this many users of the host that no other container has; 0: Spec.UserNS says.
	UserNSAuto   uint32
	CgroupParent string
	CgroupDriver string // "systemd"; empty: cgroupfs
	LogMaxSize   int64  // bytes at which the log is rotated; 0: never
	LogMaxFiles  int    // log files that are kept, the one that is written included
	LogMaxLine   int    // bytes of output in one record of the log; 0: stdio.DefaultLine
	// Sandbox is the id of the pod whose supervisor has the container's tasks, and JoinSandbox the kinds of namespaces
	// that are the pod's, as /proc/PID/ns calls them; the spec must have each. Empty: it is in none.
	Sandbox     string
	JoinSandbox []string
	Pod         json.RawMessage // kept with the record
	// Amend, when set, changes what the spec says, before it is recorded. It is for what Spec has no option for. The opener
	// reads files of the image.
	Amend func(*spec.Result, spec.Opener) error
	// Saved, when set, is what another container was, of which this one is to be a copy: but for ID, Image, Snapshotter and
	// Labels the other options do not count.
	Saved   *Saved
	LogPath string // absolute; who asks for it rotates and removes the log; empty: the container's own place
}

// Create makes a container from an image: a snapshot on top of the image's, a spec, a record. It is
// durable when Create returns, unless it is transient.
func Create(ctx context.Context, d *state.Dir, ns string, o CreateOptions) (*Task, error) {
	defer d.EmptyTrash() // of a create that fails, or of the container that had the id
	t, l, err := create(ctx, d, ns, o)
	if err != nil {
		return nil, err
	}
	return t, l.Release()
}

// Run is Create and Start in one: no other command sees the container before it is being started. When the
// start fails the container stays, for another try, unless it is transient or ctx has been cancelled.
func Run(ctx context.Context, d *state.Dir, ns string, o CreateOptions, so StartOptions) (*Task, error) {
	defer d.EmptyTrash() // as in Create
	t, l, err := create(ctx, d, ns, o)
	if err != nil {
		return nil, err
	}
	starting, err := t.reserve(ctx, so)
	if err = errors.Join(err, l.Release()); err != nil {
		if t.Container.Transient {
			err = errors.Join(err, t.RemoveEnded(context.WithoutCancel(ctx)))
		}
	} else if err = t.launch(ctx, so, starting); err == nil {
		err = t.beginAfter(ctx, starting)
	}
	if err != nil && ctx.Err() != nil && !t.Container.Transient {
		// Nobody has been told of the container. (Of a transient one nothing is left by now.)
		err = errors.Join(err, t.Remove(context.WithoutCancel(ctx), true))
	}
	if err != nil {
		return nil, fmt.Errorf("start container %q: %w", t.ID(), err)
	}
	return t, nil
}

// source is what an image gives a container.
type source struct {
	name     string
	config   ocispec.ImageConfig
	sn       *snapshot.Snapshotter
	snapshot string      // committed snapshot of its last layer; empty for an image without layers
	tree     snapshot.ID // of that
	layers   *snapshot.Trees
}

// create makes the container and returns with its lock held.
func create(ctx context.Context, d *state.Dir, ns string, o CreateOptions) (t *Task, l *lock.Lock, err error) {
	if err := container.CheckID(ns); err != nil {
		return nil, nil, fmt.Errorf("namespace: %w", err)
	}
	if o.ID == "" {
		o.ID = randomID()
	}
	if err := container.CheckID(o.ID); err != nil {
		return nil, nil, fmt.Errorf("container name: %w", err)
	}
	if err := checkDriver(o.CgroupDriver); err != nil {
		return nil, nil, err
	}
	if o.StopSignal != "" {
		if _, err := ParseSignal(o.StopSignal); err != nil {
			return nil, nil, err
		}
	}
	if o.LogPath != "" && !filepath.IsAbs(o.LogPath) {
		return nil, nil, fmt.Errorf("log %q: want an absolute path: %w", o.LogPath, errdefs.ErrInvalidArgument)
	}
	le, err := lease.Take(d)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, le.Release()) }()
	src, err := readImage(ctx, d, ns, o, le)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, src.layers.Close()) }()
	if o.Saved != nil {
		if err := o.Saved.check(); err != nil {
			return nil, nil, fmt.Errorf("create container %q: %w", o.ID, err)
		}
	}
	if o.UserNSAuto > 0 {
		if o.Spec.UserNS, err = ownIDs(ctx, d, o.UserNSAuto); err != nil {
			return nil, nil, err
		}
	}
	nets, mode, err := o.settle(src.config)
	if o.Saved != nil {
		nets = o.Saved.Container.Network
	}
	if err == nil {
		err = checkNetworks(d, nets)
	}
	if err != nil {
		return nil, nil, err
	}
	o.Spec.Net, o.Spec.Networked = cmp.Or(mode, o.Spec.Net), nets != nil
	made, err := generate(ctx, d, ns, o, src)
	if err != nil {
		return nil, nil, err
	}
	join, err := references(ctx, d, ns, made.Join)
	if err != nil {
		return nil, nil, err
	}
	runtime, err := namespace.Runtime(ctx, d, ns, o.Runtime)
	if err != nil {
		return nil, nil, err
	}
	c := container.Container{
		ID: o.ID, Image: src.name, Labels: o.Labels,
		Runtime:     container.Runtime{Name: runtime, Options: o.RuntimeOptions},
		Snapshotter: src.sn.Name(), SnapshotKey: o.ID,
		DefaultSeccomp: made.DefaultSeccomp,
		UserNS:         o.Spec.UserNS, Join: join, Etc: made.Etc, Network: nets,
		StopSignal: o.StopSignal, StopTimeout: o.StopTimeout, Stdin: o.Stdin, StdinOnce: o.StdinOnce, Transient: o.Transient,
		CgroupParent: o.CgroupParent, CgroupDriver: o.CgroupDriver, LogMaxSize: o.LogMaxSize, LogMaxFiles: o.LogMaxFiles,
		LogMaxLine: o.LogMaxLine, LogPath: o.LogPath, Sandbox: o.Sandbox, JoinSandbox: o.JoinSandbox, Pod: o.Pod,
	}
	if restart := container.RestartLabels(o.Restart); restart != nil {
		maps.Copy(restart, o.Labels)
		c.Labels = restart
	}
	var empty map[string]bool
	if o.Saved != nil {
		o.Saved.fill(&c)
		empty = o.Saved.Volumes
	}
	if c.StopSignal == "" {
		c.StopSignal = src.config.StopSignal
	}
	if err := makeVolumes(ctx, d, ns, &c, made.Volumes, empty, src, le); err != nil {
		return nil, nil, fmt.Errorf("create container %q: %w", o.ID, err)
	}
	defer func() {
		if err != nil && len(made.Volumes) > 0 {
			err = errors.Join(err, d.Trash(d.Path("containers", ns, c.Files())))
		}
	}()
	for again := true; ; again = false {
		if l, err = d.Lock(ctx, nil, lock.Container, ns+"/"+o.ID, lock.Exclusive); err != nil {
			return nil, nil, fmt.Errorf("create container %q: %w", o.ID, err)
		}
		var recorded container.Container
		if recorded, err = record(ctx, d, ns, l, c, made.Spec, src, le, o.UserNSAuto > 0); err == nil {
			return &Task{Container: recorded, Namespace: ns, d: d}, l, nil
		}
		err = errors.Join(fmt.Errorf("create container %q: %w", o.ID, err), l.Release())
		if !again || !errdefs.IsAlreadyExists(err) || !reclaim(ctx, d, ns, o.ID) {
			return nil, nil, err
		}
	}
}

// record stages the snapshot's directory and writes all records in one commit.
func record(ctx context.Context, d *state.Dir, ns string, l *lock.Lock, c container.Container, s *specs.Spec, src source, le *lease.Lease, ownIDs bool) (made container.Container, err error) {
	id := snapshot.NewID()
	if err := le.Hold(ctx, l, lease.Snapshot, string(id)); err != nil {
		return c, err
	}
	err = src.sn.Stage(ctx, d, id, src.tree)
	update := d.Update
	if c.Transient {
		update = d.UpdateRun
	} else if err == nil {
		err = src.sn.Sync(d, id, true)
	}
	if err != nil {
		return c, errors.Join(err, src.sn.Drop(d, id))
	}
	crash.Point("task.staged")
	err = update(ctx, l, func(tx *state.Tx) error {
		if ownIDs {
			if err := checkOwnIDs(tx, c.UserNS); err != nil {
				return err
			}
		}
		if made, err = container.Create(tx, ns, c, s); err != nil {
			return err
		}
		_, err := src.sn.Prepare(tx, ns, c.SnapshotKey, src.snapshot, id, idLabels(s))
		return err
	})
	crash.Point("task.recorded")
	if err != nil {
		return c, errors.Join(err, src.sn.Drop(d, id))
	}
	return made, nil
}

// idLabels are the labels of the snapshot of a container with a user namespace.
func idLabels(s *specs.Spec) map[string]string {
	if len(s.Linux.UIDMappings) == 0 {
		return nil
	}
	return map[string]string{
		snapshot.LabelUIDMapping: spec.MapText(s.Linux.UIDMappings),
		snapshot.LabelGIDMapping: spec.MapText(s.Linux.GIDMappings),
	}
}

// ImageError says that a container's image is not here or is incomplete.
type ImageError struct {
	Image string
	Err   error
}

// Error names the image.
func (e *ImageError) Error() string { return e.Err.Error() }

// Unwrap gives the cause and its kind.
func (e *ImageError) Unwrap() error { return e.Err }

// readImage reads the image and takes its last layer's snapshot into the lease.
func readImage(ctx context.Context, d *state.Dir, ns string, o CreateOptions, le *lease.Lease) (src source, err error) {
	platform, err := image.ParsePlatform(o.Platform)
	if err != nil {
		return src, err
	}
	var img image.Image
	err = d.View(ctx, func(tx *state.Tx) error {
		img, err = image.Find(tx, ns, o.Image)
		return err
	})
	if err != nil {
		return src, &ImageError{o.Image, err}
	}
	m, err := image.Resolve(d, img.Target, platform)
	if err != nil {
		return src, &ImageError{o.Image, err}
	}
	src = source{name: img.Name, config: m.Config.Config, layers: &snapshot.Trees{}}
	if src.sn, err = namespace.Snapshotter(ctx, d, ns, o.Snapshotter); err != nil {
		return src, err
	}
	if len(m.ChainIDs) == 0 {
		return src, nil
	}
	src.snapshot = m.ChainIDs[len(m.ChainIDs)-1].String()
	if err := le.Hold(ctx, nil, lease.Snapshot, ns+"/"+src.snapshot); err != nil {
		return src, err
	}
	var chain []snapshot.Info
	err = d.View(ctx, func(tx *state.Tx) error {
		chain, err = src.sn.Chain(tx, ns, src.snapshot)
		return err
	})
	if err == nil {
		src.tree = chain[0].ID
		src.layers, err = src.sn.Open(ctx, d, chain)
	}
	if errdefs.IsNotFound(err) {
		return src, &ImageError{o.Image, fmt.Errorf("image %q is here, but not unpacked by %s: %w", img.Name, src.sn.Name(), err)}
	}
	return src, err
}

// generate makes the spec, and the directories of volumes that are not there yet, as docker does.
func generate(ctx context.Context, d *state.Dir, ns string, o CreateOptions, src source) (spec.Result, error) {
	so := o.Spec
	so.Open = spec.LayerFS(src.layers.Dirs).Open
	so.ID = o.ID
	var r spec.Result
	var err error
	if so.CgroupsPath, err = cgroupsPath(d, ns, container.Container{ID: o.ID, CgroupDriver: o.CgroupDriver, CgroupParent: o.CgroupParent}); err != nil {
		return r, err
	}
	if r, err = spec.Generate(ctx, src.config, so); err != nil {
		return r, err
	}
	if o.Saved != nil {
		r = o.Saved.result(r)
	}
	r.Spec.Root.Path = taskdir.Rootfs
	if o.Amend != nil {
		if err := o.Amend(&r, so.Open); err != nil {
			return r, err
		}
	}
	if err := spec.MakeDirs(r.Mkdir); err != nil {
		return r, fmt.Errorf("volume: %w", err)
	}
	return r, nil
}

// randomID is 12 hexadecimal digits, of which the first is a letter: no id is mistaken for a number.
func randomID() string {
	b := make([]byte, 6)
	rand.Read(b)
	b[0] = b[0]%0x60 + 0xa0
	return hex.EncodeToString(b)
}
