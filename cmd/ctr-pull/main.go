// SPDX-License-Identifier: Apache-2.0

// Command ctr-pull brings images from registries.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/cli/network"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/pull/remote"
	"ctrd.dev/ctrd/lib/registry"
)

// options are what the command line says beside the names.
type options struct {
	pull pull.Options
	// snapshotter names the one that takes the layers.
	snapshotter string
	network     network.Flags
	timeout     time.Duration
	quiet       bool
	progress    string
	explain     bool
	json        bool
}

func main() {
	var o options
	var g *cli.Global
	cmd, g := cli.Root("ctr-pull [OPTION]... IMAGE...", "bring images from registries", cli.About{
		Long: "Brings each image, unpacks it and records it under its name. A name without a registry is one of docker.io, a " +
			"name without a tag has the tag latest. What is here already is not fetched again, what an interrupted pull had " +
			"brought neither; two pulls of the same image share the work: one waits for the other as long as that gets on, or " +
			"as long as --wait says.\n\n" +
			"Plain HTTP is spoken to registries on this machine, and with --plain-http to others. Proxies are taken from " +
			"HTTPS_PROXY, HTTP_PROXY and NO_PROXY. Credentials come from the user's docker config.json and the credential " +
			"helpers it names, or from --authfile or --creds-stdin. The entry whose path is the most specific counts; one of " +
			"another path is never used. What --creds-stdin reads is for the registry that the name says, and for no mirror.\n\n" +
			"Mirrors, certificates and headers come from directories of hosts.toml files as containerd reads them, or from " +
			"docker's certs.d. A host that fails is not asked again, and the next one goes on where it stopped.\n\n" +
			"What is no image (a chart, a signature) is brought and kept, so that it can be pushed and exported. It cannot run.\n\n" +
			"Progress is drawn on stderr when that is a terminal.",
		Stdin: "with the operand -, names of images, one a line; with --creds-stdin, first a line USER:PASSWORD", Stdout: "NAME@DIGEST of each image, one a line; with --json, its record",
		Examples: []cli.Example{
			{Note: "pull an image and run it", Text: "ctr-pull redis:7 | ctr-task run -d --name r -"},
			{Note: "pull all that a file lists", Text: "ctr-pull - < images.txt"},
			{Note: "another platform, without unpacking it", Text: "ctr-pull --platform linux/arm64 --no-unpack alpine"},
			{Note: "copy an image with all its platforms", Text: "ctr-pull --all-platforms redis:7 | ctr-push - registry.example:5000/redis:7"},
			{Note: "keep an image only as far as it takes to run it", Text: "ctr-pull --discard-content redis:7"},
			{Note: "say who would be asked, with whose credentials", Text: "ctr-pull --explain redis:7"},
			{Note: "a registry with a certificate of its own", Text: "ctr-pull --ca-file ca.pem registry.example:5000/app"},
		},
		Env: slices.Concat(cli.UnpackNotes, network.Env), Files: network.Files,
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitRegistry, cli.ExitSome, cli.ExitCorrupt, cli.ExitTimeout},
		SeeAlso: []string{"ctr-image", "ctr-task-run"},
		Args:    cli.Count(1, -1),
		Complete: func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return cli.Images(g)(cmd, args, typed)
		},
	}, func(cmd *cobra.Command, args []string) error { return run(cmd, g, o, args) })
	o.add(cmd)
	cli.Main(cmd)
}

