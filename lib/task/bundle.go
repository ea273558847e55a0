// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

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
	req := &taskapi.CreateTaskRequest{ID: t.ID(), Bundle: dir}
	var s *specs.Spec
	err := t.d.View(ctx, func(tx *state.Tx) (err error) {
		if s, err = t.readSpec(tx); err != nil {
			return err
		}
		sn, err := t.snapshots()
		if err != nil {
			return err
		}
		mounts, err := sn.Mounts(tx, t.d, t.Namespace, t.Container.SnapshotKey)
		for _, m := range mounts {
			req.Rootfs = append(req.Rootfs, taskapi.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
		}
		return err
	})
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
	if err != nil {
		return nil, nil, err
	}
	if s.Process.Terminal {
		s.Process.ConsoleSize = o.ConsoleSize
	}
	if err := t.place(s, o); err != nil {
		return nil, nil, err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
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
	req.Options = t.options(r)
	return req, shared, t.streams(req, r)
}

// options tells an engine's shim what to run and where its state goes: below the task's directory, so that no
// two containers of one name, of whatever state directory, meet there.
func (t *Task) options(r runtime) *taskapi.Any {
	if !r.foreign && r.engine == "" && !t.systemd {
		return nil
	}
	o := taskapi.Options{BinaryName: r.engine, SystemdCgroup: t.systemd}
	if r.foreign {
		o.Root = filepath.Join(t.Dir(), taskdir.Engine)
	}
	return taskapi.NewAny(&o)
}

// streams makes the FIFO of stdin and the directory of the log, and names both in the request.
func (t *Task) streams(req *taskapi.CreateTaskRequest, r runtime) error {
	c := t.Container
	if c.Stdin {
		req.Stdin = filepath.Join(t.Dir(), taskdir.Stdin)
		if err := stdio.MakeFIFO(req.Stdin); err != nil {
			return err
		}
	}
	log := stdio.Log{Path: t.Log(), MaxSize: c.LogMaxSize, MaxFiles: c.LogMaxFiles}
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
