// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/gc"
)

func gcVerb(g *cli.Global) *cobra.Command {
	var o gc.Options
	table := cli.Table[gc.Item]{Columns: []cli.Column[gc.Item]{
		{Name: "name", Value: func(i gc.Item) string { return i.Name }, Help: "a digest, a key, the name of an image or a lease; of a file its path or its directory's name"},
		{Name: "kind", Value: func(i gc.Item) string { return i.Kind }, Help: "content, images, leases, snapshots/DRIVER: a record; blob, ingest, directory: files"},
		{Name: "namespace", Value: func(i gc.Item) string { return i.Namespace }, Help: "of a record"},
		{Name: "size", Value: func(i gc.Item) string { return strconv.FormatInt(i.Bytes, 10) }, Help: "bytes of files; of directories only with --dry-run", Right: true},
	}}
	cmd := cli.New("gc [OPTION]...", "remove what nothing needs any more", cli.About{
		Long: "Removes, in every namespace, the records and files that nothing refers to: blobs and snapshots that no image, container or lease " +
			"needs, images and leases that have expired, what pulls and writers have left unfinished for a day, what killed commands have left. " +
			"ctr-image rm ends with the same.\n\n" +
			"The labels of containerd say what is kept:\n\n" +
			"\tcontainerd.io/gc.root                     of blobs and snapshots: stays\n" +
			"\tcontainerd.io/gc.ref.content[.x]=DIGEST   keeps that blob\n" +
			"\tcontainerd.io/gc.ref.snapshot.DRIVER=KEY  keeps that snapshot\n" +
			"\tcontainerd.io/gc.ref.image[.x]=NAME       keeps that image\n" +
			"\tcontainerd.io/gc.bref.KIND[.x]=NAME       is kept by that container, content, image or snapshot.DRIVER\n" +
			"\tcontainerd.io/gc.expire=TIME              of images and leases: may go after that time\n" +
			"\tcontainerd.io/gc.flat                     of leases: keeps its resources without what they refer to\n\n" +
			"A record that cannot be decoded is told of, and all that it may refer to is kept.",
		Stdout: "what was removed, an item a line",
		Examples: []cli.Example{
			{Note: "see what would be removed", Text: "ctrd gc --dry-run"},
			{Note: "tidy up every night", Text: "ctrd gc >/dev/null"},
		},
		Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt}, SeeAlso: []string{"ctrd-du", "ctrd-lease", "ctr-image-rm"},
	}, func(cmd *cobra.Command, _ []string) error {
		d, err := g.OpenThere()
		if err != nil {
			return err
		}
		var items []gc.Item
		o.Each = func(i gc.Item) { items = append(items, i) }
		o.Damaged = cli.Warn
		r, err := gc.Run(cmd.Context(), d, o)
		if err := table.PrintAll(items); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		bytes := int64(0)
		for _, i := range items {
			bytes += i.Bytes
		}
		verb := "removed"
		if o.DryRun {
			verb = "would remove"
		}
		cli.Say("%s %d records and %d files, %s", verb, len(items)-r.Files, r.Files, units.BytesSize(float64(bytes)))
		return nil
	})
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "remove nothing, and say what would be removed")
	table.Flags(cmd)
	return cmd
}
