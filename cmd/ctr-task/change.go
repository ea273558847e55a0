// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/task"
)

func updateVerb(g *cli.Global) *cobra.Command {
	var l spec.Limits
	var flags limitFlags
	var restart string
	cmd := simple(g, "update", "change the limits and the restart policy of containers", cli.About{
		Long: "Changes what the options name, of containers that run at once, and of all for their later starts. What is not named stays.",
		Examples: []cli.Example{
			{Note: "give it more memory", Text: "ctr-task update -m 1g --memory-swap 2g db"},
			{Note: "keep it running", Text: "ctr-task update --restart unless-stopped web"},
		},
		SeeAlso: []string{"ctr-task-run", "ctr-task-stats"},
	}, cli.Containers, func(cmd *cobra.Command, t *task.Task) error {
		flags.finish(cmd.Flags(), &l)
		if cmd.Flags().NFlag() == 0 {
			return cli.Hint(cli.Usagef("nothing to change"), "give a limit, such as --memory 1g, or --restart")
		}
		policy, err := container.ParseRestart(restart)
		if err != nil {
			return err
		}
		r, err := l.Resources()
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("pids-limit") && l.PidsLimit <= 0 {
			r.Pids = spec.NoPidsLimit()
		}
		if anyChanged(cmd, limitNames) {
			err = t.Update(cmd.Context(), r)
		}
		if err == nil && cmd.Flags().Changed("restart") {
			err = t.SetRestart(cmd.Context(), policy)
		}
		return err
	})
	flags.add(cmd.Flags(), &l)
	cmd.Flags().StringVar(&restart, "restart", "", "restart policy: `no|always|on-failure[:MAX]|unless-stopped`")
	for _, name := range limitNames {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
	cli.CompleteOption(cmd, "restart", cobra.FixedCompletions([]string{"no", "always", "on-failure", "unless-stopped"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func anyChanged(cmd *cobra.Command, names []string) bool {
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

func renameVerb(g *cli.Global) *cobra.Command {
	return cli.New("rename CONTAINER NAME", "give a container another name", cli.About{
		Long: "Gives a container that does not run another name, which is its id, and its snapshot with it. Its log stays.",
		Examples: []cli.Example{
			{Note: "keep the old one for a while", Text: "ctr-task stop web; ctr-task rename web web-old"},
		},
		Args: cli.Count(2, 2), Complete: cli.InTurn(cli.Containers(g)),
		Exit: []int{cli.ExitNotFound, cli.ExitExists, cli.ExitBusy}, SeeAlso: []string{"ctr-task-create"},
	}, func(cmd *cobra.Command, args []string) error {
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		return errors.Join(t.Rename(cmd.Context(), args[1]), t.Close())
	})
}

func restartVerb(g *cli.Global) *cobra.Command {
	var grace graceFlag
	cmd := simple(g, "restart", "stop containers and run them again", cli.About{
		Long: "Stops each container as ctr-task stop does, if it runs, and starts it in the background.",
		Examples: []cli.Example{
			{Note: "run it anew", Text: "ctr-task restart web"},
		},
		SeeAlso: []string{"ctr-task-stop", "ctr-task-start"},
	}, cli.Containers, func(cmd *cobra.Command, t *task.Task) error {
		return t.Restart(cmd.Context(), grace.of(cmd, t), task.StartOptions{})
	})
	grace.add(cmd)
	return cmd
}

// isShortSignal tells whether an argument is kill's -9 or -HUP: its other options are in lower case.
func isShortSignal(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && (arg[1] >= '0' && arg[1] <= '9' || arg[1] >= 'A' && arg[1] <= 'Z')
}

// longSignals makes the short signals among the arguments of kill the option that they stand for, as kill(1)
// takes them.
func longSignals(args []string) []string {
	kills := false
	for i, a := range args {
		switch {
		case a == "--":
			return args
		case a == "kill":
			kills = true
		case kills && isShortSignal(a):
			args[i] = "--signal=" + a[1:]
		}
	}
	return args
}
