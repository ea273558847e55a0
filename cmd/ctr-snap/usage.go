// SPDX-License-Identifier: Apache-2.0

package main

import (
	"iter"
	"os"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/snapshot"
)

// used is what a snapshot occupies.
type used struct {
	Key    string `json:"key"`
	Size   int64  `json:"size"`
	Inodes int64  `json:"inodes"`
}

func usageVerb(g *cli.Global) *cobra.Command {
	var measure bool
	table := cli.Table[used]{Columns: []cli.Column[used]{
		{Name: "key", Value: func(u used) string { return u.Key }},
		{Name: "size", Value: func(u used) string { return units.HumanSizeWithPrecision(float64(u.Size), 3) }, Help: "blocks on the disk", Right: true},
		{Name: "inodes", Value: func(u used) string { return strconv.FormatInt(u.Inodes, 10) }, Help: "files and directories", Right: true},
		{Name: "bytes", Value: func(u used) string { return strconv.FormatInt(u.Size, 10) }, Help: "the size in bytes", Right: true, Hidden: true},
	}}
	cmd := cli.New("usage [OPTION]... [SNAPSHOT...]", "show how much of the disk snapshots occupy", cli.About{
		Long: "Shows what each snapshot (without operands: every one) occupies by itself, without what it stands on. A file " +
			"with several names is counted once. Of committed snapshots this was recorded; others are measured now.",
		Stdin: operands, Stdout: "a snapshot a line",
		Examples: []cli.Example{
			{Note: "what a container has written", Text: "ctr-snap usage web"},
			{Note: "the largest ones", Text: "ctr-snap usage -o bytes,key | sort -rn | head"},
		},
		Args: cli.Count(0, -1), Complete: cli.Snapshots(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-snap-ls", "ctrd-du"},
	}, func(cmd *cobra.Command, args []string) error {
		p, err := table.Printer(os.Stdout)
		if err != nil {
			return err
		}
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		names := cli.Operands(args, os.Stdin)
		if len(args) == 0 {
			if names, err = everyKey(cmd, g); err != nil {
				return err
			}
		}
		err = cli.Each(names, func(name string) error {
			s, err := find(cmd.Context(), d, sn, g.Namespace, name)
			if err != nil {
				return err
			}
			u := used{s.Key, s.Size, s.Inodes}
			if measure || s.Kind != snapshot.Committed || s.Inodes == 0 {
				if u.Size, u.Inodes, err = sn.Usage(cmd.Context(), d, s.ID); err != nil {
					return err
				}
			}
			return p.Add(u)
		})
		if e := p.Flush(); err == nil {
			err = e
		}
		return err
	})
	cmd.Flags().BoolVar(&measure, "measure", false, "measure committed snapshots, too")
	table.Flags(cmd)
	return cmd
}

func everyKey(cmd *cobra.Command, g *cli.Global) (iter.Seq2[string, error], error) {
	all, lost, err := list(cmd, g)
	return func(yield func(string, error) bool) {
		for _, s := range all {
			if !yield(s.Key, nil) {
				return
			}
		}
		if lost != nil {
			yield("", lost)
		}
	}, err
}
