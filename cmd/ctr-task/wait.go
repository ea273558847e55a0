// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

func waitVerb(g *cli.Global) *cobra.Command {
	var timeout time.Duration
	var first bool
	cmd := cli.New("wait [OPTION]... CONTAINER...", "wait for containers to end", cli.About{
		Long:  "Waits until each container has ended, one after the other, and prints its exit status; 128+n stands for signal n. It can be called before the container is started, while it runs and after it has ended, from any number of processes.",
		Stdin: "with the operand -, names of containers, one a line", Stdout: "the exit status of each, a line each",
		Examples: []cli.Example{
			{Note: "run in the background, wait for the end", Text: "ctr-task run -d busybox sleep 1 | ctr-task wait -"},
			{Note: "the status alone, in a script that ends at the first failure", Text: "status=$(ctr-task wait r) || true"},
		},
		Args: cli.Count(1, -1), Complete: cli.Containers(g),
		Failure: 125, Status: append(programStatuses[:2:2], cli.ExitStatus{Code: "124", Meaning: "--timeout has passed"}),
	}, func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		if first {
			return waitAny(ctx, g, args)
		}
		last := 0
		err := each(ctx, g, args, func(t *task.Task) error {
			exit, err := t.Wait(ctx)
			if timeout > 0 && errors.Is(err, context.DeadlineExceeded) {
				return cli.WithStatus(fmt.Errorf("container %q has not ended after %s", t.ID(), timeout), cli.ExitTimeout)
			}
			if err != nil {
				return err
			}
			warnLost(ctx, t)
			last = exit.Status
			_, err = fmt.Fprintln(os.Stdout, exit.Status)
			return err
		})
		if err == nil {
			err = cli.Exit(last)
		} else if timeout > 0 && ctx.Err() != nil && cmd.Context().Err() == nil {
			err = cli.Exit(cli.ExitTimeout)
		}
		return err
	})
	cmd.Flags().BoolVar(&first, "any", false, "wait for the first of them to end, and print its status and, after a TAB, its id")
	cmd.Flags().Var((*durationValue)(&timeout), "timeout", "give up after this `DURATION` (10s, 1m; a number counts seconds)")
	return cmd
}

// waitAny waits for the first of the containers to end.
func waitAny(ctx context.Context, g *cli.Global, args []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type ended struct {
		id   string
		exit taskdir.Exit
		err  error
	}
	all := make(chan ended)
	n := 0
	d, err := g.Open()
	if err != nil {
		return err
	}
	err = cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
		t, err := task.Find(ctx, d, g.Namespace, name)
		if err != nil {
			return err
		}
		n++
		go func() {
			defer t.Close()
			exit, err := t.Wait(ctx)
			select {
			case all <- ended{t.ID(), exit, err}:
			case <-ctx.Done():
			}
		}()
		return nil
	})
	if err != nil {
		return err
	}
	for range n {
		select {
		case e := <-all:
			if e.err != nil {
				err = errors.Join(err, e.err)
				continue
			}
			if _, err := fmt.Printf("%d\t%s\n", e.exit.Status, e.id); err != nil {
				return err
			}
			return cli.Exit(e.exit.Status)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return cli.Exit(cli.ExitTimeout)
			}
			return context.Cause(ctx)
		}
	}
	return err
}
