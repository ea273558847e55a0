// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
)

// The media types of containerd's checkpoints (core/images/mediatypes.go), and two of ours.
const (
	MediaTypeCriu = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
	MediaTypeSpec = "application/vnd.containerd.container.checkpoint.config.v1+proto"
	// MediaTypeRecord is the JSON of a container's record.
	MediaTypeRecord = "application/vnd.ctrd.container.v1+json"
	// MediaTypeVolume is a layer with all files of a volume without a source. Its annotation says where in the container that is.
	MediaTypeVolume = "application/vnd.ctrd.container.volume.v1.tar+gzip"
)

// volumePlace is the annotation of a layer of MediaTypeVolume.
const volumePlace = "dev.ctrd.volume"

// Dir makes a checkpoint of a running task, or with pre of its memory alone, in the directory o.ImagePath. One that has a checkpoint already is
// errdefs.ErrAlreadyExists: a dump that fails would take that with it.
func Dir(ctx context.Context, t *task.Task, o taskapi.CheckpointOptions, pre bool) error {
	if _, err := os.Lstat(filepath.Join(o.ImagePath, lastImage)); err == nil {
		return fmt.Errorf("checkpoint container %q: %s has a checkpoint; name another directory, or remove that: %w", t.ID(), o.ImagePath, errdefs.ErrAlreadyExists)
	}
	if pre {
		return t.PreDump(ctx, o)
	}
	return t.Checkpoint(ctx, o)
}

// Dump makes a checkpoint of the processes of a running task and gives it to write as an archive. o.ImagePath does not count.
//
// With o.Exit the task has ended by then, and only the directory has its memory: it is there until write has succeeded. What of that
// fails is a [*NotStoredError], and the next Dump with o.Exit of the task, which does not run any more, goes on with it; so it does when
// the process is killed. A container that is removed when it ends is errdefs.ErrFailedPrecondition.
func Dump(ctx context.Context, d *state.Dir, t *task.Task, o taskapi.CheckpointOptions, write func(dir string) error) (err error) {
	if o.Exit {
		return dumpLast(ctx, d, t, o, write)
	}
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

func dumpLast(ctx context.Context, d *state.Dir, t *task.Task, o taskapi.CheckpointOptions, write func(dir string) error) (err error) {
	if t.Container.Transient {
		return fmt.Errorf("checkpoint container %q: it is removed when it ends, and its files with it; let it run on (--leave-running): %w", t.ID(), errdefs.ErrFailedPrecondition)
	}
	s, err := findLast(ctx, d, t)
	if err == nil && s == nil {
		s, err = end(ctx, d, t, o)
	}
	if err != nil {
		return err
	}
	crash.Point("checkpoint.dumped")
	if err := write(s.Path); err != nil {
		return errors.Join(&NotStoredError{t.ID(), s.Path, err}, s.Leave())
	}
	err = s.Close()
	return errors.Join(err, t.SweepScratch(d, func(name string) bool { return strings.HasPrefix(name, last(t)) }))
}

// end makes the checkpoint that a task ends with.
func end(ctx context.Context, d *state.Dir, t *task.Task, o taskapi.CheckpointOptions) (*Scratch, error) {
	s, err := newScratch(d, t, last(t))
	if err != nil {
		return nil, err
	}
	o.ImagePath = s.Path
	if err = t.Checkpoint(ctx, o); err == nil {
		return s, nil
	}
	if ctx.Err() != nil {
		return nil, errors.Join(err, s.Leave()) // the supervisor goes on
	}
	// One that was killed may have had it end meanwhile.
	err = errors.Join(err, s.Close())
	if other, ferr := findLast(ctx, d, t); ferr == nil && other != nil {
		return other, nil
	}
	return nil, err
}

// NotStoredError says that a task has ended with its checkpoint, which is in a directory and was not brought to where it was to be. Its
// kind is that of the cause.
type NotStoredError struct {
	ID, Dir string
	Err     error
}

// Error says why.
func (e *NotStoredError) Error() string {
	return fmt.Sprintf("container %q has ended with its checkpoint, which could not be stored: %v", e.ID, e.Err)
}

// Unwrap gives the cause.
func (e *NotStoredError) Unwrap() error { return e.Err }

// Hint names the next step.
func (e *NotStoredError) Hint() string {
	return fmt.Sprintf("the same command again stores it, and ctr-task restore --dir %s %s has the container go on", e.Dir, e.ID)
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
