// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/archive"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/tail"
)

// envTime is the time, in seconds since 1970, that files get which are made here
// (https://reproducible-builds.org/specs/source-date-epoch).
const envTime = "SOURCE_DATE_EPOCH"

// The formats of export.
const (
	formatOCI    = "oci-archive"
	formatDocker = "docker-archive"
	formatDir    = "oci-dir"
)

func exportVerb(g *cli.Global) *cobra.Command {
	var o archive.ExportOptions
	var only []string
	var output, format, how string
	var quiet bool
	formats := []string{formatOCI, formatDocker, formatDir}
	cmd := cli.New("export [OPTION]... IMAGE...", "write images to an archive", cli.About{
		Long: "Writes all images into one archive: an OCI image layout in a tar, which podman, skopeo, buildkit and containerd read, and, " +
			"by the manifest.json that is in it too, docker load. The same images give the same bytes. Every blob is checked.\n\n" +
			"All platforms that are here are written. With --platform those are that it names, and with --all-platforms it is an error " +
			"when one that an index names is not here. Indexes stay as they are, and so do digests.\n\n" +
			"The format docker-archive is that of docker save before version 25: one platform of each image, layers without compression. " +
			"The format oci-dir is a new directory.\n\n" +
			"The file or directory gets its name when all is in it. On stdout nothing is written to a terminal.",
		Stdin: operands, Stdout: "an archive, without --output",
		Examples: []cli.Example{
			{Note: "keep an image in a file", Text: "ctr-image export -o redis.tar redis:7"},
			{Note: "take an image to another machine", Text: "ctr-image export redis:7 | zstd | ssh host 'ctr-image import -'"},
			{Note: "all images in one archive", Text: "ctr-image ls -q | ctr-image export -o all.tar -"},
			{Note: "an OCI layout for umoci and others", Text: "ctr-image export --format oci-dir -o layout redis:7"},
		},
		Args: cli.Count(1, -1), Complete: cli.Images(g), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		Env:     []cli.Note{{Name: envTime, Text: "seconds since 1970: the time of the files in the archive (default: 0)"}},
		SeeAlso: []string{"ctr-image-import", "ctr-snap-diff"},
	}, func(cmd *cobra.Command, args []string) error {
		if err := cli.OneOf("--format", []string{format}, formats); err != nil {
			return err
		}
		if o.AllPlatforms && len(only) > 0 {
			return cli.Usagef("both --platform and --all-platforms given")
		}
		toStdout := output == "" || output == "-"
		switch {
		case format == formatDir && toStdout:
			return cli.Usagef("--format %s: --output must name the directory", formatDir)
		case toStdout && cli.IsTerminal(os.Stdout):
			return cli.Usagef("stdout is a terminal")
		}
		var err error
		if o.Platforms, err = parsePlatforms(only); err != nil {
			return err
		}
		if o.Time, err = timeOfFiles(); err != nil {
			return err
		}
		var names []string
		for name, err := range cli.Operands(args, os.Stdin) {
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		show, err := newProgress(quiet, how, "exported")
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		o.Namespace, o.Progress = g.Namespace, show.Event
		o.Warn = func(text string) { cli.Say("%s", text) }
		show.Begin(cmp.Or(output, "-"))
		err = export(cmd.Context(), d, output, format, names, o)
		show.End(err)
		return err
	})
	cmd.Aliases = []string{"save"}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "write to `FILE`, or the directory (default: stdout)")
	f.StringVar(&format, "format", formatOCI, "write in `FORMAT`: oci-archive, docker-archive or oci-dir")
	f.BoolVar(&o.NoManifest, "skip-manifest-json", false, "leave out what only docker load reads")
	platformFlags(cmd, &only, &o.AllPlatforms, "write")
	cli.ProgressFlags(cmd, &quiet, &how)
	cli.CompleteOption(cmd, "format", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	cmd.MarkFlagFilename("output")
	return cmd
}

func export(ctx context.Context, d *state.Dir, output, format string, names []string, o archive.ExportOptions) error {
	if format == formatDir {
		return archive.ExportDir(ctx, d, output, names, o)
	}
	write := func(w io.Writer) error {
		if format == formatDocker {
			return archive.ExportDocker(ctx, d, w, names, o)
		}
		return archive.Export(ctx, d, w, names, o)
	}
	if output == "" || output == "-" {
		return write(tail.Writer(ctx, os.Stdout))
	}
	return archive.ToFile(ctx, output, 0o666, write)
}

// timeOfFiles reads SOURCE_DATE_EPOCH; without it, it is the zero value.
func timeOfFiles() (time.Time, error) {
	v := os.Getenv(envTime)
	if v == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return time.Time{}, cli.Usagef("%s=%q: want seconds since 1970", envTime, v)
	}
	return time.Unix(n, 0), nil
}
