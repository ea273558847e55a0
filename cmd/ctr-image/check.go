// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

// checked is an image on a platform.
type checked struct {
	Name string `json:"name"`
	image.Check
}

func checkVerb(g *cli.Global) *cobra.Command {
	var deep bool
	table := cli.Table[checked]{Columns: []cli.Column[checked]{
		{Name: "name", Value: func(c checked) string { return c.Name }},
		{Name: "platform", Value: func(c checked) string { return c.Platform }},
		{Name: "status", Value: func(c checked) string { return yes(c.Complete, "complete", "incomplete") }, Help: "complete or incomplete"},
		{Name: "unpacked", Value: func(c checked) string { return yes(c.Unpacked, "unpacked", "-") }, Help: "unpacked, or not"},
		{Name: "present", Value: func(c checked) string { return bytes(c.Present) + "/" + bytes(c.Size) }, Help: "how much of it is here", Right: true},
		{Name: "manifest", Value: func(c checked) string { return c.Manifest.Digest.String() }, Help: "its digest", Hidden: true},
	}}
	cmd := cli.New("check [OPTION]... [IMAGE...]", "tell whether images are whole", cli.About{
		Long: "Tells of each image, or of all, and of each platform whose manifest is here, whether configuration and layers are, and " +
			"whether they are unpacked. One whose unpacked layers are gone or are not those that were recorded is incomplete. Platforms that were " +
			"not pulled do not count. With --deep every blob is read and its digest compared.",
		Stdin: operands, Stdout: "an image and platform a line",
		Examples: []cli.Example{
			{Note: "check all images", Text: "ctr-image check"},
			{Note: "pull again what is not whole", Text: "ctr-image check --format '{{if not .complete}}{{.name}}{{end}}' | sort -u | ctr-pull -"},
		},
		Args: cli.Count(0, -1), Complete: cli.Images(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		Status:  []cli.ExitStatus{{Code: "1", Meaning: "an image is incomplete"}},
		SeeAlso: []string{"ctr-image-tree", "ctrd-fsck"},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		names := cli.Operands(args, os.Stdin)
		if len(args) == 0 {
			all, err := allImages(cmd.Context(), d, g.Namespace)
			if err != nil {
				return err
			}
			names = each(all)
		}
		p, err := table.Printer(os.Stdout)
		if err != nil {
			return err
		}
		whole := true
		err = cli.Each(names, func(name string) error {
			ok, err := check(cmd.Context(), d, g.Namespace, name, deep, p.Add)
			whole = whole && ok
			return err
		})
		if e := p.Flush(); err == nil {
			err = e
		}
		if err == nil && !whole {
			return cli.Exit(cli.ExitOther)
		}
		return err
	})
	cmd.Flags().BoolVar(&deep, "deep", false, "read every blob")
	table.Flags(cmd)
	return cmd
}

func allImages(ctx context.Context, d *state.Dir, ns string) (names []string, err error) {
	err = d.View(ctx, func(tx *state.Tx) error {
		names = nil
		for img, err := range image.All(tx, ns) {
			if err != nil {
				return err
			}
			names = append(names, img.Name)
		}
		return nil
	})
	return names, err
}

// check tells whether all that is here of an image is complete, and at least something is.
func check(ctx context.Context, d *state.Dir, ns, name string, deep bool, add func(checked) error) (whole bool, err error) {
	var img image.Image
	var all []image.Check
	var parts []image.Part
	err = d.View(ctx, func(tx *state.Tx) error {
		if img, err = image.Find(tx, ns, name); err != nil {
			return err
		}
		if all, err = image.Checks(tx, ns, img.Target); err == nil && deep {
			parts, err = image.Parts(tx, ns, img.Target)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	whole = len(all) > 0
	if !whole {
		cli.Say("%s: no manifest of it is here", img.Name)
	}
	for _, c := range all {
		whole = whole && c.Complete
		if err := add(checked{img.Name, c}); err != nil {
			return whole, err
		}
	}
	for _, p := range parts {
		if p.Here {
			if err := content.Verify(ctx, d, p.Descriptor.Digest); err != nil {
				return false, fmt.Errorf("%s: %w", img.Name, err)
			}
		}
	}
	return whole, nil
}
