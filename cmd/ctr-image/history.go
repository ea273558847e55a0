// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
)

// stepOf is one step in which an image was made.
type stepOf struct {
	Image     string        `json:"image"`
	Created   *time.Time    `json:"created,omitempty"`
	CreatedBy string        `json:"created_by"`
	Author    string        `json:"author,omitempty"`
	Comment   string        `json:"comment,omitempty"`
	Layer     digest.Digest `json:"layer,omitempty"` // empty: the step made none
	Size      int64         `json:"size"`            // of the layer in the registry, bytes
}

func historyVerb(g *cli.Global) *cobra.Command {
	var platform string
	table := cli.Table[stepOf]{Columns: []cli.Column[stepOf]{
		{Name: "created", Value: func(s stepOf) string { return ago(s.Created) }, Help: "how long ago"},
		{Name: "by", Value: func(s stepOf) string { return s.CreatedBy }, Help: "what made it"},
		{Name: "size", Value: func(s stepOf) string { return bytes(s.Size) }, Help: "of its layer, compressed", Right: true},
		{Name: "comment", Value: func(s stepOf) string { return s.Comment }},
		{Name: "layer", Value: func(s stepOf) string { return s.Layer.String() }, Help: "digest of its layer", Hidden: true},
		{Name: "author", Value: func(s stepOf) string { return s.Author }, Hidden: true},
		{Name: "image", Value: func(s stepOf) string { return s.Image }, Help: "name of the image", Hidden: true},
	}}
	cmd := cli.New("history [OPTION]... IMAGE...", "show how images were made", cli.About{
		Long:  "Lists the steps in which each image was made, the last first, as its configuration tells them. Layers of which it tells nothing come at the end.",
		Stdin: operands, Stdout: "a step a line",
		Examples: []cli.Example{
			{Note: "see what made an image large", Text: "ctr-image history redis:7"},
			{Note: "the layers alone", Text: "ctr-image history -o layer redis:7"},
		},
		Args: cli.Count(1, -1), Complete: cli.Images(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-inspect", "ctr-image-tree"},
	}, func(cmd *cobra.Command, args []string) error {
		want, err := image.ParsePlatform(platform)
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		p, err := table.Printer(os.Stdout)
		if err != nil {
			return err
		}
		err = cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			img, m, err := resolve(cmd.Context(), d, g.Namespace, name, want)
			if err != nil {
				return err
			}
			for _, s := range steps(img.Name, m) {
				if err := p.Add(s); err != nil {
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
	onePlatform(cmd, &platform)
	table.Flags(cmd)
	return cmd
}

// steps puts history and layers together, the last step first. Where the two do not agree, every layer is told
// all the same.
func steps(name string, m image.Manifest) (all []stepOf) {
	layers := m.Manifest.Layers
	for _, h := range m.Config.History {
		s := stepOf{Image: name, Created: h.Created, CreatedBy: h.CreatedBy, Author: h.Author, Comment: h.Comment}
		if !h.EmptyLayer && len(layers) > 0 {
			s.Layer, s.Size = layers[0].Digest, layers[0].Size
			layers = layers[1:]
		}
		all = append([]stepOf{s}, all...)
	}
	for _, l := range layers {
		all = append(all, stepOf{Image: name, Layer: l.Digest, Size: l.Size})
	}
	return all
}

func ago(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return units.HumanDuration(time.Since(*t)) + " ago"
}
