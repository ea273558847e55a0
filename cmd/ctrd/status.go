// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// summary is what status prints.
type summary struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func statusVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[summary]{Columns: []cli.Column[summary]{
		{Name: "name", Value: func(s summary) string { return s.Name }},
		{Name: "value", Value: func(s summary) string { return s.Value }},
	}}
	cmd := cli.New("status [OPTION]...", "show what the state directory holds", cli.About{
		Long:     "Counts what is kept, in all namespaces, and says where. A record that cannot be read is not counted, and told at the end.",
		Stdout:   "a name and a value a line",
		Examples: []cli.Example{{Note: "an overview", Text: "ctrd status"}, {Note: "one value", Text: "ctrd status | awk '$1 == \"running\" { print $2 }'"}},
		Exit:     []int{cli.ExitNotFound, cli.ExitCorrupt},
	}, func(cmd *cobra.Command, _ []string) error {
		d, err := g.OpenThere()
		if err != nil {
			return err
		}
		rows := []summary{{"version", cli.Version}, {"root", d.Path()}, {"state", d.Run()}}
		count := map[string]int{}
		var spaces []string
		var lost error // what cannot be read is told at the end, and hides nothing else
		err = d.View(cmd.Context(), func(tx *state.Tx) error {
			lost = nil
			for _, kind := range []struct {
				name  string
				count func(*state.Tx, *error) (int, error)
			}{
				{"images", counter(image.Namespaces, image.All)},
				{"containers", counter(container.Namespaces, container.All)},
				{"snapshots", counter(snapshot.Namespaces, snapshot.All)},
				{"blobs", counter(content.Namespaces, content.All)},
			} {
				if count[kind.name], err = kind.count(tx, &lost); err != nil {
					return err
				}
			}
			spaces, err = container.Namespaces(tx)
			return err
		})
		if err != nil {
			return err
		}
		for _, kind := range []string{"images", "blobs", "snapshots", "containers"} {
			rows = append(rows, summary{kind, strconv.Itoa(count[kind])})
		}
		running := 0
		for _, ns := range spaces {
			for i, err := range task.All(cmd.Context(), d, ns) {
				if errdefs.IsDataLoss(err) { // it is in lost
					continue
				}
				if err != nil {
					return err
				}
				if i.Status == task.Running || i.Status == task.Paused {
					running++
				}
			}
		}
		last, err := d.Journal().Last()
		if err != nil {
			return err
		}
		locks, err := d.Locks().All()
		if err != nil {
			return err
		}
		rows = append(rows, summary{"running", strconv.Itoa(running)}, summary{"events", strconv.FormatUint(last, 10)}, summary{"locks", strconv.Itoa(len(locks))})
		return errors.Join(table.PrintAll(rows), lost)
	})
	table.Flags(cmd)
	return cmd
}
