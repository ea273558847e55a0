// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

// listed is an image as ls prints it.
type listed struct {
	image.Image
	Platforms []string `json:"platforms"` // of which the manifests are here
	Size      int64    `json:"size"`      // of all these platforms in the registry, bytes
}

func lsVerb(g *cli.Global) *cobra.Command {
	var filtered func() (filter.Filter, error)
	table := cli.Table[listed]{Columns: []cli.Column[listed]{
		{Name: "name", Value: func(i listed) string { return i.Name }},
		{Name: "digest", Value: func(i listed) string { return i.Target.Digest.Encoded()[:12] }, Help: "beginning of the target's digest"},
		{Name: "platforms", Value: func(i listed) string { return strings.Join(i.Platforms, ",") }, Help: "that are here"},
		{Name: "size", Value: func(i listed) string { return units.HumanSizeWithPrecision(float64(i.Size), 3) }, Help: "in the registry: compressed", Right: true},
		{Name: "updated", Value: func(i listed) string { return units.HumanDuration(time.Since(i.Updated)) + " ago" }, Help: "how long ago the name got this target"},
		{Name: "target", Value: func(i listed) string { return i.Target.Digest.String() }, Help: "the whole digest", Hidden: true},
		{Name: "type", Value: func(i listed) string { return i.Target.MediaType }, Help: "media type of the target", Hidden: true},
	}}
	cmd := cli.New("ls [OPTION]...", "list images", cli.About{
		Long:   "Lists the images of the namespace by name. No lock is taken.\n\n" + cli.FilterHelp(filter.ImageFields),
		Stdout: "an image a line",
		Examples: []cli.Example{
			{Note: "list all images", Text: "ctr-image ls"},
			{Note: "list images of one repository", Text: "ctr-image ls --filter 'name~=|/redis:|'"},
			{Note: "remove all images", Text: "ctr-image ls -q | ctr-image rm -"},
			{Note: "names with whole digests", Text: "ctr-image ls -o name,target"},
		},
		Exit: []int{cli.ExitCorrupt},
	}, func(cmd *cobra.Command, _ []string) error {
		f, err := filtered()
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		var all []listed
		err = d.View(cmd.Context(), func(tx *state.Tx) error {
			all, err = filter.Select(f, image.All(tx, g.Namespace), func(img image.Image) filter.Fields {
				return filter.Image(img.Name, img.Target, img.Labels)
			}, func(img image.Image) (listed, error) { return list(d, img), nil })
			return err
		})
		if err != nil && !errdefs.IsDataLoss(err) {
			return err
		}
		return errors.Join(table.PrintAll(all), err)
	})
	filtered = cli.FilterOption(cmd, "images", filter.ImageFields)
	table.Flags(cmd)
	return cmd
}

// list adds to a record what its manifests say. An image whose manifests are damaged is listed without.
func list(d *state.Dir, img image.Image) listed {
	l := listed{Image: img, Platforms: []string{}}
	found, err := image.Present(d, img.Target)
	if err != nil {
		cli.Warn(err)
	}
	for _, m := range found {
		l.Platforms = append(l.Platforms, m.Platform())
		l.Size += m.Size()
	}
	return l
}
