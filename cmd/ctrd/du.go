// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/account"
	"ctrd.dev/ctrd/lib/cli"
)

func duVerb(g *cli.Global) *cobra.Command {
	var raw, explain bool
	size := func(p account.Piece) string {
		if raw {
			return strconv.FormatInt(p.Bytes, 10)
		}
		return units.BytesSize(float64(p.Bytes))
	}
	table := cli.Table[account.Piece]{Columns: []cli.Column[account.Piece]{
		{Name: "name", Value: func(p account.Piece) string { return p.Name }, Help: "below the root or, after state/, below the state directory"},
		{Name: "size", Value: size, Help: "on the disk", Right: true},
		{Name: "files", Value: func(p account.Piece) string { return strconv.FormatInt(p.Files, 10) }, Right: true},
		{Name: "use", Value: func(p account.Piece) string { return string(p.Use) }, Help: "with --explain: held, garbage, trash, system or unknown", Hidden: true},
		{Name: "holders", Value: holders, Help: "with --explain: who holds it", Hidden: true},
	}}
	cmd := cli.New("du [OPTION]...", "show what takes how much space", cli.About{
		Long: "Adds up the space that each part of the root takes on the disk, and each part of the state directory, most of which is " +
			"memory: their names begin with state/. A file with several names counts once, and what is mounted somewhere does not count. " +
			"What ctrd did not make counts as other.\n\n" +
			"With --explain, every blob, snapshot, container and task is listed by itself, the largest first, with what it is for: held (by " +
			"whom is said behind it: images, containers, leases, a running command), garbage, which the next ctrd gc removes, trash, which " +
			"it deletes, system, which is ctrd's own, or unknown. The sizes add up to the total.",
		Stdout: "a part of the two directories a line, then the total",
		Examples: []cli.Example{
			{Note: "where has the disk gone", Text: "ctrd du"},
			{Note: "what is it that takes so much, and who needs it", Text: "ctrd du --explain | head"},
			{Note: "in bytes, for a script", Text: "ctrd du --bytes -o size,name"},
		},
		Exit: []int{cli.ExitNotFound, cli.ExitCorrupt}, SeeAlso: []string{"ctrd-gc"},
	}, func(cmd *cobra.Command, _ []string) error {
		d, err := g.OpenThere()
		if err != nil {
			return err
		}
		all, err := account.All(cmd.Context(), d)
		if err != nil {
			return err
		}
		total := account.Piece{Name: "total"}
		for _, p := range all {
			total.Bytes += p.Bytes
			total.Files += p.Files
		}
		if !explain {
			return table.PrintAll(append(byPart(all), total))
		}
		slices.SortStableFunc(all, func(a, b account.Piece) int { return cmp.Compare(b.Bytes, a.Bytes) })
		table.Columns[3].Hidden, table.Columns[4].Hidden = false, false
		return table.PrintAll(append(all, total))
	})
	cmd.Flags().BoolVarP(&raw, "bytes", "b", false, "print sizes as numbers of bytes")
	cmd.Flags().BoolVar(&explain, "explain", false, "list every piece, and who holds it")
	table.Flags(cmd)
	return cmd
}

// byPart adds up the pieces of each part. Parts of a few bytes that have nothing to say count as other.
func byPart(all []account.Piece) []account.Piece {
	shown := map[string]bool{}
	for _, name := range []string{"meta.db", "content/blobs", "content/ingest", "snapshots", "containers", "trash", "reserve",
		"state/run.db", "state/tasks", "state/events", "state/leases", "state/locks", "state/trash", "state/reserve", account.Other} {
		shown[name] = true
	}
	sums := map[string]account.Piece{}
	for _, p := range all {
		name := p.Part
		if !shown[name] {
			name = account.Other
		}
		s := sums[name]
		s.Bytes += p.Bytes
		s.Files += p.Files
		sums[name] = s
	}
	var rows []account.Piece
	for _, name := range account.Parts() {
		if shown[name] {
			s := sums[name]
			s.Name, s.Part = name, name
			rows = append(rows, s)
		}
	}
	return rows
}

// maxHolders is how many holders a line of a table names.
const maxHolders = 3

func holders(p account.Piece) string {
	var all []string
	for _, h := range p.Holders {
		all = append(all, h.String())
	}
	slices.Sort(all)
	if len(all) > maxHolders {
		all = append(all[:maxHolders], strconv.Itoa(len(all)-maxHolders)+" others")
	}
	return strings.Join(all, ", ")
}
