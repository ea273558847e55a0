// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

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
// that task is still there. A container without a task is not meant: it may be a later one of the same id. What stands
// in for the supervisor of a foreign shim is in the cgroup of the supervisors, and may be the last there.
func ofTask(ctx context.Context, d *state.Dir, ns, id, incarnation string, deed func(*task.Task) error) error {
	defer func() { _ = cgroup.Leave() }()
	t, err := task.Open(ctx, d, ns, id)
	if cli.Status(err) == cli.ExitNotFound {
		return nil
	}
	if err != nil || t.Incarnation() != taskdir.Incarnation(incarnation) {
		return err
	}
	return errors.Join(deed(t), t.Close())
}
