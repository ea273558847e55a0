// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func leaseVerb(g *cli.Global) *cobra.Command {
	l := cli.Group("lease", "hold things so that no collection removes them", cli.About{
		Long: "A lease holds blobs, snapshots, images and unfinished ingests of a namespace, with what they refer to, until it is removed or " +
			"has expired. Clients of containerd's API make leases for what they have not finished. What a command of this family works on is " +
			"held by the command itself, and is not listed here.",
		SeeAlso: []string{"ctrd-gc", "ctrd-du"},
	})
	for _, verb := range []func(*cli.Global) *cobra.Command{leaseAddVerb, leaseCreateVerb, leaseDropVerb, leaseLsVerb, leaseResourcesVerb, leaseRmVerb} {
		l.AddCommand(verb(g))
	}
	return l
}

// held is a lease as ls prints it.
type held struct {
	lease.Record
	Resources int `json:"resources"`
}

func leaseLsVerb(g *cli.Global) *cobra.Command {
	var filtered func() (filter.Filter, error)
	table := cli.Table[held]{Columns: []cli.Column[held]{
		{Name: "id", Value: func(l held) string { return l.ID }},
		{Name: "created", Value: func(l held) string { return l.Created.Format(time.RFC3339) }},
		{Name: "expires", Value: expires, Help: "in how long; ago: the next collection removes it"},
		{Name: "resources", Value: func(l held) string { return strconv.Itoa(l.Resources) }, Help: "how many", Right: true},
		{Name: "labels", Value: func(l held) string { return cli.LabelText(l.Labels) }, Help: "key=value, separated by commas", Hidden: true},
	}}
	cmd := cli.New("ls [OPTION]...", "list leases", cli.About{
		Long:     "Lists the leases of the namespace by id. No lock is taken.\n\n" + cli.FilterHelp(filter.LeaseFields),
		Stdout:   "a lease a line",
		Examples: []cli.Example{{Note: "list leases that never expire", Text: "ctrd lease ls --json | jq -r 'select(.labels[\"" + lease.LabelExpire + "\"] == null).id'"}},
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
		var all []held
		err = d.View(cmd.Context(), func(tx *state.Tx) error {
			all, err = filter.Select(f, lease.All(tx, g.Namespace), func(l lease.Record) filter.Fields {
				return filter.Lease(l.ID, l.Labels)
			}, func(l lease.Record) (held, error) {
				has, err := l.Resources(tx, g.Namespace)
				return held{l, len(has)}, err
			})
			return err
		})
		if err != nil && !errdefs.IsDataLoss(err) {
			return err
		}
		return errors.Join(table.PrintAll(all), err)
	})
	filtered = cli.FilterOption(cmd, "leases", filter.LeaseFields)
	table.Flags(cmd)
	return cmd
}

func expires(l held) string {
	end, err := time.Parse(time.RFC3339, l.Labels[lease.LabelExpire])
	switch left := time.Until(end); {
	case err != nil:
		return "never"
	case left < 0:
		return units.HumanDuration(-left) + " ago"
	default:
		return "in " + units.HumanDuration(left)
	}
}

