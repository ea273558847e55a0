// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// inSandbox tells whether the container has namespaces of a sandbox. The sandbox's supervisor has its tasks, and lives on when they
// end, unless it is run by a foreign shim, which has each task alone.
func (t *Task) inSandbox() bool { return t.Container.Sandbox != "" }

// sandbox looks at the sandbox of the container. One that is not ready is errdefs.ErrFailedPrecondition.
func (t *Task) sandbox(ctx context.Context) (dir string, v taskdir.PodView, err error) {
	var s sandbox.Sandbox
	err = t.d.View(ctx, func(tx *state.Tx) error {
		s, err = sandbox.Get(tx, t.Namespace, t.Container.Sandbox)
		return err
	})
	if err != nil {
		return "", v, err
	}
	dir = s.Dir(t.d, t.Namespace)
	v, err = taskdir.LookPod(dir)
	if early := t.early && v.Supervised && v.Supervisor.PID != 0; err == nil && !v.Ready && !early {
		err = fmt.Errorf("sandbox %q is not ready: %w", s.ID, errdefs.ErrFailedPrecondition)
	}
	return dir, v, err
}

// enterSandbox connects to the supervisor of the container's sandbox.
func (t *Task) enterSandbox(ctx context.Context) error {
	_, v, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	return t.dial(ctx, v.Supervisor.Address)
}

// SandboxFile begins the source of a mount that is a file of the container's sandbox: the name in the directory of the
// pod (taskdir) follows. At each start it is replaced by the file's path.
const SandboxFile = "sandbox:"

// joinSandbox fills the namespaces and the files of the sandbox into s.
func (t *Task) joinSandbox(ctx context.Context, s *specs.Spec) error {
	if !t.inSandbox() {
		return nil
	}
	dir, v, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	for _, kind := range t.Container.JoinSandbox {
		path := v.Pinned.Paths[kind]
		if path == "" || !joinKind(s, kind, path) {
			return fmt.Errorf("share namespace %s of sandbox %q: it has none: %w", kind, t.Container.Sandbox, errdefs.ErrFailedPrecondition)
		}
	}
	for i, m := range s.Mounts {
		if name, ok := strings.CutPrefix(m.Source, SandboxFile); ok {
			s.Mounts[i].Source = filepath.Join(dir, name)
		}
	}
	return t.d.View(ctx, func(tx *state.Tx) error { return t.joinImages(ctx, tx, s) })
}

// joinKind has the container share the namespace at path; it reports false when the spec asks for none of the kind.
func joinKind(s *specs.Spec, kind, path string) bool {
	if s.Linux == nil {
		return false
	}
	i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == taskdir.NamespaceType(kind) })
	if i < 0 {
		return false
	}
	s.Linux.Namespaces[i].Path = path
	if kind == taskdir.UserNS {
		s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil // they are the namespace's
	}
	return true
}
