// SPDX-License-Identifier: Apache-2.0

package task

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
)

// TestSourceOfAClient: a source in the spec of a container that has no anonymous volumes is none of one.
func TestSourceOfAClient(t *testing.T) {
	d := openDir(t)
	s := &specs.Spec{Mounts: []specs.Mount{{Type: "bind", Source: "volumes/0", Destination: "/v"}}}
	if err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
		_, err := container.Create(tx, "default", container.Container{ID: "c"}, s)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	got, err := found(t, d, "c").Spec(t.Context())
	if err != nil || got.Mounts[0].Source != "volumes/0" {
		t.Errorf("%+v, %v", got, err)
	}
}
