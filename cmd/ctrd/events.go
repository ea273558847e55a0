// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/filter"
)

func eventsVerb(g *cli.Global) *cobra.Command {
	var follow, everywhere bool
	var since uint64
	var filtered func() (filter.Filter, error)
	table := cli.Table[event.Event]{Columns: []cli.Column[event.Event]{
		{Name: "seq", Value: func(e event.Event) string { return strconv.FormatUint(e.Seq, 10) }, Help: "its number in the journal", Right: true},
		{Name: "time", Value: func(e event.Event) string { return e.Time.Format(time.RFC3339Nano) }},
		{Name: "namespace", Value: func(e event.Event) string { return e.Namespace }},
		{Name: "topic", Value: func(e event.Event) string { return e.Topic }, Help: "as containerd names it"},
		{Name: "event", Value: func(e event.Event) string { return string(e.Data) }, Help: "containerd's message as JSON"},
		{Name: "type", Value: func(e event.Event) string { return e.Type }, Help: "the message's full protobuf name", Hidden: true},
	}}
	cmd := cli.New("events [OPTION]... [FILTER]...", "show what has happened", cli.About{
		Long: "Prints the changes that any process made since the machine was started, oldest first, as far back as the " +
			"journal reaches, and with -f what happens from then on. A FILTER is the beginning of a topic, such as /tasks or " +
			"/tasks/exit, or KEY=VALUE for a field of the message, such as container_id=r; an event is shown when it fits " +
			"one of the topics given, if any, and all of the fields.\n\n" + cli.FilterHelp(filter.EventFields) +
			" An event must fit the operands, too, and is of the namespace of -n, unless -A is given.",
		Stdout: "an event a line",
		Examples: []cli.Example{
			{Note: "watch containers come and go", Text: "ctrd events -f /tasks"},
			{Note: "go on where the last look ended", Text: "ctrd events --since 1042 --json"},
			{Note: "how did it end", Text: "ctrd events /tasks/exit container_id=r"},
			{Note: "which programs have failed", Text: "ctrd events --filter 'topic==\"/tasks/exit\",event.exit_status!=0'"},
		},
		Args: cli.Count(0, -1),
		Complete: cobra.FixedCompletions([]string{"/containers/", "/content/", "/images/", "/snapshot/", "/tasks/", "/tasks/exit", "/tasks/start"},
			cobra.ShellCompDirectiveNoFileComp),
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		f, err := filtered()
		if err != nil {
			return err
		}
		fits, err := parseFilter(args)
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("since") && follow {
			if since, err = d.Journal().Last(); err != nil {
				return err
			}
		}
		for e, err := range d.Journal().Read(cmd.Context(), since, follow) {
			if err != nil {
				return err
			}
			if !everywhere && e.Namespace != g.Namespace || !fits(e) ||
				!f.Match(filter.Event(e.Namespace, e.Topic, e.Data)) {
				continue
			}
			if err := table.PrintAll([]event.Event{e}); err != nil {
				return err
			}
		}
		return cmd.Context().Err()
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print what happens from now on, until interrupted")
	cmd.Flags().Uint64Var(&since, "since", 0, "print the events after `NUMBER`; with -f, before what follows")
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "print the events of every namespace")
	filtered = cli.FilterOption(cmd, "events", filter.EventFields)
	table.Flags(cmd)
	return cmd
}

// parseFilter gives the test that the operands describe.
func parseFilter(args []string) (func(event.Event) bool, error) {
	var topics []string
	fields := map[string]string{}
	for _, a := range args {
		key, value, isField := strings.Cut(a, "=")
		switch {
		case strings.HasPrefix(a, "/"):
			topics = append(topics, a)
		case isField && key != "":
			fields[key] = value
		default:
			return nil, cli.Usagef("%q is no filter: give the beginning of a topic, such as /tasks, or KEY=VALUE", a)
		}
	}
	return func(e event.Event) bool {
		fit := len(topics) == 0
		for _, t := range topics {
			fit = fit || strings.HasPrefix(e.Topic, t)
		}
		for key, value := range fields {
			fit = fit && e.Field(key) == value
		}
		return fit
	}, nil
}
