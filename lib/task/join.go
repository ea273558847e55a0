// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// references finds the containers whose namespaces are to be shared, which a person has named.
func references(ctx context.Context, d *state.Dir, ns string, names map[string]string) (map[string]container.Ref, error) {
	if len(names) == 0 {
		return nil, nil
	}
	refs := map[string]container.Ref{}
	for kind, name := range names {
		t, err := Find(ctx, d, ns, name)
		if err != nil {
			return nil, fmt.Errorf("--%s container:%s: %w", kind, name, err)
		}
		refs[kind] = container.Ref{ID: t.ID(), UID: t.Container.UID}
	}
	return refs, nil
}

// referred finds the container that is meant, also when it has another name by now.
func referred(ctx context.Context, d *state.Dir, ns string, ref container.Ref) (*Task, error) {
	t, err := Open(ctx, d, ns, ref.ID)
	if err == nil && t.Container.UID == ref.UID || err != nil && !errdefs.IsNotFound(err) {
		return t, err
	}
	id := ""
	err = d.View(ctx, func(tx *state.Tx) error {
		for c, err := range container.All(tx, ns) {
			if err != nil {
				return err
			}
			if ref.UID != "" && c.UID == ref.UID {
				id = c.ID
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, fmt.Errorf("container %q has been removed: %w", ref.ID, errdefs.ErrNotFound)
	}
	return Open(ctx, d, ns, id)
}

// joined is what a task shares the namespaces of.
type joined struct {
	kind string
	id   string
	init taskdir.Process
}

// join fills the namespaces of other containers into s. Those containers must have a task with an init
// process; else it is errdefs.ErrFailedPrecondition.
func (t *Task) join(ctx context.Context, s *specs.Spec) ([]joined, error) {
	var list []joined
	for kind, ref := range t.Container.Join {
		other, err := referred(ctx, t.d, t.Namespace, ref)
		var v taskdir.View
		if err == nil {
			v, err = other.view(ctx)
		}
		if err == nil && v.State != taskdir.Running && v.State != taskdir.Created {
			err = fmt.Errorf("container %q does not run: %w", ref.ID, errdefs.ErrFailedPrecondition)
		}
		if err == nil {
			err = spec.Join(s, kind, "/proc/"+strconv.Itoa(v.Init.PID)+"/ns/"+kind)
		}
		if err != nil {
			return nil, fmt.Errorf("share namespace %s: %w", kind, err)
		}
		list = append(list, joined{kind: kind, id: ref.ID, init: v.Init})
	}
	return list, nil
}

// checkJoined says whether what [Task.join] found was there until now: a pid that has been used again names the
// namespaces of a stranger.
func checkJoined(list []joined) error {
	for _, j := range list {
		if !j.init.Alive() {
			return fmt.Errorf("share namespace %s: container %q has ended: %w", j.kind, j.id, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}
