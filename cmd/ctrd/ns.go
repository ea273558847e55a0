// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/state"
)

func nsVerb(g *cli.Global) *cobra.Command {
	ns := cli.Group("ns", "list, make, label and remove namespaces", cli.About{
		Long: "A namespace keeps images, containers, snapshots, blobs and leases apart from those of others; the bytes of blobs and layers are " +
			"on the disk once. It is there as soon as anything is in it. To make one by name is only needed to give it labels first.\n\n" +
			"Two labels are read by ctr-task run and create, ctr-pull, ctr-image import and clients of the API: " + namespace.LabelRuntime + " and " + namespace.LabelSnapshotter +
			" name what they use when they are told nothing else. Options and the environment come first.",
		SeeAlso: []string{"ctrd-gc"},
	})
	for _, verb := range []func(*cli.Global) *cobra.Command{nsCreateVerb, nsLabelVerb, nsLsVerb, nsRmVerb} {
		ns.AddCommand(verb(g))
	}
	return ns
}

// space is a namespace as ls prints it.
type space struct {
	namespace.Namespace
	Contents []string `json:"contents"` // in words: "2 images"
}

func nsLsVerb(g *cli.Global) *cobra.Command {
	var filtered func() (filter.Filter, error)
	table := cli.Table[space]{Columns: []cli.Column[space]{
		{Name: "name", Value: func(n space) string { return n.Name }},
		{Name: "contents", Value: func(n space) string { return strings.Join(n.Contents, ", ") }},
		{Name: "labels", Value: func(n space) string { return cli.LabelText(n.Labels) }, Help: "key=value, separated by commas"},
		{Name: "created", Value: func(n space) string {
			if n.Created.IsZero() {
				return ""
			}
			return n.Created.Format(time.RFC3339)
		}, Help: "of one that was made by name or has labels", Hidden: true},
	}}
	cmd := cli.New("ls [OPTION]...", "list namespaces", cli.About{
		Long:     "Lists the namespaces that have anything in them or were made by name. No lock is taken.\n\n" + cli.FilterHelp(filter.NamespaceFields),
		Stdout:   "a namespace a line",
		Examples: []cli.Example{{Note: "list all images of the machine", Text: "for n in $(ctrd ns ls -q); do ctr-image -n $n ls; done"}},
		Exit:     []int{cli.ExitCorrupt},
	}, func(cmd *cobra.Command, _ []string) error {
		f, err := filtered()
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		var all []space
		err = d.View(cmd.Context(), func(tx *state.Tx) error {
			all, err = filter.Select(f, namespace.All(tx), func(n namespace.Namespace) filter.Fields {
				return filter.Namespace(n.Name, n.Labels)
			}, func(n namespace.Namespace) (space, error) {
				has, err := namespace.Contents(tx, n.Name)
				return space{n, has}, err
			})
			return err
		})
		if err != nil && !errdefs.IsDataLoss(err) {
			return err
		}
		return errors.Join(table.PrintAll(all), err)
	})
	filtered = cli.FilterOption(cmd, "namespaces", filter.NamespaceFields)
	table.Flags(cmd)
	return cmd
}

func nsCreateVerb(g *cli.Global) *cobra.Command {
	var given []string
	cmd := cli.New("create [OPTION]... NAME...", "make namespaces", cli.About{
		Long:     "Makes each namespace. One that is there already is a failure.",
		Stdin:    "with the operand -, names, one a line",
		Examples: []cli.Example{{Note: "let a namespace have another runtime", Text: "ctrd ns create --label " + namespace.LabelRuntime + "=io.containerd.runc.v2 build"}},
		Args:     cli.Count(1, -1), Exit: []int{cli.ExitExists, cli.ExitBusy, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctrd-ns-label"},
	}, func(cmd *cobra.Command, args []string) error {
		labels, err := cli.ParseLabels(given)
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		return cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			return d.Update(cmd.Context(), nil, func(tx *state.Tx) error {
				_, err := namespace.Create(tx, name, labels)
				return err
			})
		})
	})
	cmd.Flags().StringArrayVar(&given, "label", nil, "set the label `KEY[=VALUE]`")
	cli.CompleteOption(cmd, "label", cobra.NoFileCompletions)
	return cmd
}

func nsLabelVerb(g *cli.Global) *cobra.Command {
	return cli.New("label NAME KEY=VALUE...", "set labels of a namespace", cli.About{
		Long:     "Sets labels of a namespace, which is made if it is not there; KEY= removes a label.",
		Examples: []cli.Example{{Note: "let clients use runc", Text: "ctrd ns label default " + namespace.LabelRuntime + "=io.containerd.runc.v2"}},
		Args:     cli.Count(2, -1), Complete: cli.InTurn(cli.Namespaces(g)), Exit: []int{cli.ExitBusy, cli.ExitCorrupt},
	}, func(cmd *cobra.Command, args []string) error {
		labels, err := cli.ParseLabels(args[1:])
		if err != nil {
			return err
		}
		var paths []string
		for key := range labels {
			paths = append(paths, "labels."+key)
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		return d.Update(cmd.Context(), nil, func(tx *state.Tx) error {
			_, err := namespace.Update(tx, args[0], labels, paths...)
			return err
		})
	})
}

func nsRmVerb(g *cli.Global) *cobra.Command {
	var force bool
	cmd := cli.New("rm [OPTION]... NAME...", "remove empty namespaces", cli.About{
		Long: "Removes each namespace that is empty, with its leases. One that has images, containers, snapshots or blobs stays, and the " +
			"message says what it has.",
		Stdin:    "with the operand -, names, one a line",
		Examples: []cli.Example{{Note: "remove a namespace and what is in it", Text: "ctr-image -n old ls -q | ctr-image -n old rm - && ctrd ns rm old"}},
		Args:     cli.Count(1, -1), Complete: cli.Namespaces(g), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome, cli.ExitCorrupt},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		_, err = cli.Remove(cli.Operands(args, os.Stdin), force, func(name string) error {
			return d.Update(cmd.Context(), nil, func(tx *state.Tx) error { return namespace.Remove(tx, name) })
		})
		return err
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a namespace that is not there is no failure")
	return cmd
}
