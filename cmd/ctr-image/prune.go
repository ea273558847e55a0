// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/prune"
)

func pruneVerb(g *cli.Global) *cobra.Command {
	var o prune.Options
	var age string
	var filtered func() (filter.Filter, error)
	cmd := cli.New("prune [OPTION]...", "remove images that nothing uses", cli.About{
		Long: "Removes the images that no container was made of: those without a tag, which have only a digest, and with --all those with " +
			"a tag too. Then what nothing needs any more is deleted, and how much that was is said.\n\n" + cli.FilterHelp(filter.ImageFields),
		Stdout: "the name of each image that was removed, one a line",
		Examples: []cli.Example{
			{Note: "see what would go", Text: "ctr-image prune --all --dry-run"},
			{Note: "remove what has not been used for a week, but for what is labelled", Text: "ctr-image prune --all --until 168h --filter 'labels.keep!=yes'"},
		},
		Exit:    []int{cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-rm", "ctr-image-usage"},
	}, func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.Filter, err = filtered(); err != nil {
			return err
		}
		if age != "" {
			d, err := cli.ParseDuration(age)
			if err != nil || d < 0 {
				return cli.Usagef("--until %q: want a duration such as 24h", age)
			}
			o.Until = time.Now().Add(-d)
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		o.Namespace = g.Namespace
		r, err := prune.Images(cmd.Context(), d, o)
		for _, img := range r.Images {
			if _, err := fmt.Println(img.Name); err != nil {
				return err
			}
		}
		if err == nil && !o.DryRun {
			cli.Say("freed %s", bytes(r.Freed))
		}
		return err
	})
	filtered = cli.FilterOption(cmd, "images", filter.ImageFields)
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "remove images with a tag too")
	f.StringVar(&age, "until", "", "remove only what got its name longer than `DURATION` ago")
	f.BoolVar(&o.DryRun, "dry-run", false, "remove nothing, and print what would be")
	cli.CompleteOption(cmd, "until", cobra.NoFileCompletions)
	return cmd
}
