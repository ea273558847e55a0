// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/tail"
	"ctrd.dev/ctrd/lib/task"
)

// envLatest is the time, in seconds since 1970, that no time in a layer is later than.
const envLatest = "SOURCE_DATE_EPOCH"

func diffVerb(g *cli.Global) *cobra.Command {
	var changes, tar bool
	var compression string
	known := []string{diff.None.String(), diff.Gzip.String(), diff.Zstd.String()}
	table := cli.Table[diff.Change]{Columns: []cli.Column[diff.Change]{
		{Name: "path", Value: func(c diff.Change) string { return c.Path }, Help: "from the snapshot's root"},
		{Name: "kind", Value: func(c diff.Change) string { return string(c.Kind) }, Help: "add, modify or delete"},
	}}
	cmd := cli.New("diff [OPTION]... SNAPSHOT [OTHER]", "show what is different in a snapshot", cli.About{
		Long: "Shows what was added, modified and deleted in SNAPSHOT since it was put on top of its parent, or, with OTHER, " +
			"what makes OTHER of SNAPSHOT. A name is modified when its type, mode, owner, time, attributes or content differ. Of a " +
			"directory that is deleted, nothing below is shown.\n\n" +
			"With --tar the difference is written as the layer of an image instead, which is the same each time. Sockets are left out.\n\n" +
			"A snapshot that is being written has no one state: an active one must not be mounted and its container must not run, and of " +
			"two snapshots only OTHER may be active.",
		Stdout: "a change a line, or with --tar a layer",
		Examples: []cli.Example{
			{Note: "what has a container written", Text: "ctr-snap diff web"},
			{Note: "which files does a layer hide", Text: "ctr-snap diff --format '{{if eq .kind \"delete\"}}{{.path}}{{end}}' 3f1c2a9d0b77"},
			{Note: "take changes to another machine", Text: "ctr-snap diff --tar --compression zstd web >web.tar.zst"},
		},
		Args: cli.Count(1, 2), Complete: cli.InTurn(cli.Snapshots(g), cli.Snapshots(g)),
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		Env:     []cli.Note{{Name: envLatest, Text: "with --tar: seconds since 1970; each later time of change is written as this one"}},
		SeeAlso: []string{"ctr-snap-info", "ctr-snap-usage"},
	}, func(cmd *cobra.Command, args []string) error {
		if err := cli.OneOf("--compression", []string{compression}, known); err != nil {
			return err
		}
		if tar && changes {
			return cli.Usagef("both --changes and --tar given")
		}
		if !tar && cmd.Flags().Changed("compression") {
			return cli.Usagef("--compression is of --tar")
		}
		how, err := diff.Named(compression)
		if err != nil {
			return err
		}
		o := diff.Options{Compression: how}
		if o.Latest, err = latest(); err != nil {
			return err
		}
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		return trees(cmd.Context(), d, sn, g.Namespace, args, func(from, to diff.Tree) error {
			if tar {
				return writeLayer(cmd.Context(), from, to, o)
			}
			return printChanges(cmd.Context(), &table, from, to)
		})
	})
	cmd.Flags().BoolVar(&changes, "changes", false, "print the changes, which is the default")
	cmd.Flags().BoolVar(&tar, "tar", false, "write a layer")
	cmd.Flags().StringVar(&compression, "compression", diff.None.String(), "with --tar: compress it with `NAME`: gzip, zstd or none")
	cli.CompleteOption(cmd, "compression", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	table.Flags(cmd)
	return cmd
}

// latest reads SOURCE_DATE_EPOCH.
func latest() (time.Time, error) {
	v := os.Getenv(envLatest)
	if v == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return time.Time{}, cli.Usagef("%s=%q: want seconds since 1970", envLatest, v)
	}
	return time.Unix(n, 0), nil
}

func printChanges(ctx context.Context, table *cli.Table[diff.Change], from, to diff.Tree) error {
	p, err := table.Printer(os.Stdout)
	if err != nil {
		return err
	}
	for c, err := range diff.Changes(ctx, from, to) {
		if err == nil {
			err = p.Add(c)
		}
		if err != nil {
			return errors.Join(err, p.Flush())
		}
	}
	return p.Flush()
}

func writeLayer(ctx context.Context, from, to diff.Tree, o diff.Options) error {
	if cli.IsTerminal(os.Stdout) {
		return cli.Usagef("--tar: stdout is a terminal")
	}
	_, err := diff.Write(ctx, tail.Writer(ctx, os.Stdout), from, to, o)
	return err
}

// trees calls fn with the trees to compare: those of two snapshots, or of one and what it stands on.
func trees(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns string, args []string, fn func(from, to diff.Tree) error) error {
	s, err := find(ctx, d, sn, ns, args[0])
	if err != nil {
		return err
	}
	if len(args) == 1 {
		return task.ReadChange(ctx, d, sn, ns, s.Key, func(from, to []string) error { return fn(from, to) })
	}
	other, err := find(ctx, d, sn, ns, args[1])
	if err != nil {
		return err
	}
	if s.Kind == snapshot.Active {
		return fmt.Errorf("snapshot %q: it is active, and only the second may be: %w", s.Key, errdefs.ErrFailedPrecondition)
	}
	return task.ReadSnapshot(ctx, d, sn, ns, s.Key, func(from []string) error {
		return task.ReadSnapshot(ctx, d, sn, ns, other.Key, func(to []string) error { return fn(from, to) })
	})
}
