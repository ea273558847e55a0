// SPDX-License-Identifier: Apache-2.0

// Command ctr-task makes, runs and looks after containers.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/task"
)

func main() {
	root, g := cli.Root("ctr-task VERB [OPTION]... [OPERAND]...", "make, run and look after containers", cli.About{
		Long: "A container is made from an image (create) and run as a task (start); run does both. No daemon is " +
			"involved: each running container has one small supervisor, ctr-shim, and everything else is in the state " +
			"directory, so any number of these commands can work at once and each sees the others' work.\n\n" +
			"A container is named by the name it was given, or by its random id, of which the beginning will do where only one " +
			"begins so. The operand - reads " +
			"names from stdin, one a line, so that the commands can be joined by pipes.",
		SeeAlso: []string{"ctr-pull", "ctr-image", "ctr-snap", "ctr-shim", "ctrd"},
	}, nil)
	for _, verb := range []func(*cli.Global) *cobra.Command{
		runVerb, createVerb, startVerb, lsVerb, execVerb, attachVerb, logsVerb, killVerb, stopVerb, waitVerb,
		rmVerb, inspectVerb, pauseVerb, resumeVerb, checkpointVerb, restoreVerb, portVerb, topVerb, statsVerb, updateVerb, renameVerb, restartVerb,
	} {
		cmd := verb(g)
		cmd.SuggestFor = otherNames[cmd.Name()]
		root.AddCommand(cmd)
	}
	root.SetArgs(longSignals(os.Args[1:]))
	cli.Main(root)
}

// otherNames lists what docker, podman and ctr call a verb.
var otherNames = map[string][]string{
	"ls": {"ps", "list"}, "rm": {"remove", "delete", "del"}, "resume": {"unpause"}, "stats": {"metrics"},
}

// oneName is what a verb of one container says of stdin.
const oneName = "with the operand -, the name of a container: one line"

// each opens the state directory and calls fn with the container of every operand.
func each(ctx context.Context, g *cli.Global, args []string, fn func(*task.Task) error) error {
	d, err := g.Open()
	if err != nil {
		return err
	}
	return cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
		t, err := task.Find(ctx, d, g.Namespace, name)
		if err != nil {
			return err
		}
		return errors.Join(fn(t), t.Close())
	})
}

// one opens the state directory and finds the container that the operand names.
func one(ctx context.Context, g *cli.Global, operand string) (*task.Task, error) {
	d, err := g.Open()
	if err != nil {
		return nil, err
	}
	name, err := cli.Name(operand)
	if err != nil {
		return nil, err
	}
	return task.Find(ctx, d, g.Namespace, name)
}

// simple is a verb whose operands are containers and which prints nothing.
func simple(g *cli.Global, name, short string, about cli.About, complete func(*cli.Global) cobra.CompletionFunc, deed func(*cobra.Command, *task.Task) error) *cobra.Command {
	about.Args = cli.Count(1, -1)
	about.Complete = complete(g)
	about.Stdin = "with the operand -, names of containers, one a line"
	about.Exit = append(about.Exit, cli.ExitNotFound, cli.ExitBusy, cli.ExitSome)
	return cli.New(name+" [OPTION]... CONTAINER...", short, about, func(cmd *cobra.Command, args []string) error {
		return each(cmd.Context(), g, args, func(t *task.Task) error { return deed(cmd, t) })
	})
}
