// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/archive"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/tail"
)

func importVerb(g *cli.Global) *cobra.Command {
	var o archive.ImportOptions
	var only []string
	var quiet bool
	var how, snapshotter string
	cmd := cli.New("import [OPTION]... FILE|DIR|-...", "bring in images from archives", cli.About{
		Long: "Brings in the images of each archive, unpacks them and records them under their names, those of one archive in one " +
			"commit. An archive is an OCI image layout or a docker-archive, as skopeo, podman, docker, umoci, buildkit and " +
			"containerd write them: a tar, which may be compressed with gzip, zstd or bzip2, or a directory. The operand - reads a " +
			"tar from stdin. What is in the archive decides, not its name.\n\n" +
			"Names come from the archive. An image that has only a tag there is called REPOSITORY:TAG, one without a name " +
			"REPOSITORY@DIGEST, where REPOSITORY is that of --base-name.\n\n" +
			"Of an image for several platforms this machine's is taken; others may be missing. An image that has not this " +
			"machine's is taken as it is, and not unpacked.\n\n" +
			"An archive that is damaged or says what cannot be leaves nothing behind.",
		Stdin: "with the operand -, an archive", Stdout: "NAME@DIGEST of each image, one a line",
		Examples: []cli.Example{
			{Note: "bring in an archive and run it", Text: "ctr-image import - <redis.tar | ctr-task run -"},
			{Note: "from one runtime into the other", Text: "docker save redis:7 | ctr-image import -"},
			{Note: "give the image of an OCI layout a name", Text: "ctr-image import --name app:1 ./layout"},
			{Note: "all platforms, without unpacking them", Text: "ctr-image import --all-platforms --no-unpack images.tar.zst"},
		},
		Args: cli.Count(1, -1), Complete: archives,
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome, cli.ExitCorrupt},
		Env:     cli.UnpackNotes,
		SeeAlso: []string{"ctr-image-export", "ctr-pull", "ctr-task-run"},
	}, func(cmd *cobra.Command, args []string) error {
		var err error
		if o.Platforms, err = parsePlatforms(only); err != nil {
			return err
		}
		if o.AllPlatforms && len(only) > 0 {
			return cli.Usagef("both --platform and --all-platforms given")
		}
		if o.Name != "" && len(args) > 1 {
			return cli.Usagef("--name is for one archive, and %d were given", len(args))
		}
		for _, name := range []string{o.Name, o.BaseName, o.IndexName} {
			if name == "" {
				continue
			}
			if _, err := image.Parse(name); err != nil {
				return err
			}
		}
		if err := cli.CheckSnapshotter(snapshotter); err != nil {
			return err
		}
		show, err := newProgress(quiet, how, "imported")
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		if o.Snapshotter, err = namespace.Snapshotter(cmd.Context(), d, g.Namespace, snapshotter); err != nil {
			return err
		}
		o.Namespace, o.Progress = g.Namespace, show.Event
		o.Warn = func(text string) { cli.Say("%s", text) }
		return cli.Each(each(args), func(name string) error {
			show.Begin(name)
			all, err := importOne(cmd.Context(), d, name, o)
			show.End(err)
			if err != nil {
				return archiveStatus(fmt.Errorf("import %s: %w", name, err))
			}
			for _, img := range all {
				if _, err := fmt.Println(image.Pin(img.Name, img.Target.Digest)); err != nil {
					return err
				}
			}
			return nil
		})
	})
	cmd.Aliases = []string{"load"}
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "", "call the one image of the archive `REFERENCE`")
	f.StringVar(&o.BaseName, "base-name", "", "use `REPOSITORY` for images of which the archive has only a tag or nothing (default: "+archive.DefaultBase+")")
	f.StringVar(&o.IndexName, "index-name", "", "record all images of an OCI layout as one, `REFERENCE`, as well")
	f.BoolVar(&o.Digests, "digests", false, "record each image by its digest as well")
	f.BoolVar(&o.NoUnpack, "no-unpack", false, "make no snapshots")
	platformFlags(cmd, &only, &o.AllPlatforms, "take")
	cli.SnapshotterFlag(cmd, f, &snapshotter)
	cli.ProgressFlags(cmd, &quiet, &how)
	return cmd
}

// newProgress makes the display that -q and --progress ask for.
func newProgress(quiet bool, how, word string) (*cli.Progress, error) {
	if quiet {
		how = "none"
	}
	return cli.NewProgress(how, word)
}

// platformFlags adds the options that choose platforms; what says what is done with them.
func platformFlags(cmd *cobra.Command, only *[]string, all *bool, what string) {
	cmd.Flags().StringSliceVar(only, "platform", nil, what+" `OS/ARCH[/VARIANT]`, which must be there; may be repeated")
	cmd.Flags().BoolVar(all, "all-platforms", false, what+" all platforms")
	cli.CompleteOption(cmd, "platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64", "linux/arm/v7"}, cobra.ShellCompDirectiveNoFileComp))
}

func parsePlatforms(names []string) (all []ocispec.Platform, err error) {
	for _, name := range names {
		p, err := image.ParsePlatform(name)
		if err != nil {
			return nil, err
		}
		all = append(all, platforms.Normalize(p))
	}
	return all, nil
}

func archives(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// each yields operands of which "-" is not a list of names.
func each(args []string) func(func(string, error) bool) {
	return func(yield func(string, error) bool) {
		for _, a := range args {
			if !yield(a, nil) {
				return
			}
		}
	}
}

func importOne(ctx context.Context, d *state.Dir, name string, o archive.ImportOptions) (all []image.Image, err error) {
	f := os.Stdin
	if name == "-" {
		if cli.IsTerminal(f) {
			return nil, cli.Usagef("stdin is a terminal")
		}
		return archive.Import(ctx, d, tail.Reader(ctx, f), o)
	}
	if f, err = tail.Open(ctx, name); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return archive.ImportDir(ctx, d, name, o)
	}
	return archive.Import(ctx, d, tail.Reader(ctx, f), o)
}

// archiveStatus makes an archive that is wrong no wrong usage and no damage of the state directory.
func archiveStatus(err error) error {
	var format *archive.FormatError
	var bad *pull.ContentError
	if errors.As(err, &format) || errors.As(err, &bad) {
		return cli.WithStatus(err, cli.ExitOther)
	}
	return err
}
