// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/task"
)

func mountVerb(g *cli.Global) *cobra.Command {
	var platform, driver string
	var write bool
	cmd := cli.New("mount [OPTION]... IMAGE DIR", "mount the files of an image", cli.About{
		Long: "Mounts the files of IMAGE at the directory DIR, which must exist: read-only, or with --write on top of a place for changes, " +
			"which are lost with ctr-image unmount. The image must be unpacked. Its layers are kept as long as it is mounted. " +
			"Of an image that is unpacked for several drivers, --snapshotter says which layers are mounted.",
		Stdin: "with the operand - for IMAGE, the name of an image: one line",
		Examples: []cli.Example{
			{Note: "look into an image", Text: "ctr-image mount redis:7 /mnt && ls /mnt"},
			{Note: "pull and mount", Text: "ctr-pull redis:7 | ctr-image mount - /mnt"},
		},
		Args: cli.Count(2, 2), Complete: cli.InTurn(cli.Images(g), directories),
		Exit: []int{cli.ExitNotFound, cli.ExitExists, cli.ExitBusy, cli.ExitCorrupt}, Env: []cli.Note{cli.SnapshotterNote},
		SeeAlso: []string{"ctr-image-unmount", "ctr-snap-mount"},
	}, func(cmd *cobra.Command, args []string) error {
		name, err := cli.Name(args[0])
		if err != nil {
			return err
		}
		if err := cli.CheckSnapshotter(driver); err != nil {
			return err
		}
		want, err := image.ParsePlatform(platform)
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		img, m, err := resolve(cmd.Context(), d, g.Namespace, name, want)
		if err != nil {
			return err
		}
		return task.MountImage(cmd.Context(), d, g.Namespace, img.Name, m, args[1], driver, write)
	})
	cmd.Flags().BoolVarP(&write, "write", "w", false, "let changes be made, which are lost with the mount")
	cli.SnapshotterFlag(cmd, cmd.Flags(), &driver)
	cmd.Flags().Lookup("snapshotter").DefValue = "the first that has them"
	onePlatform(cmd, &platform)
	return cmd
}

func unmountVerb(g *cli.Global) *cobra.Command {
	var force, lazy bool
	cmd := cli.New("unmount [OPTION]... DIR...", "unmount images", cli.About{
		Long: "Unmounts the image at each directory DIR and lets its layers go. What ctr-image mount has not mounted is left alone. After a " +
			"reboot there is no mount, and only the layers are let go.",
		Stdin: "with the operand -, directories, one a line",
		Examples: []cli.Example{
			{Note: "unmount", Text: "ctr-image unmount /mnt"},
			{Note: "unmount although a program has a file open there", Text: "ctr-image unmount --lazy /mnt"},
		},
		Args: cli.Count(1, -1), Complete: directories,
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-mount"},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		_, err = cli.Remove(cli.Operands(args, os.Stdin), force, func(dir string) error {
			return task.UnmountImage(cmd.Context(), d, g.Namespace, dir, flags)
		})
		return err
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a directory where no image is mounted is no failure")
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "unmount at once, for others when they are done")
	return cmd
}

func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}
