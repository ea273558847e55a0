// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

// twig is a part of an image in its place in the tree.
type twig struct {
	Image string `json:"image"`
	image.Part
	lines string // that join it to what names it
}

func treeVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[twig]{Columns: []cli.Column[twig]{
		{Name: "part", Value: func(t twig) string { return t.lines + t.Descriptor.Digest.String() }, Help: "its digest, joined by lines to what names it"},
		{Name: "role", Value: func(t twig) string { return string(t.Role) }, Help: "index, manifest, config, layer or other"},
		{Name: "platform", Value: func(t twig) string { return t.Platform }, Help: "of a manifest"},
		{Name: "size", Value: func(t twig) string { return bytes(t.Descriptor.Size) }, Help: "as its descriptor says", Right: true},
		{Name: "here", Value: func(t twig) string { return yes(t.Here, "here", "absent") }, Help: "here or absent"},
		{Name: "digest", Value: func(t twig) string { return t.Descriptor.Digest.String() }, Help: "without lines", Hidden: true},
		{Name: "type", Value: func(t twig) string { return t.Descriptor.MediaType }, Help: "its media type", Hidden: true},
		{Name: "image", Value: func(t twig) string { return t.Image }, Help: "name of the image", Hidden: true},
	}}
	cmd := cli.New("tree [OPTION]... IMAGE...", "show what images consist of", cli.About{
		Long: "Draws each image: its index, the manifests that it names, and the configuration and the layers of each, whether they are " +
			"here or not. What a document that is absent names is not known.",
		Stdin: operands, Stdout: "a part a line, what names it before it",
		Examples: []cli.Example{
			{Note: "draw an image", Text: "ctr-image tree redis:7"},
			{Note: "the digests of what is not here", Text: "ctr-image tree --format '{{if not .here}}{{.descriptor.digest}}{{end}}' redis:7"},
		},
		Args: cli.Count(1, -1), Complete: cli.Images(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-check", "ctr-image-inspect"},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		p, err := table.Printer(os.Stdout)
		if err != nil {
			return err
		}
		err = cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			img, parts, err := partsOf(cmd.Context(), d, g.Namespace, name)
			if err != nil {
				return err
			}
			for i, lines := range joints(parts) {
				if err := p.Add(twig{img.Name, parts[i], lines}); err != nil {
					return err
				}
			}
			return nil
		})
		if e := p.Flush(); err == nil {
			err = e
		}
		return err
	})
	table.Flags(cmd)
	return cmd
}

func partsOf(ctx context.Context, d *state.Dir, ns, name string) (img image.Image, parts []image.Part, err error) {
	err = d.View(ctx, func(tx *state.Tx) error {
		if img, err = image.Find(tx, ns, name); err != nil {
			return err
		}
		parts, err = image.Parts(tx, ns, img.Target)
		return err
	})
	return img, parts, err
}

// joints gives the lines that join each part to the one that names it.
func joints(parts []image.Part) []string {
	all := make([]string, len(parts))
	var more []bool // by depth: another part of that depth follows below the same one
	for i, p := range slices.Backward(parts) {
		for len(more) <= p.Depth {
			more = append(more, false)
		}
		more = more[:p.Depth+1]
		var b strings.Builder
		for depth := 1; depth <= p.Depth; depth++ {
			switch {
			case depth < p.Depth:
				b.WriteString(yes(more[depth], "│  ", "   "))
			default:
				b.WriteString(yes(more[depth], "├─ ", "└─ "))
			}
		}
		more[p.Depth] = true
		all[i] = b.String()
	}
	return all
}

func yes(b bool, then, otherwise string) string {
	if b {
		return then
	}
	return otherwise
}

func bytes(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
