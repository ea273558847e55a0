// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnshared: what is mounted in between does not reach a peer, and what is mounted afterwards does, on kernels
// that let a mount become a peer again and on those that do not.
func TestUnshared(t *testing.T) {
	can := regroups
	defer func() { regroups = can }()
	tmpfs := []Mount{{Type: "tmpfs", Source: "tmpfs"}}
	for name, way := range map[string]func(int) bool{"as here": can, "before 5.15": func(int) bool { return false }} {
		t.Run(name, func(t *testing.T) {
			regroups = way
			d := tmp(t)
			a, b := mk(t, d+"/a"), mk(t, d+"/b")
			mountAll(t, a, Mount{Type: "tmpfs", Source: "tmpfs", Options: []string{"shared"}})
			rootfs, in, out := mk(t, a+"/task/rootfs"), mk(t, a+"/vol/in"), mk(t, a+"/vol/out")
			mountAll(t, b, Mount{Type: "bind", Source: a, Options: []string{"bind"}})
			volumes := []Volume{{Path: a + "/vol", Recursive: true}, {Path: a + "/vol"}, {Path: a}, {Path: d + "/none"}}
			if err := Unshared(rootfs, volumes, func() error { return All(tmpfs, rootfs) }); err != nil {
				t.Fatal(err)
			}
			is(t, rootfs, true)
			is(t, b+"/task/rootfs", false)
			mountAll(t, in, tmpfs[0])
			is(t, b+"/vol/in", true)
			mountAll(t, b+"/vol/out", tmpfs[0])
			is(t, out, true)
			for _, m := range []string{b + "/vol/out", in, rootfs} {
				if err := Unmount(m, 0); err != nil {
					t.Error(err)
				}
			}
			is(t, b+"/vol/in", false)
			is(t, out, false)
			for { // the volumes, where they are bound to themselves
				more, err := UnmountTop(a+"/vol", 0)
				if err != nil {
					t.Fatal(err)
				}
				if !more {
					break
				}
			}
		})
	}
}

// TestUnsharedFails: a failure leaves the sharing as it was, and a private mount is left alone.
func TestUnsharedFails(t *testing.T) {
	d := tmp(t)
	mountAll(t, d, Mount{Type: "tmpfs", Source: "tmpfs"})
	failure := errors.New("no")
	for _, want := range []bool{false, true} {
		if want {
			if err := unix.Mount("", d, "", unix.MS_SHARED, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := Unshared(d, nil, func() error { return failure }); !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
		if _, shared, err := peer(d); err != nil || shared != want {
			t.Errorf("shared: %v, %v", shared, err)
		}
	}
	if err := Unshared(d+"/none", nil, func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
