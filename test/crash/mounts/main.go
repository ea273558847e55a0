// SPDX-License-Identifier: Apache-2.0

// Command mounts activates mounts, as a client of containerd's mount manager has them activated, or deactivates them: a file with
// a file system that is made, a loop device of it, and what is mounted from that. What is there, or gone, already is success.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

const (
	ns   = "default"
	name = "m"
)

func main() {
	d, err := state.Open(state.Config{Root: os.Getenv("CTRD_ROOT"), State: os.Getenv("CTRD_STATE"), Wait: time.Minute})
	switch {
	case err != nil:
	case len(os.Args) == 2 && os.Args[1] == "up":
		err = up(context.Background(), d)
	case len(os.Args) == 2 && os.Args[1] == "down":
		err = down(context.Background(), d)
	default:
		fmt.Fprintln(os.Stderr, "usage: mounts up | down")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mounts:", err)
		os.Exit(1)
	}
}

func image(d *state.Dir) string { return d.Run("image") }

func up(ctx context.Context, d *state.Dir) error {
	_, err := activation.Activate(ctx, d, ns, activation.Request{
		Name: name, Labels: map[string]string{"containerd.io/gc.root": "1"},
		Mounts: []mount.Mount{
			{Type: "mkfs/loop", Source: image(d), Options: []string{"X-containerd.mkfs.size=1MiB", "X-containerd.mkfs.fs=ext2"}},
			{Type: "format/ext2", Source: "{{ mount 0 }}"},
			{Type: "format/mkdir/bind", Source: "{{ mount 1 }}/data", Options: []string{"X-containerd.mkdir.path={{ mount 1 }}/data", "rbind"}},
		},
	})
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return err
}

func down(ctx context.Context, d *state.Dir) error {
	if err := activation.Deactivate(ctx, d, ns, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := os.Remove(image(d)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
