// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/task"
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
	}, cli.Tasks, func(cmd *cobra.Command, t *task.Task) error {
		sig, err := task.ParseSignal(signal)
		if err != nil {
			return err
		}
		return t.Kill(cmd.Context(), sig, all)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", signal, "send the signal `NAME` or number")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "send it to every process of the container")
	cli.CompleteOption(cmd, "signal", cobra.FixedCompletions(signalNames, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func stopVerb(g *cli.Global) *cobra.Command {
	var signal, incarnation string
	var grace graceFlag
	cmd := simple(g, "stop", "end running containers", cli.About{
		Long: "Sends the container's stop signal (that of the image, or TERM) and waits until the container has ended; after the time that --time gives, or that the container was made with (--stop-timeout), it is killed. A container that does not run is stopped already.",
		Examples: []cli.Example{
			{Note: "stop a container and learn how it ended", Text: "ctr-task stop r; ctr-task wait r"},
			{Note: "give it a minute", Text: "ctr-task stop -t 1m db"},
		},
		SeeAlso: []string{"ctr-task-kill", "ctr-task-wait"},
	}, cli.Tasks, func(cmd *cobra.Command, t *task.Task) error {
		if incarnation != "" {
			if string(t.Incarnation()) != incarnation {
				return nil
			}
			return t.Detach(cmd.Context())
		}
		var sig unix.Signal
		if signal != "" {
			var err error
			if sig, err = task.ParseSignal(signal); err != nil {
				return err
			}
		}
		return t.Stop(cmd.Context(), sig, grace.of(cmd, t))
	})
	grace.add(cmd)
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "send the signal `NAME` instead of the container's stop signal")
	cmd.Flags().StringVar(&incarnation, "incarnation", "", "take the container off its networks if `TASK` was its last task and has ended; for ctr-shim")
	cli.HideOption(cmd, "incarnation")
	cli.CompleteOption(cmd, "signal", cobra.FixedCompletions(signalNames, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// graceFlag is --time of the verbs that stop containers.
type graceFlag struct{ time time.Duration }

func (g *graceFlag) add(cmd *cobra.Command) {
	g.time = 10 * time.Second
	cmd.Flags().VarP((*durationValue)(&g.time), "time", "t", "wait this `DURATION` (10s, 1m; a number counts seconds) before killing")
}

// of is how long a stop of the container waits: what --time says, or what the container was made with.
func (g *graceFlag) of(cmd *cobra.Command, t *task.Task) time.Duration {
	if s := t.Container.StopTimeout; s != nil && !cmd.Flags().Changed("time") {
		return time.Duration(*s) * time.Second
	}
	return g.time
}

func pauseVerb(g *cli.Global) *cobra.Command {
	return simple(g, "pause", "freeze running containers", cli.About{
		Long:     "Stops every process of the container where it is, with the cgroup freezer. The processes do not notice.",
		Examples: []cli.Example{{Note: "freeze a container and let it go on", Text: "ctr-task pause r; ctr-task resume r"}},
		SeeAlso:  []string{"ctr-task-resume"},
	}, cli.Tasks, func(cmd *cobra.Command, t *task.Task) error { return t.Pause(cmd.Context()) })
}

func resumeVerb(g *cli.Global) *cobra.Command {
	return simple(g, "resume", "let paused containers go on", cli.About{
		Long:     "Undoes ctr-task pause.",
		Examples: []cli.Example{{Note: "let everything that is paused go on", Text: "ctr-task ls -q --status paused | ctr-task resume -"}},
		SeeAlso:  []string{"ctr-task-pause"},
	}, cli.Tasks, func(cmd *cobra.Command, t *task.Task) error { return t.Resume(cmd.Context()) })
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
