// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"context"
	"fmt"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// Snapshotter gives the snapshotter called choice. Without a choice it is the one that the namespace's label
// LabelSnapshotter names, or overlayfs. One that is not there is errdefs.ErrInvalidArgument.
func Snapshotter(ctx context.Context, d *state.Dir, ns, choice string) (*snapshot.Snapshotter, error) {
	return chosen(ctx, d, ns, choice, LabelSnapshotter, snapshot.Named)
}

// Runtime gives the runtime called choice. Without a choice it is the one that the namespace's label LabelRuntime names,
// or container.DefaultRuntime. One that is no name of a runtime is errdefs.ErrInvalidArgument.
func Runtime(ctx context.Context, d *state.Dir, ns, choice string) (string, error) {
	return chosen(ctx, d, ns, choice, LabelRuntime, func(name string) (string, error) {
		if name == "" {
			return container.DefaultRuntime, nil
		}
		return name, container.CheckRuntime(name)
	})
}

// chosen gives what named makes of the choice, else of the namespace's label.
func chosen[T any](ctx context.Context, d *state.Dir, ns, choice, label string, named func(string) (T, error)) (T, error) {
	if choice != "" {
		return named(choice)
	}
	var n Namespace
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		n, err = Get(tx, ns)
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	v, err := named(n.Labels[label])
	if err != nil {
		err = fmt.Errorf("label %s of namespace %q: %w", label, ns, err)
	}
	return v, err
}
