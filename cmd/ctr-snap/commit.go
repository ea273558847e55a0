// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/snapshot"
)

func commitVerb(g *cli.Global) *cobra.Command {
	var below string
	var labels []string
	var force bool
	cmd := cli.New("commit [OPTION]... NAME SNAPSHOT", "finish a snapshot, so that others can stand on it", cli.About{
		Long: "Turns the active SNAPSHOT into the committed snapshot NAME; its key is free afterwards. What is in it is on the " +
			"disk before it is recorded. One that was prepared without a parent can be put on top of one now.\n\n" +
			"The new snapshot has the label " + label.Root + ", so it stays until it is removed, also when nothing uses it.",
		Examples: []cli.Example{
			{Note: "finish work", Text: "ctr-snap commit done work"},
			{Note: "put a layer that was made by itself on top of another", Text: "ctr-snap commit --parent base done work"},
		},
		Args: cli.Count(2, 2), Complete: cli.InTurn(cobra.NoFileCompletions, cli.Snapshots(g)),
		Exit:    []int{cli.ExitNotFound, cli.ExitExists, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-snap-prepare"},
	}, func(cmd *cobra.Command, args []string) error {
		o := snapshot.CommitOptions{}
		err := checkNew(args[0])
		if err != nil {
			return err
		}
		if o.Labels, err = parseLabels(labels); err != nil {
			return err
		}
		label.Keep(o.Labels)
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		if below != "" {
			s, err := find(cmd.Context(), d, sn, g.Namespace, below)
			if err != nil {
				return err
			}
			o.Parent = s.Key
		}
		s, err := find(cmd.Context(), d, sn, g.Namespace, args[1])
		if err != nil {
			return err
		}
		o.Mounted = force
		_, err = sn.Seal(cmd.Context(), d, g.Namespace, args[0], s.Key, o, usedBy(sn, g.Namespace))
		var mounted *snapshot.MountedError
		if errors.As(err, &mounted) {
			return fmt.Errorf("%w (--force commits it all the same)", err)
		}
		return err
	})
	cmd.Flags().StringVar(&below, "parent", "", "put it on top of the committed `SNAPSHOT`")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "commit it although it is mounted")
	labelFlag(cmd, &labels)
	cli.CompleteOption(cmd, "parent", cli.Snapshots(g))
	return cmd
}
