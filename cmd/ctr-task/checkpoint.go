// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/checkpoint"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
)

// criuNote says which criu is used.
var criuNote = cli.Note{Name: "CTRD_CRIU", Text: "the path of criu, as it was when the container was started; else it is looked for on PATH"}

func checkpointVerb(g *cli.Global) *cobra.Command {
	var o taskapi.CheckpointOptions
	var name, dir string
	var leave, preDump bool
	cmd := cli.New("checkpoint [OPTION]... CONTAINER", "write down what the processes of a container are", cli.About{
		Long: "Has criu write what the processes of a running container are, into the directory --dir or into an image, which ctr-push takes to a " +
			"registry. The container ends with that, unless --leave-running is given; ctr-task restore has it go on from there. What the container has changed of " +
			"its files is not in it: it stays with the container, and ctr-image commit makes an image of it.\n\n" +
			"--pre-dump writes the memory alone, while the container runs on; a later checkpoint with --parent adds to that. Both are for directories.",
		Stdout: "with --image NAME@DIGEST, else nothing",
		Examples: []cli.Example{
			{Note: "stop it for a while", Text: "ctr-task checkpoint --dir /var/tmp/web web; ctr-task restore --dir /var/tmp/web web"},
			{Note: "take it to another machine", Text: "ctr-task checkpoint --image registry.example/web:now web; ctr-push registry.example/web:now"},
		},
		Args: cli.Count(1, 1), Complete: cli.InTurn(cli.Containers(g)),
		Exit: []int{cli.ExitNotFound, cli.ExitBusy}, Env: []cli.Note{criuNote}, SeeAlso: []string{"ctr-task-restore", "ctr-image-commit", "ctr-push"},
	}, func(cmd *cobra.Command, args []string) error {
		if (name == "") == (dir == "") {
			return cli.Usagef("give one of --image and --dir")
		}
		if dir == "" && (preDump || o.ParentPath != "") {
			return cli.Usagef("--pre-dump and --parent need --dir")
		}
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		return errors.Join(writeCheckpoint(cmd, g, t, name, dir, o, leave, preDump), t.Close())
	})
	f := cmd.Flags()
	f.StringVar(&name, "image", "", "record it as the image `NAME`")
	f.StringVar(&dir, "dir", "", "write it into the directory `DIR`, which is made")
	f.BoolVarP(&leave, "leave-running", "R", false, "let the container run on")
	f.BoolVar(&o.OpenTCP, "tcp-established", false, "with TCP connections that are open")
	f.BoolVar(&o.FileLocks, "file-locks", false, "with locks of files")
	f.BoolVar(&o.ExternalUnixSockets, "ext-unix-sk", false, "with unix sockets whose other end is outside")
	f.BoolVar(&o.Terminal, "shell-job", false, "with a terminal that is not the container's own")
	f.BoolVar(&preDump, "pre-dump", false, "write the memory alone, and let the container run on")
	f.StringVar(&o.ParentPath, "parent", "", "add to the pre-dump in the directory `DIR`")
	return cmd
}

func writeCheckpoint(cmd *cobra.Command, g *cli.Global, t *task.Task, name, dir string, o taskapi.CheckpointOptions, leave, preDump bool) error {
	o.Exit = !leave && !preDump
	if name != "" {
		d, err := g.Open()
		if err != nil {
			return err
		}
		img, err := checkpoint.Image(cmd.Context(), d, t, name, o)
		if err == nil {
			_, err = fmt.Println(image.Pin(img.Name, img.Target.Digest))
		}
		return err
	}
	var err error
	if o.ImagePath, err = filepath.Abs(dir); err != nil {
		return err
	}
	if o.ParentPath != "" {
		parent, err := filepath.Abs(o.ParentPath)
		if err == nil {
			o.ParentPath, err = filepath.Rel(o.ImagePath, parent)
		}
		if err != nil {
			return err
		}
	}
	if preDump {
		return t.PreDump(cmd.Context(), o)
	}
	return t.Checkpoint(cmd.Context(), o)
}

func restoreVerb(g *cli.Global) *cobra.Command {
	var name, dir string
	cmd := cli.New("restore [OPTION]... CONTAINER", "have a container go on from a checkpoint", cli.About{
		Long: "Starts a container that does not run, in the background: its processes are those of a checkpoint. The files must be as they were, " +
			"so it is the container that the checkpoint was made of, or one of the same options and of an image of its files, made by ctr-image commit. " +
			"A checkpoint of another architecture, or of a newer criu than the one here, is refused. Who restores a checkpoint runs what is in it: take none from strangers.",
		Examples: []cli.Example{
			{Note: "go on", Text: "ctr-task restore --dir /var/tmp/web web"},
			{Note: "on another machine", Text: "ctr-pull registry.example/web:now; ctr-task create --name web registry.example/web:files; ctr-task restore --image registry.example/web:now web"},
		},
		Args: cli.Count(1, 1), Complete: cli.InTurn(cli.Containers(g)),
		Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt}, Env: []cli.Note{criuNote}, SeeAlso: []string{"ctr-task-checkpoint", "ctr-task-start"},
	}, func(cmd *cobra.Command, args []string) error {
		if (name == "") == (dir == "") {
			return cli.Usagef("give one of --image and --dir")
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		if dir != "" {
			if dir, err = filepath.Abs(dir); err != nil {
				return err
			}
		}
		return errors.Join(checkpoint.Restore(cmd.Context(), d, t, name, dir), t.Close())
	})
	cmd.Flags().StringVar(&name, "image", "", "the checkpoint is the image `NAME`")
	cmd.Flags().StringVar(&dir, "dir", "", "the checkpoint is in the directory `DIR`")
	cli.CompleteOption(cmd, "image", cli.Images(g))
	return cmd
}
