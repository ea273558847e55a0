// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"iter"
	"slices"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
)

// nothing offers no name.
func nothing(*state.Tx, string) iter.Seq2[string, string] {
	return func(func(string, string) bool) {}
}

var images, containers, tasks, snapshots = nothing, nothing, nothing, nothing

// namespaces completes the namespaces that hold a container.
func namespaces(g *Global) cobra.CompletionFunc {
	return Names(g, func(tx *state.Tx, _ string) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			names, _ := state.Table[container.Container]{Name: "containers"}.Namespaces(tx)
			if !slices.Contains(names, DefaultNamespace) {
				names = append(names, DefaultNamespace)
			}
			for _, n := range names {
				if !yield(n, "namespace") {
					return
				}
			}
		}
	})
}

func checkNamespace(ns string) error {
	if err := container.CheckID(ns); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	return nil
}
