// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// inspection is what inspect prints of a container.
type inspection struct {
	task.Info
	Namespace string      `json:"namespace"`
	Log       string      `json:"log"`
	Spec      *specs.Spec `json:"spec"`
}

func inspectVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[inspection]{Columns: []cli.Column[inspection]{
		{Name: "id", Value: func(i inspection) string { return i.ID }},
		{Name: "status", Value: func(i inspection) string { return statusText(&i.Info) }},
		{Name: "spec", Value: func(i inspection) string { data, _ := json.Marshal(i.Spec); return string(data) }, Hidden: true},
	}}
	cmd := cli.New("inspect [OPTION]... CONTAINER...", "show all that is known of containers", cli.About{
		Long:  "Prints the record, the state and the OCI spec of each container as JSON: indented, or with --json one value a line.",
		Stdin: "with the operand -, names of containers, one a line", Stdout: "a JSON value for each container",
		Examples: []cli.Example{
			{Note: "show everything", Text: "ctr-task inspect r"},
			{Note: "show one thing", Text: "ctr-task inspect --format '{{.pid}}' r"},
		},
		Args: cli.Count(1, -1), Complete: cli.Containers(g), Exit: []int{cli.ExitNotFound, cli.ExitSome},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		return table.Inspect(args, func(id string) (inspection, error) { return inspect(cmd, g, d, id) })
	})
	table.Flags(cmd)
	return cmd
}

func inspect(cmd *cobra.Command, g *cli.Global, d *state.Dir, id string) (inspection, error) {
	t, err := task.Find(cmd.Context(), d, g.Namespace, id)
	if err != nil {
		return inspection{}, err
	}
	info, err := t.Info(cmd.Context())
	if err != nil {
		return inspection{}, err
	}
	s, err := t.Spec(cmd.Context())
	return inspection{Info: info, Namespace: g.Namespace, Log: t.Log(), Spec: s}, err
}
