// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func mountsVerb(g *cli.Global) *cobra.Command {
	target := "/mnt"
	table := cli.Table[mount.Mount]{Columns: []cli.Column[mount.Mount]{
		{Name: "command", Value: func(m mount.Mount) string { return command(m, target) }, Help: "as mount(8) takes it, quoted for a shell"},
		{Name: "type", Value: func(m mount.Mount) string { return m.Type }, Help: "file system, or bind", Hidden: true},
		{Name: "source", Value: func(m mount.Mount) string { return m.Source }, Hidden: true},
		{Name: "options", Value: func(m mount.Mount) string { return strings.Join(m.Options, ",") }, Hidden: true},
	}}
	cmd := cli.New("mounts [OPTION]... SNAPSHOT [DIR]", "show how a snapshot is mounted", cli.About{
		Long: "Prints the mount(8) commands that would mount an active snapshot or a view at DIR (default: /mnt), and does not " +
			"mount it. With --json each mount has the fields of containerd's API: type, source, options.",
		Stdout: "a mount a line",
		Examples: []cli.Example{
			{Note: "mount by hand", Text: "ctr-snap mounts work /mnt | sh"},
			{Note: "see the layers", Text: "ctr-snap mounts --json work"},
		},
		Args: cli.Count(1, 2), Complete: cli.InTurn(cli.Snapshots(g), directories),
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-snap-mount", "mount(8)"},
	}, func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			target = args[1]
		}
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		m, err := mountsOf(cmd.Context(), d, sn, g.Namespace, args[0])
		if err != nil {
			return err
		}
		return table.PrintAll(m)
	})
	table.Flags(cmd)
	return cmd
}

// directories completes the names of directories.
func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func mountsOf(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns, name string) (m []mount.Mount, err error) {
	err = d.View(ctx, func(tx *state.Tx) error {
		s, err := sn.Find(tx, ns, name)
		if err != nil {
			return err
		}
		m, err = sn.Mounts(ctx, tx, d, ns, s.Key)
		return committed(err, s.Key)
	})
	return m, err
}

// committed adds what to do with a snapshot that cannot be mounted.
func committed(err error, key string) error {
	if errors.Is(err, snapshot.ErrCommitted) {
		err = cli.Hint(err, "ctr-snap view KEY %s makes a view of it", key)
	}
	return err
}

// command writes a mount as a shell takes it.
func command(m mount.Mount, target string) string {
	words := []string{"mount"}
	if m.Type != "bind" {
		words = append(words, "-t", m.Type)
	}
	words = append(words, "-o", strings.Join(m.Options, ","), m.Source, target)
	return cli.Quote(words...)
}
