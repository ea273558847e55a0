// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/fsck"
)

func fsckVerb(g *cli.Global) *cobra.Command {
	var o fsck.Options
	table := cli.Table[fsck.Finding]{Columns: []cli.Column[fsck.Finding]{
		{Name: "severity", Value: func(f fsck.Finding) string { return string(f.Severity) }, Help: "broken, garbage that the next collection removes, or unprotected, which has lost fs-verity"},
		{Name: "kind", Value: func(f fsck.Finding) string { return f.Kind }},
		{Name: "namespace", Value: func(f fsck.Finding) string { return f.Namespace }},
		{Name: "name", Value: func(f fsck.Finding) string { return f.Name }},
		{Name: "text", Value: func(f fsck.Finding) string { return f.Text }, Help: "what is wrong"},
	}}
	cmd := cli.New("fsck [OPTION]...", "check that the state directory is whole", cli.About{
		Long: "Checks that every record has its files and everything it refers to, in every namespace, and lists the files " +
			"that no record names. It changes nothing and may be run while others work; what is being made or removed at that " +
			"moment can show as garbage.\n\n" +
			"A layer of erofs that has lost fs-verity, as in a copy of the root, is unprotected, which is no failure: its next use compares " +
			"its contents with the record, once, and gives it back where the file system can; --deep compares them now. One whose contents " +
			"are others, or of which a block cannot be read, is broken: its text says what to do.",
		Stdout: "a finding a line; nothing when all is well",
		Examples: []cli.Example{
			{Note: "check", Text: "ctrd fsck"},
			{Note: "read every blob as well, and every layer with fs-verity", Text: "ctrd fsck --deep"},
		},
		Exit: []int{cli.ExitNotFound, cli.ExitCorrupt},
	}, func(cmd *cobra.Command, _ []string) error {
		d, err := g.OpenThere()
		if err != nil {
			return err
		}
		found, err := fsck.Check(cmd.Context(), d, o)
		if err != nil {
			return err
		}
		if err := table.PrintAll(found); err != nil {
			return err
		}
		return fsck.Whole(found)
	})
	cmd.Flags().BoolVar(&o.Deep, "deep", false, "read every blob, and every layer that has fs-verity, and compare its digest")
	table.Flags(cmd)
	return cmd
}
