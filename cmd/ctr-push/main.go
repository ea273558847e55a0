// SPDX-License-Identifier: Apache-2.0

// Command ctr-push brings an image to a registry.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/cli/network"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/push"
)

// options are what the command line says beside the names.
type options struct {
	push     push.Options
	network  network.Flags
	timeout  time.Duration
	quiet    bool
	progress string
	explain  bool
	json     bool
}

func main() {
	var o options
	var g *cli.Global
	cmd, g := cli.Root("ctr-push [OPTION]... IMAGE [TO]", "bring an image to a registry", cli.About{
		Long: "Sends the image to the registry of TO and gives it that name there; without TO the name that the image has here. A name " +
			"without a registry is one of docker.io, a name without a tag has the tag latest, and a name with a digest gives no tag. " +
			"What the registry has is not sent again; what another of its repositories has is taken from there. A transfer that " +
			"breaks goes on where it stopped, and one of a ctr-push that was killed in the next ctr-push, if the registry has kept it. The name is given last, so it never stands for something incomplete.\n\n" +
			"Of an index all manifests are pushed that are here. When the others are at the registry, the index is pushed as it is; " +
			"otherwise an index of those that are here takes its place, or the manifest alone when there is one. Anything that has a " +
			"manifest can be pushed: charts, signatures and other artifacts, too. Layers that may not be passed on, and say where " +
			"they are to be had, stay there.\n\n" +
			"Registries are reached as ctr-pull(1) reaches them, with credentials from the same places. Mirrors are not pushed to: " +
			"the first host whose capabilities have push is.",
		Stdin:  "with the operand -, names of images, one a line, or one name when there is a TO; with --creds-stdin, first a line USER:PASSWORD",
		Stdout: "NAME@DIGEST of each image at the registry, one a line; with --json, a value that also says what was sent",
		Examples: []cli.Example{
			{Note: "push an image under the name that it has", Text: "ctr-push registry.example:5000/app:1"},
			{Note: "copy an image to another registry", Text: "ctr-pull --all-platforms redis:7 | ctr-push - registry.example:5000/redis:7"},
			{Note: "two platforms of those that are here", Text: "ctr-push --platform linux/amd64 --platform linux/arm64 app:1 registry.example/app:1"},
			{Note: "say which host would be written to, with whose credentials", Text: "ctr-push --explain registry.example/app:1"},
		},
		Env: network.Env, Files: network.Files,
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitRegistry, cli.ExitSome, cli.ExitCorrupt, cli.ExitTimeout},
		SeeAlso: []string{"ctr-pull", "ctr-image"},
		Args:    cli.Count(1, 2),
		Complete: func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return cli.Images(g)(cmd, args, typed)
		},
	}, func(cmd *cobra.Command, args []string) error { return run(cmd, g, o, args) })
	o.add(cmd)
	cli.Main(cmd)
}

func (o *options) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.push.Platforms, "platform", nil, "push what an index has for `OS/ARCH[/VARIANT]`; may be given several times (default: all that are here)")
	f.BoolVar(&o.push.AllPlatforms, "all-platforms", false, "push the whole index, or fail when a part of it is missing")
	f.BoolVar(&o.push.Nondistributable, "allow-nondistributable-artifacts", false, "send also layers that may not be passed on")
	o.push.Blobs = 4
	f.VarP((*network.Count)(&o.push.Blobs), "jobs", "j", "send `N` blobs at once")
	cli.TimeoutFlag(cmd, &o.timeout)
	f.BoolVar(&o.explain, "explain", false, "print the host that would be written to, and how; send nothing")
	f.BoolVar(&o.json, "json", false, "print one JSON value a line")
	cli.ProgressFlags(cmd, &o.quiet, &o.progress)
	o.network.Add(cmd)
	cmd.MarkFlagsMutuallyExclusive("platform", "all-platforms")
	cli.CompleteOption(cmd, "platform", cobra.FixedCompletions(cli.Platforms, cobra.ShellCompDirectiveNoFileComp))
	cli.CompleteOption(cmd, "jobs", cobra.NoFileCompletions)
}

func run(cmd *cobra.Command, g *cli.Global, o options, args []string) error {
	if o.quiet {
		o.progress = "none"
	}
	show, err := cli.NewProgress(o.progress, "pushed")
	if err != nil {
		return err
	}
	var to image.Reference // zero: each image's own name
	if len(args) > 1 {
		if to, err = image.Parse(args[1]); err != nil {
			return err
		}
	}
	if err := o.network.Read(cmd.Context(), os.Stdin, args[1:]...); err != nil {
		return err
	}
	var said network.Warnings
	o.push.Warn = said.Add
	o.push.Registry = o.network.Registry
	o.push.Namespace = g.Namespace
	o.push.Progress = show.Event
	o.push.Check = o.network.Check
	names := args[:1]
	if len(args) > 1 && args[0] == "-" {
		one, err := cli.Name(args[0])
		if err != nil {
			return err
		}
		names = []string{one}
	}
	if o.explain {
		return cli.Each(cli.Operands(names, os.Stdin), func(name string) error {
			dest := to
			if len(args) == 1 {
				var err error
				if dest, err = image.Parse(name); err != nil {
					return err
				}
			}
			plans, err := push.Explain(dest, o.push)
			if err != nil {
				return err
			}
			return network.PrintPlans(plans, o.json)
		})
	}
	d, err := g.Open()
	if err != nil {
		return err
	}
	return cli.Each(cli.Operands(names, os.Stdin), func(name string) error {
		show.Begin(name)
		var res push.Result
		err := cli.WithTimeout(cmd.Context(), o.timeout, func(ctx context.Context) (err error) {
			res, err = push.Image(ctx, d, name, to, o.push)
			return err
		})
		show.End(err)
		if err != nil {
			return err
		}
		return o.print(res)
	})
}

// print says what was pushed.
func (o options) print(res push.Result) error {
	if o.json {
		return json.NewEncoder(os.Stdout).Encode(res)
	}
	_, err := fmt.Println(image.Pin(res.Name, res.Target.Digest))
	return err
}
