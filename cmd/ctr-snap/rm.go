// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
)

func rmVerb(g *cli.Global) *cobra.Command {
	var force bool
	cmd := cli.New("rm [OPTION]... SNAPSHOT...", "remove snapshots", cli.About{
		Long: "Removes snapshots and what is in them. One that others stand on, that is mounted or that is the root of a " +
			"container stays. A layer of an image that is removed is brought back by the next pull.",
		Stdin: operands,
		Examples: []cli.Example{
			{Note: "remove one", Text: "ctr-snap rm work"},
			{Note: "remove all views", Text: "ctr-snap ls -q --kind view | ctr-snap rm -"},
		},
		Args: cli.Count(1, -1), Complete: cli.Snapshots(g), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-rm"},
	}, func(cmd *cobra.Command, args []string) error {
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		_, err = cli.Remove(cli.Operands(args, os.Stdin), force, func(name string) error {
			s, err := find(cmd.Context(), d, sn, g.Namespace, name)
			if err != nil {
				return err
			}
			return sn.Delete(cmd.Context(), d, g.Namespace, s.Key, usedBy(sn, g.Namespace))
		})
		return err
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a snapshot that is not here is no failure")
	return cmd
}
