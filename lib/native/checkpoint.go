// SPDX-License-Identifier: Apache-2.0

package native

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"

	"ctrd.dev/ctrd/lib/checkpoint"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
)

// Checkpoint makes a checkpoint of a task. With a path in the options it is there, and the answer is empty; else it is in the content
// store, as containerd has it: an archive of criu's files and the container's spec.
func (s taskService) Checkpoint(ctx context.Context, r *tasksapi.CheckpointTaskRequest) (*tasksapi.CheckpointTaskResponse, error) {
	var o taskapi.CheckpointOptions
	if err := shimAny(r.Options).To(&o); err != nil && r.Options != nil {
		return nil, fmt.Errorf("checkpoint container %q: options: %w: %w", r.ContainerID, err, errdefs.ErrInvalidArgument)
	}
	answer := &tasksapi.CheckpointTaskResponse{}
	err := s.on(ctx, r.ContainerID, func(t *task.Task) error {
		if o.ImagePath != "" {
			return t.Checkpoint(ctx, o)
		}
		return checkpoint.Dump(ctx, s.s.d, t, o, func(dir string) error {
			criu, err := s.store(ctx, t.Namespace, checkpoint.MediaTypeCriu, func(w *content.Writer) error { return checkpoint.Pack(ctx, w, dir) })
			if err != nil {
				return err
			}
			var raw []byte
			err = s.s.d.View(ctx, func(tx *state.Tx) error {
				raw, err = container.RawSpec(tx, t.Namespace, t.ID())
				return err
			})
			if err != nil {
				return err
			}
			spec, err := s.store(ctx, t.Namespace, checkpoint.MediaTypeSpec, func(w *content.Writer) error {
				_, err := w.Write(checkpoint.Spec(cmp.Or(t.Container.SpecType, specType), raw))
				return err
			})
			answer.Descriptors = []*types.Descriptor{criu, spec}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// store brings a blob into the content store.
func (s taskService) store(ctx context.Context, ns, mediaType string, write func(*content.Writer) error) (_ *types.Descriptor, err error) {
	w, err := content.OpenWriter(ctx, s.s.d, ns, content.WriterOptions{Ref: "checkpoint-" + rand.Text(), Lease: lease(ctx)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := write(w); err != nil {
		return nil, errors.Join(err, w.Close(), content.Abort(context.WithoutCancel(ctx), s.s.d, ns, w.Status().Ref, lease(ctx)))
	}
	dg, err := w.Digest()
	if err != nil {
		return nil, err
	}
	size := w.Status().Offset
	if _, err := w.Commit(ctx, size, dg, nil); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, err
	}
	return &types.Descriptor{MediaType: mediaType, Digest: dg.String(), Size: size}, nil
}

// restoreFrom is the annotation of a checkpoint's descriptor that names a directory, in containerd.
const restoreFrom = "RestoreFromPath"

// thawed says what a new task is restored from: the directory that the client names, or one that the checkpoint in the content
// store is unpacked into. Of a task that is started anew it is the zero value. done is called with how its making ended.
func (s taskService) thawed(ctx context.Context, t *task.Task, r *tasksapi.CreateTaskRequest) (dir string, done func(error) error, err error) {
	done = func(err error) error { return err }
	var o taskapi.Options
	if err := shimAny(r.Options).To(&o); err == nil && o.CriuImagePath != "" {
		dir = o.CriuImagePath
	}
	c := r.Checkpoint
	if c == nil {
		return dir, done, nil
	}
	if path := c.Annotations[restoreFrom]; path != "" {
		return path, done, nil
	}
	if dir != "" {
		return dir, done, nil
	}
	if c.MediaType != checkpoint.MediaTypeCriu {
		return "", done, fmt.Errorf("checkpoint of type %.200q: %w", c.MediaType, errdefs.ErrNotImplemented)
	}
	blob, err := content.OpenRange(ctx, s.s.d, t.Namespace, digest.Digest(c.Digest), 0, 0)
	if err != nil {
		return "", done, fmt.Errorf("checkpoint: %w", err)
	}
	defer blob.Close()
	made, err := checkpoint.Prepare(ctx, s.s.d, t, blob, digest.Digest(c.Digest))
	if err != nil {
		return "", done, err
	}
	return made.Path, func(err error) error {
		if err == nil {
			return made.Leave()
		}
		return errors.Join(err, made.Close())
	}, nil
}
