// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
)

// The media types of containerd's checkpoints (core/images/mediatypes.go), and one of ours.
const (
	MediaTypeCriu = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
	MediaTypeSpec = "application/vnd.containerd.container.checkpoint.config.v1+proto"
	// MediaTypeRecord is the JSON of a container's record.
	MediaTypeRecord = "application/vnd.ctrd.container.v1+json"
)

// Dump makes a checkpoint of the processes of a running task and gives it to write as an archive. o.ImagePath does not count.
func Dump(ctx context.Context, d *state.Dir, t *task.Task, o taskapi.CheckpointOptions, write func(dir string) error) (err error) {
	s, err := newScratch(d, t, dumpPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	o.ImagePath = s.Path
	if err := t.Checkpoint(ctx, o); err != nil {
		return err
	}
	crash.Point("checkpoint.dumped")
	return write(s.Path)
}

// Prepare unpacks the archive of a checkpoint for a task that is about to be created from it. The caller closes the Scratch, or
// leaves it to the task's start. An archive that does not have the digest is errdefs.ErrDataLoss.
func Prepare(ctx context.Context, d *state.Dir, t *task.Task, archive io.Reader, want digest.Digest) (*Scratch, error) {
	s, err := newScratch(d, t, restorePrefix)
	if err != nil {
		return nil, err
	}
	sum := want.Verifier()
	archive = io.TeeReader(archive, sum)
	if err = Unpack(ctx, archive, s.Path); err == nil {
		_, err = io.Copy(io.Discard, archive) // what follows the end of the archive
	}
	if err == nil && !sum.Verified() {
		err = fmt.Errorf("checkpoint %s: its bytes have another digest: %w", want, errdefs.ErrDataLoss)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	crash.Point("checkpoint.unpacked")
	return s, nil
}

// Spec encodes a spec as containerd keeps it in a checkpoint: a google.protobuf.Any.
func Spec(typeURL string, json []byte) []byte {
	return taskapi.Marshal(&taskapi.Any{TypeURL: typeURL, Value: json})
}
