// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

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
		p, err := table.Printer(os.Stdout)
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		err = cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			i, err := inspect(cmd.Context(), d, g.Namespace, name)
			if err != nil {
				return err
			}
			if chosen(cmd) {
				return p.Add(i)
			}
			data, err := json.MarshalIndent(i, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Printf("%s\n", data)
			return err
		})
		if e := p.Flush(); err == nil {
			err = e
		}
		return err
	})
	table.Flags(cmd)
	return cmd
}

// chosen tells whether an option asks for another form than indented JSON.
func chosen(cmd *cobra.Command) bool {
	for _, name := range []string{"columns", "quiet", "json", "format"} {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

func inspect(ctx context.Context, d *state.Dir, ns, name string) (i inspection, err error) {
	i = inspection{Namespace: ns, Chain: []string{}, Children: []string{}, Containers: []string{}, Mounted: []string{}}
	err = d.View(ctx, func(tx *state.Tx) error {
		if i.Info, err = snapshot.Find(tx, ns, name); err != nil {
			return err
		}
		if i.Transient, err = snapshot.Transient(tx, ns, i.Key); err != nil {
			return err
		}
		chain, err := snapshot.Chain(tx, ns, i.Key)
		if err != nil {
			return err
		}
		for _, s := range chain {
			i.Chain = append(i.Chain, s.Key)
		}
		for s, err := range snapshot.All(tx, ns) {
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
			if c.SnapshotKey == i.Key {
				i.Containers = append(i.Containers, c.ID)
			}
		}
		return nil
	})
	if err != nil {
		return i, err
	}
	i.Path = snapshot.FS(d, i.ID)
	at, err := mount.At(i.Path)
	i.Mounted = append(i.Mounted, at...)
	return i, err
}
