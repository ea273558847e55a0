// SPDX-License-Identifier: Apache-2.0

package namespace_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/state"
)

// A choice wins over the labels of the namespace, and these over what is built in.
func TestDefaults(t *testing.T) {
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for ns, labels := range map[string]map[string]string{
		"told":  {namespace.LabelSnapshotter: "native", namespace.LabelRuntime: "io.containerd.runc.v2"},
		"wrong": {namespace.LabelSnapshotter: "zfs", namespace.LabelRuntime: "no runtime"},
	} {
		err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
			_, err := namespace.Create(tx, ns, labels)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ ns, snapshotter, runtime, wantSnapshotter, wantRuntime string }{
		{"none", "", "", "overlayfs", container.DefaultRuntime},
		{"told", "", "", "native", "io.containerd.runc.v2"},
		{"told", "overlayfs", "crun", "overlayfs", "crun"},
		{"wrong", "native", "ctr", "native", "ctr"},
	} {
		sn, err := namespace.Snapshotter(t.Context(), d, c.ns, c.snapshotter)
		if err != nil || sn.Name() != c.wantSnapshotter {
			t.Errorf("%+v: %v, %v", c, sn, err)
		}
		if r, err := namespace.Runtime(t.Context(), d, c.ns, c.runtime); err != nil || r != c.wantRuntime {
			t.Errorf("%+v: %q, %v", c, r, err)
		}
	}
	_, err = namespace.Snapshotter(t.Context(), d, "wrong", "")
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), namespace.LabelSnapshotter) {
		t.Error(err)
	}
	if _, err = namespace.Runtime(t.Context(), d, "wrong", ""); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}
