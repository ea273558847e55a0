// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
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
			"container refers to. Containers go on with their layers.\n\n" +
			"An image that is given by its digest, or by four or more digits that it begins with, is removed when it has one name, with -f all its names. " +
			"Each name that goes and was not given in full is printed, one a line.",
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
			return remove(cmd, d, g.Namespace, name, force)
		})
		// Also after a run that was killed between the two there is something to collect.
		if !removed && !force {
			return err
		}
		_, collected := gc.Run(cmd.Context(), d, gc.Options{Damaged: cli.Warn})
		return cli.After(err, collected)
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "remove all names of a digest; an image that is not here is no failure")
	return cmd
}

// remove removes what a name or a digest stands for, and tells what that was.
func remove(cmd *cobra.Command, d *state.Dir, ns, query string, several bool) error {
	var gone []image.Image
	err := d.Update(cmd.Context(), nil, func(tx *state.Tx) (err error) {
		gone, err = image.FindAll(tx, ns, query, several)
		for _, img := range gone {
			if err == nil {
				err = image.Remove(tx, ns, img.Name)
			}
		}
		return err
	})
	if errdefs.IsFailedPrecondition(err) {
		err = cli.Hint(err, "ctr-image rm -f %s removes all of them", query)
	}
	for _, img := range gone {
		if err == nil && img.Name != query {
			_, err = fmt.Fprintln(os.Stdout, img.Name)
		}
	}
	return err
}
