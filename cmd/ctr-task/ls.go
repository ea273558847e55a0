// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/task"
)

func lsVerb(g *cli.Global) *cobra.Command {
	var running bool
	var labels, statuses []string
	var filtered func() (filter.Filter, error)
	var known []string
	for _, s := range task.Statuses {
		known = append(known, string(s))
	}
	table := cli.Table[*task.Info]{Columns: []cli.Column[*task.Info]{
		{Name: "id", Value: func(i *task.Info) string { return i.ID }},
		{Name: "image", Value: func(i *task.Info) string { return i.Image }, Help: "name of the image it was made from"},
		{Name: "status", Value: statusText, Help: "created, starting, running, paused, restarting or stopped with its last exit status, or orphaned: its supervisor was killed"},
		{Name: "pid", Value: func(i *task.Info) string { return number(i.PID) }, Help: "of its first process", Right: true},
		{Name: "created", Value: func(i *task.Info) string { return ago(i.Created) }, Help: "how long ago"},
		{Name: "supervisor", Value: func(i *task.Info) string { return number(i.Supervisor) }, Help: "pid of its ctr-shim", Right: true, Hidden: true},
		{Name: "labels", Value: func(i *task.Info) string { return cli.LabelText(i.Labels) }, Help: "key=value, separated by commas", Hidden: true},
		{Name: "snapshot", Value: func(i *task.Info) string { return i.SnapshotKey }, Help: "its snapshot's key", Hidden: true},
	}}
	cmd := cli.New("ls [OPTION]...", "list containers", cli.About{
		Long: "Lists the containers of the namespace, also those that do not run. What each is doing is read from the " +
			"state directory alone: no lock is taken and no supervisor asked, so a stuck container delays nothing.\n\n" +
			cli.FilterHelp(filter.ContainerFields),
		Stdout: "a container a line",
		Examples: []cli.Example{
			{Note: "list all containers", Text: "ctr-task ls"},
			{Note: "stop all that run", Text: "ctr-task ls -q --running | ctr-task stop -"},
			{Note: "list what was made from an image, by any tag", Text: "ctr-task ls --filter 'image~=|/redis:|'"},
			{Note: "pick columns", Text: "ctr-task ls -o id,status,supervisor"},
		},
		Exit: []int{cli.ExitCorrupt},
	}, func(cmd *cobra.Command, _ []string) error {
		if err := cli.OneOf("--status", statuses, known); err != nil {
			return err
		}
		f, err := filtered()
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		var lost []error
		none := true
		err = table.Print(func(yield func(*task.Info, error) bool) {
			for i, err := range task.All(cmd.Context(), d, g.Namespace) {
				none = false
				if errdefs.IsDataLoss(err) {
					lost = append(lost, err)
					continue
				}
				if err == nil && (running && !slices.Contains([]task.Status{task.Running, task.Paused, task.Restarting}, i.Status) ||
					len(statuses) > 0 && !slices.Contains(statuses, string(i.Status)) || !cli.HasLabels(i.Labels, labels) ||
					!f.Match(filter.Container(i.ID, i.Image, i.Runtime.Name, i.Labels))) {
					continue
				}
				if !yield(i, err) {
					return
				}
			}
			if none {
				if err := g.NotACount(cmd, "ctr-task ls | tail -n "+g.Namespace); err != nil {
					yield(nil, err)
				}
			}
		})
		return errors.Join(append(lost, err)...)
	})
	cmd.Flags().BoolVar(&running, "running", false, "list only containers that run, are paused or wait for their next restart")
	cmd.Flags().StringSliceVar(&statuses, "status", nil, "list only containers with one of these `STATUSES`")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "list only containers with the label `KEY[=VALUE]`; each --label must fit")
	filtered = cli.FilterOption(cmd, "containers", filter.ContainerFields)
	cli.CompleteOption(cmd, "status", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	cli.CompleteOption(cmd, "label", cobra.NoFileCompletions)
	table.Flags(cmd)
	const all = "ls lists all containers; --running lists only those that run"
	cli.ExplainAbsent(cmd, cli.Absent{"a": all, "all": all, "l": "ls lists all containers", "latest": "ls lists all containers", "last": "ls lists all containers",
		"f": "there are --status, --running, --label and --filter", "no-trunc": "leave it out: nothing is cut"})
	return cmd
}

func statusText(i *task.Info) string {
	if i.Exit == nil {
		return string(i.Status)
	}
	text := fmt.Sprintf("%s (%d)", i.Status, i.Exit.Status)
	if i.Exit.OOM {
		text += " out of memory"
	}
	return text
}

func number(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// dash is what a table shows of a text that is not there.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
