// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
)

// Saved is what a container was, here or elsewhere. Of one that was none of ctrd's Container has the zero value.
type Saved struct {
	Container container.Container
	Spec      *specs.Spec // as it was recorded
	// Volumes are the places of anonymous volumes that are made empty, for [Task.FillVolume]; the others have what the image has.
	Volumes map[string]bool
}

// check refuses what there cannot be a copy of.
func (s *Saved) check() error {
	c := s.Container
	switch {
	case s.Spec.Process == nil || s.Spec.Root == nil || s.Spec.Linux == nil:
		return fmt.Errorf("what was saved is no container of Linux: %w", errdefs.ErrInvalidArgument)
	case len(c.Join) > 0:
		return fmt.Errorf("it had namespaces of another container: %w", errdefs.ErrNotImplemented)
	case c.Sandbox != "" || len(c.Pod) > 0:
		return fmt.Errorf("it was in a pod: %w", errdefs.ErrNotImplemented)
	case c.UserNS.Private():
		return fmt.Errorf("it had a user namespace: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// result is that of the options which the container was made of, for another cgroup.
func (s *Saved) result(new spec.Result) spec.Result {
	root, linux, all := *s.Spec.Root, *s.Spec.Linux, *s.Spec
	linux.CgroupsPath = new.Spec.Linux.CgroupsPath
	all.Root, all.Linux = &root, &linux
	return spec.Result{Spec: &all, DefaultSeccomp: s.Container.DefaultSeccomp, Etc: s.Container.Etc, Volumes: spec.Volumes(&all)}
}

// fill gives a record what is not the place's but the container's own.
func (s *Saved) fill(c *container.Container) {
	from := s.Container
	c.StopSignal, c.StopTimeout, c.Stdin, c.StdinOnce = from.StopSignal, from.StopTimeout, from.Stdin, from.StdinOnce
	own := c.Labels
	c.Labels = maps.Clone(from.Labels)
	if c.Labels == nil {
		c.Labels = own
	} else {
		maps.Copy(c.Labels, own)
	}
	c.LogMaxSize, c.LogMaxFiles, c.LogMaxLine = from.LogMaxSize, from.LogMaxFiles, from.LogMaxLine
}

// ApplyChange puts a layer of a media type onto the files of a container that does not run. After an error they may have a part of it.
func (t *Task) ApplyChange(ctx context.Context, r io.Reader, mediaType string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("files of container %q: %w", t.ID(), err)
		}
	}()
	sn, err := t.snapshots()
	if err != nil {
		return err
	}
	l, err := t.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if err := t.atRest(ctx); err != nil {
		return err
	}
	var mounts []mount.Mount
	err = t.d.View(ctx, func(tx *state.Tx) (err error) {
		mounts, err = sn.Mounts(ctx, tx, t.d, t.Namespace, t.Container.SnapshotKey)
		return err
	})
	if err != nil {
		return err
	}
	_, err = diff.Apply(ctx, r, layer.Options{MediaType: mediaType}, mounts)
	return err
}
