// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

var signalNames = []string{"HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH"}

func killVerb(g *cli.Global) *cobra.Command {
	signal, all := "KILL", false
	cmd := simple(g, "kill", "send a signal to running containers", cli.About{
		Long: "Sends a signal, KILL unless told otherwise, to the first process of each container. It does not wait for what the signal does; see ctr-task wait.",
		Examples: []cli.Example{
			{Note: "kill a container", Text: "ctr-task kill r"},
			{Note: "have nginx read its configuration again", Text: "ctr-task kill -HUP web"},
		},
		SeeAlso: []string{"ctr-task-stop", "ctr-task-wait", "signal(7)"},
	}, cli.Tasks, func(t *task.Task, ctx context.Context) error {
		sig, err := task.ParseSignal(signal)
		if err != nil {
			return err
		}
		return t.Kill(ctx, sig, all)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", signal, "send the signal `NAME` or number")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "send it to every process of the container")
	cli.CompleteOption(cmd, "signal", cobra.FixedCompletions(signalNames, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func stopVerb(g *cli.Global) *cobra.Command {
	var signal string
	grace := 10 * time.Second
	var cmd *cobra.Command
	cmd = simple(g, "stop", "end running containers", cli.About{
		Long: "Sends the container's stop signal (that of the image, or TERM) and waits until the container has ended; after the time that --time gives, or that the container was made with (--stop-timeout), it is killed. A container that does not run is stopped already.",
		Examples: []cli.Example{
			{Note: "stop a container and learn how it ended", Text: "ctr-task stop r; ctr-task wait r"},
			{Note: "give it a minute", Text: "ctr-task stop -t 1m db"},
		},
		SeeAlso: []string{"ctr-task-kill", "ctr-task-wait"},
	}, cli.Tasks, func(t *task.Task, ctx context.Context) error {
		var sig unix.Signal
		if signal != "" {
			var err error
			if sig, err = task.ParseSignal(signal); err != nil {
				return err
			}
		}
		return t.Stop(ctx, sig, ownGrace(cmd, t, grace))
	})
	cmd.Flags().VarP((*durationValue)(&grace), "time", "t", "wait this `DURATION` (10s, 1m; a number counts seconds) before killing")
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "send the signal `NAME` instead of the container's stop signal")
	cli.CompleteOption(cmd, "signal", cobra.FixedCompletions(signalNames, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func pauseVerb(g *cli.Global) *cobra.Command {
	return simple(g, "pause", "freeze running containers", cli.About{
		Long:     "Stops every process of the container where it is, with the cgroup freezer. The processes do not notice.",
		Examples: []cli.Example{{Note: "freeze a container and let it go on", Text: "ctr-task pause r; ctr-task resume r"}},
		SeeAlso:  []string{"ctr-task-resume"},
	}, cli.Tasks, (*task.Task).Pause)
}

func resumeVerb(g *cli.Global) *cobra.Command {
	return simple(g, "resume", "let paused containers go on", cli.About{
		Long:     "Undoes ctr-task pause.",
		Examples: []cli.Example{{Note: "let everything that is paused go on", Text: "ctr-task ls -q --status paused | ctr-task resume -"}},
		SeeAlso:  []string{"ctr-task-pause"},
	}, cli.Tasks, (*task.Task).Resume)
}

func rmVerb(g *cli.Global) *cobra.Command {
	var force, keeper bool
	var incarnation string
	cmd := cli.New("rm [OPTION]... CONTAINER...", "remove containers", cli.About{
		Long: "Removes containers that do not run, with their writable layer and their log. With -f, one that runs is killed first and one that does not exist is no error.",
		Examples: []cli.Example{
			{Note: "remove a container", Text: "ctr-task rm r"},
			{Note: "remove all that have stopped", Text: "ctr-task ls -q --status stopped | ctr-task rm -"},
		},
		Args: cli.Count(1, -1), Complete: cli.Containers(g), Stdin: "with the operand -, names of containers, one a line",
		Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		if incarnation != "" {
			return ofTask(cmd.Context(), d, g.Namespace, args[0], incarnation, func(t *task.Task) error {
				if keeper {
					return t.Keep(cmd.Context())
				}
				return t.RemoveEnded(cmd.Context())
			})
		}
		return cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			t, err := task.Find(cmd.Context(), d, g.Namespace, name)
			if err == nil {
				err = errors.Join(t.Remove(cmd.Context(), force), t.Close())
			} else if cli.Status(err) == cli.ExitNotFound {
				err = errors.Join(err, task.RemoveRest(cmd.Context(), d, g.Namespace, name))
			}
			if force && cli.Status(err) == cli.ExitNotFound {
				return nil
			}
			return err
		})
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first when it runs; absent is success")
	cmd.Flags().StringVar(&incarnation, "incarnation", "", "remove the container with this exact id if `TASK` was its last task; for ctr-shim")
	cmd.Flags().BoolVar(&keeper, "keeper", false, "with --incarnation: when its task has ended")
	cli.HideOption(cmd, "incarnation")
	cli.HideOption(cmd, "keeper")
	return cmd
}

// ofTask does what a supervisor asks for when one of its tasks has ended: for the container of this exact id, if
// that task is its last one. This process has been started in the cgroup of the supervisors, and may be its last.
func ofTask(ctx context.Context, d *state.Dir, ns, id, incarnation string, deed func(*task.Task) error) error {
	defer func() { _ = cgroup.Leave() }()
	t, err := task.Open(ctx, d, ns, id)
	if cli.Status(err) == cli.ExitNotFound {
		return nil
	}
	if err != nil || t.Incarnation() != "" && t.Incarnation() != taskdir.Incarnation(incarnation) {
		return err
	}
	return errors.Join(deed(t), t.Close())
}

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
	err := each(ctx, g, args, func(t *task.Task) error {
		n++
		go func() {
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

// durationValue is a duration flag that also takes a bare number of seconds.
type durationValue time.Duration

// String shows the duration.
func (v *durationValue) String() string { return time.Duration(*v).String() }

// Set parses a duration.
func (v *durationValue) Set(s string) error {
	d, err := cli.ParseDuration(s)
	*v = durationValue(d)
	return err
}

// Type is the name of the value in help texts.
func (v *durationValue) Type() string { return "duration" }
