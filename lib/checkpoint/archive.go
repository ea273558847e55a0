// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"ctrd.dev/ctrd/lib/commit"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
)

// Names in an archive of a whole container, as checkpointctl (lib/metadata.go there) and those who make such archives have them.
const (
	archiveCriu   = "checkpoint"      // a directory: criu's images
	archiveSpec   = "spec.dump"       // the OCI spec
	archiveChange = "rootfs-diff.tar" // what the container has changed of its image's files, a layer
	archiveLog    = "container.log"
)

// ArchiveOptions say what else is in an archive.
type ArchiveOptions struct {
	Log   string            // the path of the container's log; empty: none
	Files map[string][]byte // by their names
}

// Archive writes a whole container that runs as a tar archive: its processes, what it has changed of its files, its spec and its log. The
// container is paused meanwhile, but for the writing of the archive, and runs on.
func Archive(ctx context.Context, d *state.Dir, t *task.Task, w io.Writer, o ArchiveOptions) (err error) {
	s, err := newScratch(d, t, dumpPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for name, data := range o.Files {
		if err := os.WriteFile(filepath.Join(s.Path, name), data, 0o600); err != nil {
			return err
		}
	}
	raw, err := rawSpec(ctx, d, t)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.Path, archiveSpec), raw, 0o600)
	}
	if err != nil {
		return err
	}
	err = t.Still(ctx, true, func(from, to []string) error {
		// criu's log and statistics lie beside its images.
		if err := t.Checkpoint(ctx, taskapi.CheckpointOptions{ImagePath: filepath.Join(s.Path, archiveCriu), WorkPath: s.Path, OpenTCP: true, FileLocks: true}); err != nil {
			return err
		}
		return writeChange(ctx, t, filepath.Join(s.Path, archiveChange), from, to)
	})
	if err == nil && o.Log != "" {
		err = copyFile(filepath.Join(s.Path, archiveLog), o.Log)
	}
	if err != nil {
		return err
	}
	return packAll(ctx, w, s.Path)
}

func writeChange(ctx context.Context, t *task.Task, path string, from, to []string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = commit.WriteChange(ctx, t, f, from, to, diff.Options{Compression: diff.Gzip})
	return errors.Join(err, f.Close())
}

// copyFile copies a file, which may not be there.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// packAll writes a directory with the files in it and in the directory of criu's images.
func packAll(ctx context.Context, w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	err := packDir(ctx, tw, dir, "")
	if err == nil {
		err = tw.WriteHeader(&tar.Header{Name: archiveCriu + "/", Typeflag: tar.TypeDir, Mode: 0o700, ModTime: epoch, Format: tar.FormatPAX})
	}
	if err == nil {
		err = packDir(ctx, tw, filepath.Join(dir, archiveCriu), archiveCriu+"/")
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return tw.Close()
}
