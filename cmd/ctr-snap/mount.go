// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/mount"
)

func mountVerb(g *cli.Global) *cobra.Command {
	cmd := cli.New("mount [OPTION]... SNAPSHOT DIR", "mount a snapshot", cli.About{
		Long: "Mounts an active snapshot or a view at the directory DIR, which must exist and be no symbolic link. A snapshot " +
			"of a running container must not be mounted a second time: the kernel does not keep two overlays of one tree apart.",
		Stdin: "with the operand - for SNAPSHOT, the key of a snapshot: one line",
		Examples: []cli.Example{
			{Note: "mount what was prepared", Text: "ctr-snap mount work /mnt"},
			{Note: "prepare and mount", Text: "ctr-snap prepare work | ctr-snap mount - /mnt"},
		},
		Args: cli.Count(2, 2), Complete: cli.InTurn(cli.Snapshots(g), directories),
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-snap-unmount", "ctr-snap-mounts"},
	}, func(cmd *cobra.Command, args []string) error {
		name := args[0]
		if name == "-" {
			var err error
			if name, err = cli.ReadName(os.Stdin); err != nil {
				return err
			}
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		m, err := mountsOf(cmd.Context(), d, g.Namespace, name)
		if err != nil {
			return err
		}
		return mount.All(m, args[1])
	})
	return cmd
}

func unmountVerb(*cli.Global) *cobra.Command {
	var force, lazy bool
	cmd := cli.New("unmount [OPTION]... DIR...", "unmount snapshots", cli.About{
		Long:  "Unmounts what is mounted at each directory DIR. The snapshot stays.",
		Stdin: "with the operand -, directories, one a line",
		Examples: []cli.Example{
			{Note: "unmount", Text: "ctr-snap unmount /mnt"},
			{Note: "unmount although a program has a file open there", Text: "ctr-snap unmount --lazy /mnt"},
		},
		Args: cli.Count(1, -1), Complete: directories,
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome},
		SeeAlso: []string{"ctr-snap-mount"},
	}, func(_ *cobra.Command, args []string) error {
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		return cli.Each(cli.Operands(args, os.Stdin), func(dir string) error {
			mounted, err := mount.Mounted(dir)
			if err != nil {
				return err
			}
			if !mounted && !force {
				return fmt.Errorf("unmount %s: nothing is mounted there: %w", dir, errdefs.ErrNotFound)
			}
			return mount.Unmount(dir, flags)
		})
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a directory where nothing is mounted is no failure")
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "unmount at once, for others when they are done")
	return cmd
}
