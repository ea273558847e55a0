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
)

// criuNote says which criu is used.
var criuNote = cli.Note{Name: "CTRD_CRIU", Text: "the path of criu, as it was when the container was started; else it is looked for on PATH"}

func checkpointVerb(g *cli.Global) *cobra.Command {
	var o checkpoint.ImageOptions
	var name, dir string
	var leave, preDump bool
	cmd := cli.New("checkpoint [OPTION]... CONTAINER", "write down what the processes of a container are", cli.About{
		Long: "Has criu write what the processes of a running container are, into the directory --dir or into an image, which ctr-push takes to a " +
			"registry. The container ends with that, unless --leave-running is given; ctr-task restore has it go on from there. An image has the container's options, too, and " +
			"what it has changed of its files, and the files in its volumes without a source (-v DIR and those of its image), but of a container with a user namespace no files, which a warning says. A directory has no files: they stay with the container, and ctr-image commit makes an image of them.\n\n" +
			"Where the container has ended and its checkpoint cannot be stored, for want of room, nothing is lost: the same command again goes on with it. A container of --rm, which goes when it ends, " +
			"has to run on. No exec may run in the container.\n\n" +
			"--pre-dump writes the memory alone, while the container runs on; a later checkpoint with --parent adds to that. Both are for directories, and need a kernel with CONFIG_MEM_SOFT_DIRTY.",
		Stdout: "with --image NAME@DIGEST, else nothing",
		Examples: []cli.Example{
			{Note: "stop it for a while", Text: "ctr-task checkpoint --dir /var/tmp/web web; ctr-task restore --dir /var/tmp/web web"},
			{Note: "take it to another machine", Text: "ctr-task checkpoint --image registry.example/web:now web; ctr-push registry.example/web:now"},
		},
		Args: cli.Count(1, 1), Complete: cli.InTurn(cli.Containers(g)),
		Exit: []int{cli.ExitNotFound, cli.ExitExists, cli.ExitBusy}, Env: []cli.Note{criuNote}, SeeAlso: []string{"ctr-task-restore", "ctr-image-commit", "ctr-push"},
	}, func(cmd *cobra.Command, args []string) error {
		if (name == "") == (dir == "") {
			return cli.Usagef("give one of --image and --dir")
		}
		if dir == "" && (preDump || o.ParentPath != "") {
			return cli.Usagef("--pre-dump and --parent need --dir")
		}
		if name == "" && o.IgnoreVolumes {
			return cli.Usagef("--ignore-volumes needs --image: a directory has no files of volumes")
		}
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		return errors.Join(writeCheckpoint(cmd, g, t, name, dir, o, leave, preDump), t.Close())
	})
	f := cmd.Flags()
	f.StringVar(&name, "image", "", "record it as the image `NAME`")
	f.StringVar(&dir, "dir", "", "write it into the directory `DIR`, which is made, or has no checkpoint yet")
	f.BoolVarP(&leave, "leave-running", "R", false, "let the container run on")
	f.BoolVar(&o.OpenTCP, "tcp-established", false, "with TCP connections that are open")
	f.BoolVar(&o.FileLocks, "file-locks", false, "with locks of files")
	f.BoolVar(&o.ExternalUnixSockets, "ext-unix-sk", false, "with unix sockets whose other end is outside")
	f.BoolVar(&o.Terminal, "shell-job", false, "with a terminal that is not the container's own")
	f.BoolVar(&o.IgnoreVolumes, "ignore-volumes", false, "leave the files in volumes out of the image")
	f.BoolVar(&preDump, "pre-dump", false, "write the memory alone, and let the container run on")
	f.StringVar(&o.ParentPath, "parent", "", "add to the pre-dump in the directory `DIR`")
	return cmd
}

