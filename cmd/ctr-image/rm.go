// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

func rmVerb(g *cli.Global) *cobra.Command {
	var force bool
	cmd := cli.New("rm [OPTION]... IMAGE...", "remove images", cli.About{
		Long: "Removes the names, and then what nothing needs any more: blobs and layers that neither another name nor a " +
			"container refers to. An image that is given by its digest loses all its names. Containers go on with their layers.",
		Stdin: operands,
		Examples: []cli.Example{
			{Note: "remove one image", Text: "ctr-image rm redis:7"},
			{Note: "remove all images, whether there are any or not", Text: "ctr-image ls -q | ctr-image rm -f -"},
		},
		Args: cli.Count(1, -1), Complete: cli.Images(g), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-task-rm", "ctr-snap-rm"},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		removed, err := cli.Remove(cli.Operands(args, os.Stdin), force, func(name string) error {
			return d.Update(cmd.Context(), nil, func(tx *state.Tx) error { return remove(tx, g.Namespace, name) })
		})
		// Also after a run that was killed between the two there is something to collect.
		if !removed && !force {
			return err
		}
		_, collected := gc.Run(cmd.Context(), d, gc.Options{Damaged: cli.Warn})
		return cli.After(err, collected)
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "an image that is not here is no failure")
	return cmd
}

func remove(tx *state.Tx, ns, name string) error {
	all, err := image.FindAll(tx, ns, name)
	for _, img := range all {
		if err == nil {
			err = image.Remove(tx, ns, img.Name)
		}
	}
	return err
}
