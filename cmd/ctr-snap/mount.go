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
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/task"
)

func mountVerb(g *cli.Global) *cobra.Command {
	cmd := cli.New("mount [OPTION]... SNAPSHOT DIR", "mount a snapshot", cli.About{
		Long: "Mounts an active snapshot or a view at the directory DIR, which must exist and be no symbolic link. An active " +
			"snapshot is mounted once, and not beside the container that runs on it: the kernel does not keep two overlays of one tree apart.",
		Stdin: "with the operand - for SNAPSHOT, the key of a snapshot: one line",
		Examples: []cli.Example{
			{Note: "mount what was prepared", Text: "ctr-snap mount work /mnt"},
			{Note: "prepare and mount", Text: "ctr-snap prepare work | ctr-snap mount - /mnt"},
		},
		Args: cli.Count(2, 2), Complete: cli.InTurn(cli.Snapshots(g), directories),
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-snap-unmount", "ctr-snap-mounts"},
	}, func(cmd *cobra.Command, args []string) error {
		name, err := cli.Name(args[0])
		if err != nil {
			return err
		}
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		s, err := find(cmd.Context(), d, sn, g.Namespace, name)
		if err != nil {
			return err
		}
		return committed(task.MountSnapshot(cmd.Context(), d, sn, g.Namespace, s.Key, args[1]), s.Key)
	})
	return cmd
}

func unmountVerb(g *cli.Global) *cobra.Command {
	var force, lazy bool
	cmd := cli.New("unmount [OPTION]... DIR...", "unmount snapshots", cli.About{
		Long: "Unmounts the snapshot that is mounted at each directory DIR, of several the one mounted last. The snapshot stays. " +
			"What is not a snapshot of this state directory is left alone.",
		Stdin: "with the operand -, directories, one a line",
		Examples: []cli.Example{
			{Note: "unmount", Text: "ctr-snap unmount /mnt"},
			{Note: "unmount although a program has a file open there", Text: "ctr-snap unmount --lazy /mnt"},
		},
		Args: cli.Count(1, -1), Complete: directories,
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome},
		SeeAlso: []string{"ctr-snap-mount"},
	}, func(_ *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		return cli.Each(cli.Operands(args, os.Stdin), func(dir string) error {
			mounted, err := mount.Mounted(dir)
			if err != nil {
				return err
			}
			if !mounted {
				if force {
					return nil
				}
				return fmt.Errorf("unmount %s: nothing is mounted there: %w", dir, errdefs.ErrNotFound)
			}
			ours, err := snapshot.From(d, dir)
			if err != nil {
				return err
			}
			if !ours {
				return cli.Hint(fmt.Errorf("unmount %s: what is mounted there is no snapshot of %s: %w", dir, d.Path(), errdefs.ErrFailedPrecondition),
					"umount(8) unmounts anything")
			}
			_, err = mount.UnmountTop(dir, flags)
			return err
		})
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a directory where nothing is mounted is no failure")
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "unmount at once, for others when they are done")
	return cmd
}
