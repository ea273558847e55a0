// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/task"
)

func logsVerb(g *cli.Global) *cobra.Command {
	var follow, stamps bool
	var tail, since string
	cmd := cli.New("logs [OPTION]... CONTAINER", "show what a container has written", cli.About{
		Long:   "Prints the container's output, stdout to stdout and stderr to stderr, from the log that its supervisor keeps. With -f it goes on until the container ends.",
		Stdin:  oneName,
		Stdout: "what the container wrote to its stdout; its stderr goes to stderr",
		Examples: []cli.Example{
			{Note: "the last ten lines, and what comes", Text: "ctr-task logs -f --tail 10 r"},
			{Note: "the last five minutes, with times", Text: "ctr-task logs -t --since 5m r"},
		},
		Args: cli.Count(1, 1), Complete: cli.Containers(g), Exit: []int{cli.ExitNotFound},
		SeeAlso: []string{"ctr-task-attach"},
	}, func(cmd *cobra.Command, args []string) error {
		o := task.LogOptions{Follow: follow, Stamps: stamps, Tail: -1, Stdout: os.Stdout, Stderr: os.Stderr}
		var err error
		if o.Tail, err = cli.ParseTail(tail); err != nil {
			return err
		}
		if o.Since, err = cli.ParseSince(since, time.Now()); err != nil {
			return err
		}
		t, err := one(cmd.Context(), g, args[0])
		if errdefs.IsNotFound(err) {
			if e := g.NotACount(cmd, "--tail "+g.Namespace+" shows the last lines"); e != nil {
				return e
			}
		}
		if err != nil {
			return err
		}
		defer t.Close()
		if err := t.Logs(cmd.Context(), o); err != nil {
			return err
		}
		warnLost(cmd.Context(), t)
		return nil
	})
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until the container ends")
	f.BoolVarP(&stamps, "timestamps", "t", false, "begin each line with its time")
	f.StringVar(&tail, "tail", "all", "begin with the last `NUMBER` of lines")
	f.StringVar(&since, "since", "", "begin at this `TIME`: RFC 3339, seconds since 1970, or a span back from now (5m)")
	cli.CompleteOption(cmd, "tail", cobra.NoFileCompletions)
	cli.CompleteOption(cmd, "since", cobra.NoFileCompletions)
	return cmd
}

// warnLost says that a log is not whole.
func warnLost(ctx context.Context, t *task.Task) {
	if info, err := t.Info(ctx); err == nil && info.Lost != nil {
		cli.Warn(fmt.Errorf("container %q: %d bytes of its output are lost, they could not be written to its log: %s", t.ID(), info.Lost.Bytes, info.Lost.Error))
	}
}