func (o *options) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.pull.Platforms, "platform", nil, "pull for `OS/ARCH[/VARIANT]`; may be given several times (default: this machine's)")
	f.BoolVar(&o.pull.AllPlatforms, "all-platforms", false, "pull all that an index has, and unpack what is for this machine")
	cli.SnapshotterFlag(cmd, f, &o.snapshotter)
	f.BoolVar(&o.pull.NoUnpack, "no-unpack", false, "bring the blobs and make no snapshots of them")
	f.BoolVar(&o.pull.Discard, "discard-content", false, "do not keep the blobs of layers that were unpacked: the image runs, and is not pushed from here")
	o.pull.Layers = 4
	f.VarP((*network.Count)(&o.pull.Layers), "jobs", "j", "work on `N` layers at once")
	f.BoolVar(&o.explain, "explain", false, "print the hosts that would be asked, in order, and how; bring nothing")
	f.BoolVar(&o.json, "json", false, "print one JSON value a line: the image's record, or with --explain a host")
	cli.TimeoutFlag(cmd, &o.timeout)
	cli.ProgressFlags(cmd, &o.quiet, &o.progress)
	o.network.Add(cmd)
	cmd.MarkFlagsMutuallyExclusive("platform", "all-platforms")
	cmd.MarkFlagsMutuallyExclusive("no-unpack", "discard-content")
	cli.CompleteOption(cmd, "platform", cobra.FixedCompletions(cli.Platforms, cobra.ShellCompDirectiveNoFileComp))
	cli.CompleteOption(cmd, "jobs", cobra.NoFileCompletions)
}

func run(cmd *cobra.Command, g *cli.Global, o options, args []string) error {
	if o.quiet {
		o.progress = "none"
	}
	show, err := cli.NewProgress(o.progress, "pulled")
	if err != nil {
		return err
	}
	if err := cli.CheckSnapshotter(o.snapshotter); err != nil {
		return err
	}
	if err := o.network.Read(cmd.Context(), os.Stdin, args...); err != nil {
		return err
	}
	var said network.Warnings
	o.pull.Warn = said.Add
	if o.explain {
		return explain(o, args)
	}
	o.network.Registry.Outages = &registry.Outages{}
	o.pull.Open = remote.Open(o.network.Registry, o.pull.Warn)
	o.pull.Namespace = g.Namespace
	o.pull.Patient = !cmd.Flags().Changed("wait")
	o.pull.Waits = &pull.Waits{}
	if show.Shows() {
		g.Waiting = o.pull.Waits.Tell
	}
	d, err := g.Open()
	if err != nil {
		return err
	}
	if o.pull.Snapshotter, err = namespace.Snapshotter(cmd.Context(), d, g.Namespace, o.snapshotter); err != nil {
		return err
	}
	o.pull.Progress = show.Event
	return cli.Each(cli.Operands(args, os.Stdin), func(operand string) error {
		name, err := image.Parse(operand)
		if err != nil {
			return err
		}
		if err := o.network.Check(name); err != nil {
			return err
		}
		show.Begin(name.String())
		var img image.Image
		err = cli.WithTimeout(cmd.Context(), o.timeout, func(ctx context.Context) (err error) {
			img, err = pull.Image(ctx, d, name, o.pull)
			return err
		})
		show.End(err)
		if err != nil {
			return withStatus(err)
		}
		if o.pull.Discard {
			if _, err := gc.Collect(cmd.Context(), d); err != nil {
				return fmt.Errorf("discard the blobs of %s: %w", img.Name, err)
			}
		}
		return o.print(img)
	})
}

// print says what was pulled.
func (o options) print(img image.Image) error {
	if o.json {
		return json.NewEncoder(os.Stdout).Encode(img)
	}
	_, err := fmt.Println(image.Pin(img.Name, img.Target.Digest))
	return err
}

// explain prints the hosts that would be asked for each image, in order.
func explain(o options, args []string) error {
	return cli.Each(cli.Operands(args, os.Stdin), func(operand string) error {
		name, err := image.Parse(operand)
		if err != nil {
			return err
		}
		plans, err := remote.Explain(name, o.network.Registry, o.pull.Warn)
		if err != nil {
			return err
		}
		return network.PrintPlans(plans, o.json)
	})
}

// withStatus makes wrong content the registry's failure.
func withStatus(err error) error {
	var bad *pull.ContentError
	if errors.As(err, &bad) {
		return cli.WithStatus(err, cli.ExitRegistry)
	}
	return err
}
