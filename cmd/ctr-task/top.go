// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

func topVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[task.ProcessInfo]{Columns: []cli.Column[task.ProcessInfo]{
		{Name: "pid", Value: func(p task.ProcessInfo) string { return strconv.Itoa(p.PID) }, Help: "as the host sees it", Right: true},
		{Name: "ppid", Value: func(p task.ProcessInfo) string { return strconv.Itoa(p.Parent) }, Right: true},
		{Name: "uid", Value: func(p task.ProcessInfo) string { return strconv.Itoa(p.UID) }, Right: true},
		{Name: "state", Value: func(p task.ProcessInfo) string { return p.State }, Help: "R running, S sleeping, D in the kernel, T stopped, Z ended"},
		{Name: "rss", Value: func(p task.ProcessInfo) string { return units.BytesSize(float64(p.RSS)) }, Help: "resident memory", Right: true},
		{Name: "cpu", Value: func(p task.ProcessInfo) string { return p.CPU.Round(10 * time.Millisecond).String() }, Help: "processor time used", Right: true},
		{Name: "exec", Value: func(p task.ProcessInfo) string { return dash(p.Exec) }, Help: "id of the exec that it is"},
		{Name: "command", Value: func(p task.ProcessInfo) string { return strings.Join(p.Command, " ") }},
	}}
	cmd := cli.New("top [OPTION]... CONTAINER", "list the processes of a running container", cli.About{
		Long:     "Lists every process in the container, as the host sees it.",
		Stdin:    oneName,
		Stdout:   "a process a line",
		Examples: []cli.Example{{Note: "list the processes", Text: "ctr-task top r"}, {Note: "their pids alone", Text: "ctr-task top -q r"}},
		Args:     cli.Count(1, 1), Complete: cli.Tasks(g), Exit: []int{cli.ExitNotFound, cli.ExitBusy},
	}, func(cmd *cobra.Command, args []string) error {
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		all, err := t.Top(cmd.Context())
		if err != nil {
			return err
		}
		return table.PrintAll(all)
	})
	table.Flags(cmd)
	return cmd
}

// usage is what stats prints of a container at a moment.
type usage struct {
	ID         string       `json:"id"`
	Time       time.Time    `json:"time"`
	CPUPercent float64      `json:"cpu_percent"` // 100 is one processor
	Stats      cgroup.Stats `json:"stats"`
}

func statsVerb(g *cli.Global) *cobra.Command {
	var stream bool
	interval := time.Second
	table := cli.Table[usage]{Columns: []cli.Column[usage]{
		{Name: "id", Value: func(u usage) string { return u.ID }},
		{Name: "cpu", Value: func(u usage) string { return strconv.FormatFloat(u.CPUPercent, 'f', 1, 64) + "%" }, Help: "100% is one processor", Right: true},
		{Name: "memory", Value: func(u usage) string { return units.BytesSize(float64(u.Stats.Memory.Working())) }, Help: "without the page cache that could be dropped", Right: true},
		{Name: "limit", Value: func(u usage) string { return limitText(u.Stats.Memory.Limit) }, Help: "of the memory", Right: true},
		{Name: "pids", Value: func(u usage) string { return strconv.FormatUint(u.Stats.Pids.Current, 10) }, Right: true},
		{Name: "read", Value: func(u usage) string { return units.BytesSize(float64(u.Stats.Block.Read)) }, Help: "bytes from block devices", Right: true},
		{Name: "written", Value: func(u usage) string { return units.BytesSize(float64(u.Stats.Block.Write)) }, Help: "bytes to block devices", Right: true},
	}}
	cmd := cli.New("stats [OPTION]... [CONTAINER]...", "show what running containers use", cli.About{
		Long:   "Measures each running container (all of them when none is named) twice, --interval apart, and prints what it uses: once, or with --follow again and again.",
		Stdin:  "with the operand -, names of containers, one a line",
		Stdout: "a container a line",
		Examples: []cli.Example{
			{Note: "look once", Text: "ctr-task stats"},
			{Note: "every five seconds as JSON", Text: "ctr-task stats -f --interval 5s --json r"},
		},
		Args: cli.Count(0, -1), Complete: cli.Tasks(g), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		p, err := table.Printer(os.Stdout)
		if err != nil {
			return err
		}
		var ids []string
		failed := cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			t, err := task.Find(ctx, d, g.Namespace, name)
			if err != nil {
				return err
			}
			if _, err = t.Measure(ctx); err == nil {
				ids = append(ids, t.ID())
			}
			return err
		})
		if len(args) > 0 && len(ids) == 0 {
			return failed
		}
		last, err := sample(ctx, d, g, ids, nil)
		for err == nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(interval):
			}
			var now []usage
			if now, err = sample(ctx, d, g, ids, last); err != nil {
				break
			}
			for _, u := range now {
				if err := p.Add(u); err != nil {
					return err
				}
			}
			if err = p.Flush(); err != nil || !stream || len(ids) > 0 && len(now) == 0 {
				break
			}
			last = now
		}
		return errors.Join(err, failed)
	})
	cmd.Flags().BoolVarP(&stream, "follow", "f", false, "go on until interrupted")
	cmd.Flags().Bool("no-stream", false, "measure once, which is the default")
	cmd.MarkFlagsMutuallyExclusive("follow", "no-stream")
	cmd.Flags().Var((*durationValue)(&interval), "interval", "measure over this `DURATION`")
	table.Flags(cmd)
	return cmd
}

func limitText(limit uint64) string {
	if limit == 0 {
		return "none"
	}
	return units.BytesSize(float64(limit))
}

// sample measures the named containers, or all that run; before gives the processor time to compare with. What
// has ended is left out.
func sample(ctx context.Context, d *state.Dir, g *cli.Global, ids []string, before []usage) ([]usage, error) {
	if len(ids) == 0 {
		for i, err := range task.All(ctx, d, g.Namespace) {
			if err != nil {
				return nil, err
			}
			if i.Status == task.Running || i.Status == task.Paused {
				ids = append(ids, i.ID)
			}
		}
	}
	var now []usage
	for _, id := range ids {
		t, err := task.Open(ctx, d, g.Namespace, id)
		var s cgroup.Stats
		if err == nil {
			s, err = t.Measure(ctx)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // it has just ended
		}
		u := usage{ID: id, Time: time.Now().UTC(), Stats: s}
		for _, b := range before {
			if b.ID == id && u.Time.After(b.Time) && s.CPU.Total >= b.Stats.CPU.Total {
				u.CPUPercent = 100 * float64(s.CPU.Total-b.Stats.CPU.Total) / float64(u.Time.Sub(b.Time))
			}
		}
		now = append(now, u)
	}
	return now, nil
}
