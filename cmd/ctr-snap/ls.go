// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func lsVerb(g *cli.Global) *cobra.Command {
	var kinds, labels []string
	known := []string{string(snapshot.Active), string(snapshot.View), string(snapshot.Committed)}
	var leaves bool
	var filtered func() (filter.Filter, error)
	table := cli.Table[snapshot.Info]{Columns: []cli.Column[snapshot.Info]{
		{Name: "key", Value: func(s snapshot.Info) string { return s.Key }},
		{Name: "kind", Value: func(s snapshot.Info) string { return string(s.Kind) }, Help: "active, view or committed"},
		{Name: "parent", Value: func(s snapshot.Info) string { return s.Parent }, Help: "key of the snapshot below"},
		{Name: "size", Value: size, Help: "on the disk, without its parents; known of committed ones", Right: true},
		{Name: "created", Value: func(s snapshot.Info) string { return units.HumanDuration(time.Since(s.Created)) + " ago" }, Help: "how long ago"},
		{Name: "bytes", Value: func(s snapshot.Info) string { return strconv.FormatInt(s.Size, 10) }, Help: "the size in bytes", Right: true, Hidden: true},
		{Name: "inodes", Value: func(s snapshot.Info) string { return strconv.FormatInt(s.Inodes, 10) }, Help: "files and directories", Right: true, Hidden: true},
		{Name: "id", Value: func(s snapshot.Info) string { return string(s.ID) }, Help: "name of its directory", Hidden: true},
		{Name: "verity", Value: func(s snapshot.Info) string { return s.Verity.String() }, Help: "digest of fs-verity of its file, with erofs where there is that", Hidden: true},
		{Name: "labels", Value: func(s snapshot.Info) string { return cli.LabelText(s.Labels) }, Help: "key=value, separated by commas", Hidden: true},
	}}
	cmd := cli.New("ls [OPTION]...", "list snapshots", cli.About{
		Long:   "Lists the snapshots of the namespace by key. No lock is taken.\n\n" + cli.FilterHelp(filter.SnapshotFields) + " A snapshot's name is its key.",
		Stdout: "a snapshot a line",
		Examples: []cli.Example{
			{Note: "list all snapshots", Text: "ctr-snap ls"},
			{Note: "measure what is being written", Text: "ctr-snap ls -q --kind active | ctr-snap usage -"},
			{Note: "list what stands on a layer", Text: "ctr-snap ls --filter 'parent~=^sha256:3f1c2a9d'"},
			{Note: "list the top layers: nothing stands on them", Text: "ctr-snap ls -q --kind committed --leaves"},
		},
		Exit: []int{cli.ExitCorrupt}, SeeAlso: []string{"ctr-snap-tree"},
	}, func(cmd *cobra.Command, _ []string) error {
		if err := cli.OneOf("--kind", kinds, known); err != nil {
			return err
		}
		f, err := filtered()
		if err != nil {
			return err
		}
		all, lost, err := list(cmd, g)
		if err != nil {
			return err
		}
		parents := map[string]bool{}
		for _, s := range all {
			parents[s.Parent] = true
		}
		err = table.PrintAll(slices.DeleteFunc(all, func(s snapshot.Info) bool {
			return len(kinds) > 0 && !slices.Contains(kinds, string(s.Kind)) || leaves && parents[s.Key] || !cli.HasLabels(s.Labels, labels) ||
				!f.Match(filter.Snapshot(string(s.Kind), s.Key, s.Parent, s.Labels))
		}))
		return errors.Join(err, lost)
	})
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "list only snapshots of these `KINDS`: active, view, committed")
	cmd.Flags().BoolVar(&leaves, "leaves", false, "list only snapshots that nothing stands on")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "list only snapshots with the label `KEY[=VALUE]`; each --label must fit")
	filtered = cli.FilterOption(cmd, "snapshots", filter.SnapshotFields)
	cli.CompleteOption(cmd, "kind", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	cli.CompleteOption(cmd, "label", cobra.NoFileCompletions)
	table.Flags(cmd)
	return cmd
}

// list reads all snapshots of the namespace. Records that cannot be read are left out, and are in lost.
func list(cmd *cobra.Command, g *cli.Global) (all []snapshot.Info, lost, err error) {
	d, sn, err := open(cmd.Context(), g)
	if err != nil {
		return nil, nil, err
	}
	err = d.View(cmd.Context(), func(tx *state.Tx) error {
		all, lost = nil, nil
		for s, err := range sn.All(tx, g.Namespace) {
			if errdefs.IsDataLoss(err) {
				lost = errors.Join(lost, err)
				continue
			}
			if err != nil {
				return err
			}
			all = append(all, s)
		}
		return nil
	})
	return all, lost, err
}

func size(s snapshot.Info) string {
	if s.Kind != snapshot.Committed || s.Inodes == 0 {
		return "-"
	}
	return units.HumanSizeWithPrecision(float64(s.Size), 3)
}
