// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// inspection is what info prints of a snapshot.
type inspection struct {
	snapshot.Info
	Namespace  string   `json:"namespace"`
	Transient  bool     `json:"transient"`  // ends with this boot
	Path       string   `json:"path"`       // its own tree, without its parents
	Chain      []string `json:"chain"`      // keys: itself and what it stands on, the top first
	Children   []string `json:"children"`   // keys of what stands on it
	Containers []string `json:"containers"` // whose root it is
	Mounted    []string `json:"mounted"`    // where, as far as this mount namespace knows
}

func infoVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[inspection]{Columns: []cli.Column[inspection]{
		{Name: "key", Value: func(i inspection) string { return i.Key }},
		{Name: "kind", Value: func(i inspection) string { return string(i.Kind) }},
		{Name: "path", Value: func(i inspection) string { return i.Path }, Help: "directory of its own tree"},
	}}
	cmd := cli.New("info [OPTION]... SNAPSHOT...", "show all that is known of snapshots", cli.About{
		Long:  "Prints the record of each snapshot, what it stands on and what uses it as JSON: indented, or with --json one value a line.",
		Stdin: operands, Stdout: "a JSON value for each snapshot",
		Examples: []cli.Example{
			{Note: "show everything", Text: "ctr-snap info work"},
			{Note: "see what was written", Text: "ls -R \"$(ctr-snap info --format '{{.path}}' work)\""},
		},
		Args: cli.Count(1, -1), Complete: cli.Snapshots(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-snap-ls", "ctr-snap-usage"},
	}, func(cmd *cobra.Command, args []string) error {
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		return table.Inspect(args, func(name string) (inspection, error) { return inspect(cmd.Context(), d, sn, g.Namespace, name) })
	})
	table.Flags(cmd)
	return cmd
}

func inspect(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns, name string) (i inspection, err error) {
	err = d.View(ctx, func(tx *state.Tx) error {
		i = inspection{Namespace: ns, Chain: []string{}, Children: []string{}, Containers: []string{}, Mounted: []string{}}
		if i.Info, err = sn.Find(tx, ns, name); err != nil {
			return err
		}
		if i.Transient, err = sn.Transient(tx, ns, i.Key); err != nil {
			return err
		}
		chain, err := sn.Chain(tx, ns, i.Key)
		if err != nil {
			return err
		}
		for _, s := range chain {
			i.Chain = append(i.Chain, s.Key)
		}
		for s, err := range sn.All(tx, ns) {
			if err != nil {
				return err
			}
			if s.Parent == i.Key {
				i.Children = append(i.Children, s.Key)
			}
		}
		for c, err := range container.All(tx, ns) {
			if err != nil {
				return err
			}
			if c.SnapshotKey == i.Key && sn.Has(c.Snapshotter) {
				i.Containers = append(i.Containers, c.ID)
			}
		}
		return nil
	})
	if err != nil {
		return i, err
	}
	i.Path = sn.FS(d, i.ID)
	at, err := mount.At(i.Path)
	i.Mounted = append(i.Mounted, at...)
	return i, err
}