func leaseCreateVerb(g *cli.Global) *cobra.Command {
	var given []string
	var after string
	var flat bool
	cmd := cli.New("create [OPTION]... [ID]", "make a lease", cli.About{
		Long:   "Makes a lease that holds nothing yet, and prints its id. Without ID, the id is random.",
		Stdout: "the id",
		Examples: []cli.Example{
			{Note: "keep a blob for a day", Text: "l=$(ctrd lease create --expires 24h)\nctr-image blob put --lease $l <file"},
		},
		Args: cli.Count(0, 1), Exit: []int{cli.ExitExists, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctrd-lease-add", "ctr-image-blob-put"},
	}, func(cmd *cobra.Command, args []string) error {
		labels, err := cli.ParseLabels(given)
		if err != nil {
			return err
		}
		if after != "" {
			span, err := cli.ParseDuration(after)
			if err != nil {
				return cli.Usagef("--expires: %w", err)
			}
			labels[lease.LabelExpire] = time.Now().Add(span).UTC().Format(time.RFC3339)
		}
		if flat {
			labels[lease.LabelFlat] = "1"
		}
		id := strings.ToLower(rand.Text()[:16])
		if len(args) > 0 {
			id = args[0]
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		err = d.Update(cmd.Context(), nil, func(tx *state.Tx) error {
			_, err := lease.Create(tx, g.Namespace, id, labels)
			return err
		})
		if err == nil {
			_, err = fmt.Println(id)
		}
		return err
	})
	cmd.Flags().StringVar(&after, "expires", "", "let it expire after `DURATION` (24h, 30m)")
	cmd.Flags().BoolVar(&flat, "flat", false, "hold the resources without what their labels refer to")
	cmd.Flags().StringArrayVar(&given, "label", nil, "set the label `KEY[=VALUE]`")
	cli.CompleteOption(cmd, "expires", cobra.FixedCompletions([]string{"1h", "24h"}, cobra.ShellCompDirectiveNoFileComp))
	cli.CompleteOption(cmd, "label", cobra.NoFileCompletions)
	return cmd
}

func leaseRmVerb(g *cli.Global) *cobra.Command {
	var force bool
	cmd := cli.New("rm [OPTION]... LEASE...", "remove leases", cli.About{
		Long:     "Removes each lease, and then what nothing else holds, as ctrd gc does.",
		Stdin:    "with the operand -, ids, one a line",
		Examples: []cli.Example{{Note: "remove all leases", Text: "ctrd lease ls -q | ctrd lease rm -"}},
		Args:     cli.Count(1, -1), Complete: cli.Leases(g), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome, cli.ExitCorrupt},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		removed, err := cli.Remove(cli.Operands(args, os.Stdin), force, func(id string) error {
			return d.Update(cmd.Context(), nil, func(tx *state.Tx) error { return lease.Remove(tx, g.Namespace, id) })
		})
		if !removed {
			return err
		}
		_, collected := gc.Run(cmd.Context(), d, gc.Options{Damaged: cli.Warn})
		return cli.After(err, collected)
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a lease that is not there is no failure")
	return cmd
}

// resource is what an operand TYPE and an id mean.
func resource(typ, id string) lease.Resource {
	switch typ {
	case "snapshot":
		typ = lease.SnapshotType(snapshot.Overlayfs)
	case "image":
		typ = lease.ImageType
	case "ingest":
		typ = lease.IngestType
	}
	return lease.Resource{Type: typ, ID: id}
}

// types is what the verbs say of the operand TYPE.
const types = "TYPE is content (a digest), snapshot (a key), image (a full name), ingest (a ref), or a type as containerd writes it, such as snapshots/overlayfs."

func leaseAddVerb(g *cli.Global) *cobra.Command {
	return leaseChange(g, "add LEASE TYPE ID...", "let a lease hold more", cli.About{
		Long:     "Adds resources to a lease. " + types + " What is added need not be there.",
		Examples: []cli.Example{{Note: "keep a snapshot", Text: "ctrd lease add mine snapshot work"}},
		SeeAlso:  []string{"ctrd-lease-drop"},
	}, lease.Add)
}

func leaseDropVerb(g *cli.Global) *cobra.Command {
	return leaseChange(g, "drop LEASE TYPE ID...", "let a lease hold less", cli.About{
		Long:     "Takes resources from a lease; one that it does not hold is no failure. " + types + " Nothing is removed before the next collection.",
		Examples: []cli.Example{{Note: "let a snapshot go", Text: "ctrd lease drop mine snapshot work"}},
		SeeAlso:  []string{"ctrd-lease-add"},
	}, lease.Drop)
}

func leaseChange(g *cli.Global, use, short string, about cli.About, change func(*state.Tx, string, string, lease.Resource) error) *cobra.Command {
	about.Args, about.Exit = cli.Count(3, -1), []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt}
	about.Complete = cli.InTurn(cli.Leases(g), cobra.FixedCompletions([]string{"content", "snapshot", "image", "ingest"}, cobra.ShellCompDirectiveNoFileComp), cli.Blobs(g))
	return cli.New(use, short, about, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		return d.Update(cmd.Context(), nil, func(tx *state.Tx) error {
			for _, id := range args[2:] {
				if err := change(tx, g.Namespace, args[0], resource(args[1], id)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func leaseResourcesVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[lease.Resource]{Columns: []cli.Column[lease.Resource]{
		{Name: "id", Value: func(r lease.Resource) string { return r.ID }},
		{Name: "type", Value: func(r lease.Resource) string { return r.Type }},
	}}
	cmd := cli.New("resources [OPTION]... LEASE", "list what a lease holds", cli.About{
		Long:     "Lists the resources of a lease, by type and id.",
		Stdout:   "a resource a line",
		Examples: []cli.Example{{Note: "show them", Text: "ctrd lease resources mine"}},
		Args:     cli.Count(1, 1), Complete: cli.Leases(g), Exit: []int{cli.ExitNotFound, cli.ExitCorrupt},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		var all []lease.Resource
		err = d.View(cmd.Context(), func(tx *state.Tx) error {
			l, err := lease.Get(tx, g.Namespace, args[0])
			if err != nil {
				return err
			}
			all, err = l.Resources(tx, g.Namespace)
			return err
		})
		if err != nil {
			return err
		}
		return table.PrintAll(all)
	})
	table.Flags(cmd)
	return cmd
}
