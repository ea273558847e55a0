// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

func usageVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[image.Usage]{Columns: []cli.Column[image.Usage]{
		{Name: "name", Value: func(u image.Usage) string { return u.Name }},
		{Name: "content", Value: func(u image.Usage) string { return bytes(u.Content) }, Help: "its blobs", Right: true},
		{Name: "snapshots", Value: func(u image.Usage) string { return bytes(u.Snapshots) }, Help: "its unpacked layers", Right: true},
		{Name: "total", Value: func(u image.Usage) string { return bytes(u.Total()) }, Right: true},
		{Name: "unique", Value: func(u image.Usage) string { return bytes(u.Unique) }, Help: "what no other image has", Right: true},
	}}
	cmd := cli.New("usage [OPTION]... [IMAGE...]", "show what images occupy on the disk", cli.About{
		Long: "Shows of each image, or of all, what its blobs and its unpacked layers occupy. What several images have counts for each; " +
			"unique is what no other has, which its removal frees unless a container stands on it. Names of one image are one image.",
		Stdin: operands, Stdout: "an image a line",
		Examples: []cli.Example{
			{Note: "show all", Text: "ctr-image usage"},
			{Note: "what is worth being removed, in bytes", Text: "ctr-image usage --format '{{.unique}} {{.name}}' | sort -n"},
		},
		Args: cli.Count(0, -1), Complete: cli.Images(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-snap-usage", "ctr-image-prune"},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		var all []image.Usage
		err = d.View(cmd.Context(), func(tx *state.Tx) error {
			all, err = image.Usages(tx, g.Namespace)
			return err
		})
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return table.PrintAll(all)
		}
		of := map[string]image.Usage{}
		for _, u := range all {
			of[u.Name] = u
		}
		p, err := table.Printer(os.Stdout)
		if err != nil {
			return err
		}
		err = cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			var img image.Image
			err := d.View(cmd.Context(), func(tx *state.Tx) error {
				img, err = image.Find(tx, g.Namespace, name)
				return err
			})
			if err != nil {
				return err
			}
			u, ok := of[img.Name]
			if !ok {
				return errdefs.ErrAborted // it came between two looks
			}
			return p.Add(u)
		})
		if e := p.Flush(); err == nil {
			err = e
		}
		return err
	})
	table.Flags(cmd)
	return cmd
}
