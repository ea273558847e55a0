// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/lock"
)

func locksVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[lock.State]{Columns: []cli.Column[lock.State]{
		{Name: "name", Value: func(s lock.State) string { return s.Name }, Help: "what is locked: NAMESPACE/CONTAINER, a digest, a database"},
		{Name: "rank", Value: func(s lock.State) string { return s.Rank }, Help: "what kind of thing it is"},
		{Name: "owners", Value: func(s lock.State) string { return owners(s.Owners) }, Help: "pid, command and since when"},
		{Name: "waiters", Value: func(s lock.State) string { return owners(s.Waiters) }, Help: "pid and command of those who wait for it"},
	}}
	cmd := cli.New("locks [OPTION]...", "show who holds and who waits for which lock", cli.About{
		Long: "Lists the locks of the state directory that are held at this moment, by whom and since when, and who waits " +
			"for them. It reads the kernel's table and takes no lock itself.",
		Stdout: "a lock a line",
		Examples: []cli.Example{
			{Note: "see why a command waits", Text: "ctrd locks"},
			{Note: "the pids of all holders", Text: "ctrd locks --json | jq '.owners[].pid'"},
		},
	}, func(*cobra.Command, []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		all, err := d.Locks().All()
		if err != nil {
			return err
		}
		return table.PrintAll(all)
	})
	table.Flags(cmd)
	return cmd
}

func owners(all []lock.Owner) string {
	var text []string
	for _, o := range all {
		text = append(text, o.String())
	}
	return strings.Join(text, ", ")
}
