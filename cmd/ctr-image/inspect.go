// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

// inspection is what inspect prints of an image on a platform.
type inspection struct {
	image.Image
	Namespace  string             `json:"namespace"`
	Platform   string             `json:"platform"`
	Descriptor ocispec.Descriptor `json:"descriptor"` // of the manifest
	Manifest   ocispec.Manifest   `json:"manifest"`
	Config     json.RawMessage    `json:"config"`    // as it was pushed
	ChainIDs   []digest.Digest    `json:"chain_ids"` // keys of the layers' snapshots, the lowest first
	Size       int64              `json:"size"`
}

func inspectVerb(g *cli.Global) *cobra.Command {
	var platform string
	table := cli.Table[inspection]{Columns: []cli.Column[inspection]{
		{Name: "name", Value: func(i inspection) string { return i.Name }},
		{Name: "platform", Value: func(i inspection) string { return i.Platform }},
		{Name: "manifest", Value: func(i inspection) string { return i.Descriptor.Digest.String() }, Help: "digest of the platform's manifest"},
		{Name: "config", Value: func(i inspection) string { return string(i.Config) }, Hidden: true},
	}}
	cmd := cli.New("inspect [OPTION]... IMAGE...", "show all that is known of images", cli.About{
		Long: "Prints the record, the manifest and the configuration of each image as JSON: indented, or with --json one value " +
			"a line. Of an image for several platforms this machine's is shown, or that of --platform.",
		Stdin: operands, Stdout: "a JSON value for each image",
		Examples: []cli.Example{
			{Note: "show everything", Text: "ctr-image inspect redis:7"},
			{Note: "show what would be run", Text: "ctr-image inspect --format '{{.config.config.Entrypoint}} {{.config.config.Cmd}}' redis:7"},
		},
		Args: cli.Count(1, -1), Complete: cli.Images(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-ls"},
	}, func(cmd *cobra.Command, args []string) error {
		want, err := image.ParsePlatform(platform)
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		return table.Inspect(args, func(name string) (inspection, error) { return inspect(cmd.Context(), d, g.Namespace, name, want) })
	})
	onePlatform(cmd, &platform)
	table.Flags(cmd)
	return cmd
}

// onePlatform adds the option that chooses a platform of an image to look at.
func onePlatform(cmd *cobra.Command, platform *string) {
	cmd.Flags().StringVar(platform, "platform", "", "show the manifest for `OS/ARCH[/VARIANT]` (default: this machine's)")
	cli.CompleteOption(cmd, "platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64", "linux/arm/v7"}, cobra.ShellCompDirectiveNoFileComp))
}

func inspect(ctx context.Context, d *state.Dir, ns, name string, platform ocispec.Platform) (i inspection, err error) {
	img, m, err := resolve(ctx, d, ns, name, platform)
	if err != nil {
		return i, err
	}
	i.Image = img
	i.Namespace, i.Platform, i.Descriptor, i.Manifest = ns, m.Platform(), m.Descriptor, m.Manifest
	i.Config, i.ChainIDs, i.Size = m.RawConfig, m.ChainIDs, m.Size()
	return i, nil
}

// resolve finds an image and reads what it is on a platform.
func resolve(ctx context.Context, d *state.Dir, ns, name string, platform ocispec.Platform) (img image.Image, m image.Manifest, err error) {
	err = d.View(ctx, func(tx *state.Tx) error {
		img, err = image.Find(tx, ns, name)
		return err
	})
	if err != nil {
		return img, m, err
	}
	if m, err = image.Resolve(d, img.Target, platform); err != nil {
		return img, m, fmt.Errorf("%s: %w", img.Name, err)
	}
	return img, m, nil
}
