// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/commit"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/image"
)

func commitVerb(g *cli.Global) *cobra.Command {
	var o commit.Options
	var changes []string
	var pause bool
	var compression string
	known := []string{diff.None.String(), diff.Gzip.String(), diff.Zstd.String()}
	cmd := cli.New("commit [OPTION]... CONTAINER NAME", "make an image of a container", cli.About{
		Long: "Makes a layer of all that CONTAINER has changed, puts it on top of the layers of its image, and records the new image " +
			"under NAME, in one commit. A name that stands for something else is moved. Volumes and mounts are no part of it.\n\n" +
			"The configuration is that of the container's image, which must still be here; what ctr-task run was told is not in it. " +
			"--change takes one instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR. " +
			"ENTRYPOINT takes away the CMD of the image. Variables such as $PATH and ${A:-none} stand for their values in the image, " +
			"but in CMD and ENTRYPOINT.\n\n" +
			"A container that runs is paused while its files are read.",
		Stdin: "with the operand - for CONTAINER, the id of a container: one line", Stdout: "NAME@DIGEST of the image",
		Examples: []cli.Example{
			{Note: "keep what was done in a container", Text: "ctr-image commit web registry.example/web:patched"},
			{Note: "with another command", Text: "ctr-image commit --change 'CMD [\"serve\", \"-v\"]' --change 'ENV PATH=/srv/bin:$PATH' web web:2"},
			{Note: "and take it to another machine", Text: "ctr-image commit web web:2 | ctr-image export - | ssh host 'ctr-image import -'"},
		},
		Args: cli.Count(2, 2), Complete: cli.InTurn(cli.Containers(g), cli.Images(g)),
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		Env:     []cli.Note{{Name: envTime, Text: "seconds since 1970: when the image was made, and no file in the layer is later; with it the same container gives the same image"}},
		SeeAlso: []string{"ctr-snap-diff", "ctr-image-export", "ctr-task-run"},
	}, func(cmd *cobra.Command, args []string) error {
		if err := cli.OneOf("--compression", []string{compression}, known); err != nil {
			return err
		}
		for _, text := range changes {
			c, err := commit.ParseChange(text)
			if err != nil {
				return err
			}
			o.Changes = append(o.Changes, c)
		}
		var err error
		if o.Compression, err = diff.Named(compression); err != nil {
			return err
		}
		if o.Time, err = timeOfFiles(); err != nil {
			return err
		}
		name, err := cli.Name(args[0])
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		o.Namespace, o.NoPause = g.Namespace, !pause
		o.Warn = func(text string) { cli.Say("%s", text) }
		img, err := commit.Container(cmd.Context(), d, name, args[1], o)
		if err != nil {
			return err
		}
		_, err = fmt.Println(image.Pin(img.Name, img.Target.Digest))
		return err
	})
	f := cmd.Flags()
	f.StringArrayVarP(&changes, "change", "c", nil, "change the configuration by a Dockerfile's `INSTRUCTION`; may be repeated")
	f.StringVarP(&o.Message, "message", "m", "", "write `TEXT` into the history")
	f.StringVarP(&o.Author, "author", "a", "", "say that `NAME` made it")
	f.BoolVarP(&pause, "pause", "p", true, "pause a container that runs; --pause=false lets it write on")
	f.StringVar(&compression, "compression", diff.Gzip.String(), "compress the layer with `NAME`: gzip, zstd or none")
	cli.CompleteOption(cmd, "compression", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
