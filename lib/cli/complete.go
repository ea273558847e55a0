// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"iter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ctrd.dev/ctrd/lib/state"
)

// Names makes a completion from a list of names in the state directory, each with a description of a few
// words. It never waits for a lock, makes nothing and says nothing: where something is wrong, nothing is
// offered. Names that are on the command line already are left out.
func Names(g *Global, list func(tx *state.Tx, ns string) iter.Seq2[string, string]) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		given := map[string]bool{}
		for _, a := range args {
			given[a] = true
		}
		var all []cobra.Completion
		view(g, func(tx *state.Tx) {
			all = nil
			for name, text := range list(tx, g.Namespace) {
				if !given[name] {
					all = append(all, cobra.CompletionWithDesc(name, text))
				}
			}
		})
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// InTurn gives each operand, by its place, a completion of its own; there are none after the last.
func InTurn(fns ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(fns) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return fns[len(args)](cmd, args, typed)
	}
}

// CompleteOption sets the completion of an option's value; it panics when there is no such option.
func CompleteOption(cmd *cobra.Command, option string, fn cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(option, fn); err != nil {
		panic("cli: " + err.Error())
	}
}

// plainUsage takes the quotes around the names of values out of the descriptions that completion shows.
func plainUsage(cmd *cobra.Command) {
	plain := func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) }
	cmd.Flags().VisitAll(plain)
	cmd.PersistentFlags().VisitAll(plain)
	for _, c := range cmd.Commands() {
		plainUsage(c)
	}
}

// viewTime bounds how long a completion may look things up: a person waits for it.
const viewTime = 2 * time.Second

// view reads the state directory if there is one of this boot.
func view(g *Global, fn func(tx *state.Tx)) {
	d, err := state.Open(state.Config{Root: g.Root, State: g.State, Wait: 0, Look: true})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), viewTime)
	defer cancel()
	d.View(ctx, func(tx *state.Tx) error { fn(tx); return nil })
}

// HideOption leaves an option out of help, man pages and completion: it is for our own programs.
func HideOption(cmd *cobra.Command, name string) { cmd.Flags().Lookup(name).Hidden = true }
