// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// bundleDir is the OCI bundle: the task's directory, or of a foreign shim a directory below it with the
// container's name, because containerd's shims find the bundle by that.
func (t *Task) bundleDir() string {
	if t.foreign {
		return filepath.Join(t.Dir(), t.ID())
	}
	return t.Dir()
}

// bundle writes the OCI bundle and gives the request that creates the task from it, and whose namespaces it
// shares.
func (t *Task) bundle(ctx context.Context, r runtime, o StartOptions) (*taskapi.CreateTaskRequest, []joined, error) {
	t.foreign = r.foreign
	dir := t.bundleDir()
	req := &taskapi.CreateTaskRequest{ID: t.ID(), Bundle: dir, Checkpoint: o.Checkpoint}
	var s *specs.Spec
	var raw []byte
	err := t.d.View(ctx, func(tx *state.Tx) (err error) {
		if raw, err = container.RawSpec(tx, t.Namespace, t.ID()); err != nil {
			return err
		}
		if s, err = t.readSpec(tx); err != nil {
			return err
		}
		req.Rootfs, err = t.rootfs(ctx, tx, s, o)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if s.Process == nil {
		return nil, nil, fmt.Errorf("its spec has no process: %w", errdefs.ErrInvalidArgument)
	}
	read, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
	}
	if t.Container.DefaultSeccomp {
		if err := spec.WithSeccomp(s); err != nil {
			return nil, nil, err
		}
	}
	if t.Container.UserNS.Private() {
		if err := checkPassable(t.d.Run()); err != nil {
			return nil, nil, err
		}
	}
	shared, err := t.join(ctx, s)
	if err == nil {
		err = t.joinSandbox(ctx, s)
	}
	if err != nil {
		return nil, nil, err
	}
	t.hooks = ask.HookTime(s.Hooks)
	if s.Process.Terminal {
		s.Process.ConsoleSize = o.ConsoleSize
	}
	if err := t.place(ctx, s, o); err != nil {
		return nil, nil, err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
	}
	if bytes.Equal(data, read) {
		data = raw // a client's spec may say what is not known here
	}
	if r.foreign {
		if err := os.MkdirAll(filepath.Join(dir, taskdir.Rootfs), 0o711); err != nil {
			return nil, nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, taskdir.Config), data, 0o600); err != nil {
		return nil, nil, err
	}
	if err := spec.WriteFiles(dir, s, t.Container.Etc, r.init); err != nil {
		return nil, nil, err
	}
	req.Terminal = s.Process.Terminal
	if req.Options, err = t.options(r, o); err != nil {
		return nil, nil, err
	}
	return req, shared, t.streams(req, r, o)
}

// rootfs gives the mounts of the container's root: those that a client has given, else those of its snapshot. A root
// that the spec names by an absolute path is there already.
func (t *Task) rootfs(ctx context.Context, tx *state.Tx, s *specs.Spec, o StartOptions) (all []taskapi.Mount, err error) {
	if o.given != nil {
		return o.given.Rootfs, nil
	}
	if t.Container.SnapshotKey == "" && s.Root != nil && filepath.IsAbs(s.Root.Path) {
		return nil, nil
	}
	sn, err := t.snapshots()
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Mounts(ctx, tx, t.d, t.Namespace, t.Container.SnapshotKey)
	if err == nil && t.foreign && mount.IsFormatted(mounts) {
		return nil, fmt.Errorf("runtime %s: it cannot mount a root of the snapshotter %s; without --runtime, or with --snapshotter overlayfs, it can be: %w",
			t.Container.Runtime.Name, sn.Name(), errdefs.ErrNotImplemented)
	}
	for _, m := range mounts {
		all = append(all, taskapi.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return all, err
}

// options tells an engine's shim what to run and where its state goes: below the task's directory, so that no
// two containers of one name, of whatever state directory, meet there. What a client has said goes before that.
func (t *Task) options(r runtime, o StartOptions) (*taskapi.Any, error) {
	given := t.givenOptions(o)
	var all taskapi.Options
	if given != nil {
		if err := given.To(&all); errdefs.IsNotFound(err) {
			return given, nil // another shim's, which knows them
		} else if err != nil {
			return nil, fmt.Errorf("options of the runtime: %w", err)
		}
	}
	if !r.foreign && r.engine == "" && !t.systemd {
		return given, nil
	}
	all.BinaryName = cmp.Or(all.BinaryName, r.engine)
	all.SystemdCgroup = all.SystemdCgroup || t.systemd
	if r.foreign {
		all.Root = cmp.Or(all.Root, filepath.Join(t.Dir(), taskdir.Engine))
	}
	return taskapi.NewAny(&all), nil
}

// streams makes the FIFO of stdin and the directory of the log, and names both in the request. Streams that a client has
// given are the client's.
func (t *Task) streams(req *taskapi.CreateTaskRequest, r runtime, o StartOptions) error {
	c := t.Container
	if io, _ := t.givenIO(o); io != nil {
		req.Stdin, req.Stdout, req.Stderr = io.Stdin, io.Stdout, io.Stderr
		if o.given != nil {
			req.Terminal = io.Terminal
		}
		return nil
	}
	if c.Stdin {
		req.Stdin = filepath.Join(t.Dir(), taskdir.Stdin)
		if err := stdio.MakeFIFO(req.Stdin); err != nil {
			return err
		}
	}
	log := stdio.Log{Path: t.Log(), MaxSize: c.LogMaxSize, MaxFiles: c.LogMaxFiles, MaxLine: c.LogMaxLine, Shared: c.LogPath != ""}
	if err := os.MkdirAll(filepath.Dir(log.Path), 0o700); err != nil {
		return err
	}
	req.Stdout = log.String()
	if r.foreign {
		return t.foreignLog(req, log)
	}
	if !req.Terminal {
		req.Stderr = req.Stdout
	}
	return nil
}
