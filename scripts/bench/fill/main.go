// SPDX-License-Identifier: Apache-2.0

// Fill makes copies of a container's records, so that the commands can be measured beside many: fill NAMESPACE
// CONTAINER COUNT. It works in CTRD_ROOT and CTRD_STATE. A copy has a record, a spec and a snapshot
// with an empty tree.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fill:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: fill NAMESPACE CONTAINER COUNT")
	}
	ns, from := args[0], args[1]
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	d, err := state.Open(state.Config{Root: cmp.Or(os.Getenv("CTRD_ROOT"), state.DefaultRoot), State: cmp.Or(os.Getenv("CTRD_STATE"), state.DefaultState)})
	if err != nil {
		return err
	}
	const step = 100 // records a commit: how full pages are depends on it
	for i := 0; i < count; i += step {
		err := d.Update(context.Background(), nil, func(tx *state.Tx) error {
			for n := i; n < min(i+step, count); n++ {
				if err := duplicate(tx, ns, from, fmt.Sprintf("%s-%05d", from, n)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// duplicate records a container like another one.
func duplicate(tx *state.Tx, ns, from, id string) error {
	c, err := container.Get(tx, ns, from)
	if err != nil {
		return err
	}
	spec, err := container.RawSpec(tx, ns, from)
	if err != nil {
		return err
	}
	sn, err := snapshot.Named(c.Snapshotter)
	if err != nil {
		return err
	}
	s, err := sn.Get(tx, ns, c.SnapshotKey)
	if err != nil {
		return err
	}
	parent, err := sn.Get(tx, ns, s.Parent)
	if err != nil {
		return err
	}
	dir := snapshot.NewID()
	if err := sn.Stage(context.Background(), tx.Dir(), dir, parent.ID); err != nil {
		return err
	}
	if _, err := sn.Prepare(tx, ns, id, s.Parent, dir, s.Labels); err != nil {
		return err
	}
	c.ID, c.UID, c.SnapshotKey = id, "", id
	_, err = container.CreateRaw(tx, ns, c, spec)
	return err
}