func writeCheckpoint(cmd *cobra.Command, g *cli.Global, t *task.Task, name, dir string, o checkpoint.ImageOptions, leave, preDump bool) error {
	o.Exit = !leave && !preDump
	if name != "" {
		d, err := g.Open()
		if err != nil {
			return err
		}
		lacks, err := checkpoint.Lacks(cmd.Context(), t, o)
		if err != nil {
			return err
		}
		for _, what := range lacks {
			cli.Warn(fmt.Errorf("not in the checkpoint of container %q: %s", t.ID(), what))
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
	return checkpoint.Dir(cmd.Context(), t, o.CheckpointOptions, preDump)
}

func restoreVerb(g *cli.Global) *cobra.Command {
	var image, dir string
	var o task.CreateOptions
	var pull pullFlags
	cmd := cli.New("restore [OPTION]... [CONTAINER]", "have a container go on from a checkpoint", cli.About{
		Long: "Starts a container that does not run, in the background: its processes are those of a checkpoint. The files must be as they were, " +
			"so it is the container that the checkpoint was made of, or one of the same options and of an image of its files, made by ctr-image commit.\n\n" +
			"With --name a container is made from an image of a checkpoint, with its options and files, on the image that the first one stood on, which ctr-pull brings " +
			"if it is not here. Volumes without a source are as they were, or as the container's image has them where the checkpoint has none; a source on the host must be there. The image may be one of containerd's (ctr tasks checkpoint, ctr containers checkpoint). " +
			"A container of a pod, or with a user namespace or namespaces of another one, cannot be made.\n\n" +
			"A checkpoint of another architecture, or of a newer criu than the one here, is refused. Who restores a checkpoint runs what is in it, with " +
			"the mounts and privileges that it says: take none from strangers.",
		Stdout: "with --name the name, else nothing",
		Examples: []cli.Example{
			{Note: "go on", Text: "ctr-task restore --dir /var/tmp/web web"},
			{Note: "on another machine", Text: "ctr-pull registry.example/web:now; ctr-task restore --image registry.example/web:now --name web"},
		},
		Args: cli.Count(0, 1), Complete: cli.InTurn(cli.Containers(g)),
		Exit: []int{cli.ExitNotFound, cli.ExitExists, cli.ExitBusy, cli.ExitCorrupt}, Env: []cli.Note{criuNote, cli.SnapshotterNote}, SeeAlso: []string{"ctr-task-checkpoint", "ctr-task-start", "ctr-pull"},
	}, func(cmd *cobra.Command, args []string) error {
		switch {
		case (image == "") == (dir == ""):
			return cli.Usagef("give one of --image and --dir")
		case (o.ID == "") == (len(args) == 0):
			return cli.Usagef("give one of CONTAINER and --name")
		case o.ID != "" && dir != "":
			return cli.Usagef("--name needs --image: a directory has no options of a container")
		case o.ID != "":
			return restoreNew(cmd, g, pull, image, o)
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
		return errors.Join(checkpoint.Restore(cmd.Context(), d, t, image, dir), t.Close())
	})
	cmd.Flags().StringVar(&image, "image", "", "the checkpoint is the image `NAME`")
	cmd.Flags().StringVar(&dir, "dir", "", "the checkpoint is in the directory `DIR`")
	cmd.Flags().StringVar(&o.ID, "name", "", "make a container of this `NAME`")
	cli.SnapshotterFlag(cmd, cmd.Flags(), &o.Snapshotter)
	pull.add(cmd)
	cli.CompleteOption(cmd, "image", cli.Images(g))
	cli.CompleteOption(cmd, "name", cobra.NoFileCompletions)
	return cmd
}

// restoreNew makes a container from an image of a checkpoint.
func restoreNew(cmd *cobra.Command, g *cli.Global, pull pullFlags, image string, o task.CreateOptions) error {
	d, err := g.Open()
	if err != nil {
		return err
	}
	// What is brought is not the checkpoint but what its container stood on.
	if o.Image, err = checkpoint.BaseImage(cmd.Context(), d, g.Namespace, image); err != nil {
		return err
	}
	t, err := withImage(cmd, g, pull, o, func() (*task.Task, error) {
		return checkpoint.RestoreNew(cmd.Context(), d, g.Namespace, image, o)
	})
	if err != nil {
		return pullStatus(err)
	}
	_, err = fmt.Println(t.ID())
	return errors.Join(err, t.Close())
}
