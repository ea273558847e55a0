// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

func prepareVerb(g *cli.Global) *cobra.Command {
	return makeVerb(g, snapshot.Active, "make a snapshot to write into", cli.About{
		Long: "Makes an active snapshot named KEY on top of the committed snapshot PARENT; without PARENT or --image it is " +
			"empty. It stays until it is removed or committed.",
		Examples: []cli.Example{
			{Note: "change an image", Text: "ctr-snap prepare --image redis:7 --mount /mnt work\ncp redis.conf /mnt/etc/\nctr-snap unmount /mnt\nctr-snap commit redis-configured work"},
			{Note: "stand on a layer", Text: "ctr-snap prepare work 3f1c2a9d0b77"},
		},
		SeeAlso: []string{"ctr-snap-commit", "ctr-snap-mount", "ctr-snap-view"},
	})
}

func viewVerb(g *cli.Global) *cobra.Command {
	return makeVerb(g, snapshot.View, "make a snapshot to look into", cli.About{
		Long: "Makes a view named KEY of the committed snapshot PARENT: it can be mounted, and nothing can be written there. " +
			"As long as it is there nothing removes PARENT.",
		Examples: []cli.Example{
			{Note: "look into an image", Text: "ctr-snap view --image redis:7 --mount /mnt look\nls /mnt\nctr-snap unmount /mnt\nctr-snap rm look"},
		},
		SeeAlso: []string{"ctr-snap-mount", "ctr-snap-prepare"},
	})
}

// makeVerb is prepare or view.
func makeVerb(g *cli.Global, kind snapshot.Kind, short string, about cli.About) *cobra.Command {
	var img, platform, target string
	var labels []string
	name := map[snapshot.Kind]string{snapshot.Active: "prepare", snapshot.View: "view"}[kind]
	about.Args = cli.Count(1, 2)
	about.Complete = cli.InTurn(cobra.NoFileCompletions, cli.Snapshots(g))
	about.Stdin = "with the operand - for PARENT, the key of a snapshot: one line"
	about.Stdout = "the key"
	about.Exit = []int{cli.ExitNotFound, cli.ExitExists, cli.ExitBusy, cli.ExitCorrupt}
	cmd := cli.New(name+" [OPTION]... KEY [PARENT]", short, about, func(cmd *cobra.Command, args []string) error {
		s := snapshot.Info{Key: args[0], Kind: kind}
		err := checkNew(s.Key)
		if err != nil {
			return err
		}
		if s.Labels, err = parseLabels(labels); err != nil {
			return err
		}
		if img != "" && len(args) > 1 {
			return cli.Usagef("both PARENT and --image given")
		}
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		if s.Parent, err = parent(cmd.Context(), d, sn, g.Namespace, args[1:], img, platform); err != nil {
			return err
		}
		if err := create(cmd.Context(), d, sn, g.Namespace, s, target); err != nil {
			return err
		}
		_, err = fmt.Println(s.Key)
		return err
	})
	f := cmd.Flags()
	f.StringVar(&img, "image", "", "stand on the last layer of `IMAGE`, which was pulled")
	f.StringVar(&platform, "platform", "", "with --image: stand on that of `OS/ARCH[/VARIANT]` (default: this machine's)")
	f.StringVar(&target, "mount", "", "mount it at the directory `DIR` at once")
	labelFlag(cmd, &labels)
	cli.CompleteOption(cmd, "image", cli.Images(g))
	cli.CompleteOption(cmd, "platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64", "linux/arm/v7"}, cobra.ShellCompDirectiveNoFileComp))
	if err := cmd.MarkFlagDirname("mount"); err != nil {
		panic(err)
	}
	return cmd
}

// parent gives the key of the snapshot to stand on; empty: none.
func parent(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns string, args []string, img, platform string) (string, error) {
	if img != "" {
		return topLayer(ctx, d, ns, img, platform)
	}
	if len(args) == 0 {
		return "", nil
	}
	name, err := cli.Name(args[0])
	if err != nil {
		return "", err
	}
	s, err := find(ctx, d, sn, ns, name)
	return s.Key, err
}

// topLayer gives the chain id of an image's last layer; empty for an image without layers.
func topLayer(ctx context.Context, d *state.Dir, ns, name, platform string) (string, error) {
	want, err := image.ParsePlatform(platform)
	if err != nil {
		return "", err
	}
	var img image.Image
	err = d.View(ctx, func(tx *state.Tx) error {
		img, err = image.Find(tx, ns, name)
		return err
	})
	if errdefs.IsNotFound(err) {
		err = cli.Hint(err, "%s brings it", cli.Quote("ctr-pull", name))
	}
	if err != nil {
		return "", err
	}
	m, err := image.Resolve(d, img.Target, want)
	if err != nil {
		return "", fmt.Errorf("%s: %w", img.Name, err)
	}
	if len(m.ChainIDs) == 0 {
		return "", nil
	}
	return m.ChainIDs[len(m.ChainIDs)-1].String(), nil
}

// create makes the snapshot and mounts it, if target is given; a snapshot that cannot be mounted is not left.
func create(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns string, s snapshot.Info, target string) error {
	if target != "" {
		if _, err := os.Stat(target); err != nil {
			return fmt.Errorf("--mount: %w", err)
		}
	}
	if _, err := sn.Create(ctx, d, ns, s); err != nil {
		return err
	}
	if target == "" {
		return nil
	}
	if err := task.MountSnapshot(ctx, d, sn, ns, s.Key, target); err != nil {
		none := func(*state.Tx, snapshot.Info) error { return nil }
		err = errors.Join(err, sn.Delete(context.WithoutCancel(ctx), d, ns, s.Key, none))
		return err
	}
	return nil
}
