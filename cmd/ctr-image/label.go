// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

func labelVerb(g *cli.Global) *cobra.Command {
	return cli.New("label [OPTION]... IMAGE KEY=VALUE|KEY-...", "set and remove labels of an image", cli.About{
		Long: "Sets the label KEY of the name IMAGE to VALUE, and with KEY- removes it, all in one commit. Labels belong to a name and not " +
			"to what it stands for; ls --filter finds them.",
		Examples: []cli.Example{
			{Note: "set a label and remove another", Text: "ctr-image label redis:7 tier=cache old-"},
			{Note: "find what has one", Text: "ctr-image ls --filter labels.tier==cache"},
		},
		Args: cli.Count(2, -1), Complete: cli.InTurn(cli.Images(g)),
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-ls", "ctr-image-inspect"},
	}, func(cmd *cobra.Command, args []string) error {
		labels := map[string]string{}
		for _, a := range args[1:] {
			key, value, sets := strings.Cut(a, "=")
			removed, removes := strings.CutSuffix(a, "-")
			switch {
			case sets && key != "":
				labels[key] = value
			case !sets && removes && removed != "":
				labels[removed] = ""
			default:
				return cli.Usagef("%q: want KEY=VALUE or KEY-", a)
			}
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		return d.Update(cmd.Context(), nil, func(tx *state.Tx) error {
			img, err := image.Find(tx, g.Namespace, args[0])
			if err == nil {
				_, err = image.Label(tx, g.Namespace, img.Name, labels)
			}
			return err
		})
	})
}
