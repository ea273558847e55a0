// SPDX-License-Identifier: Apache-2.0

// Command ctrd looks after the state directory.
package main

import (
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
)

func main() {
	root, g := cli.Root("ctrd VERB [OPTION]...", "look after the state directory", cli.About{
		Long: "The commands of this family share a state directory and need no daemon. ctrd shows what is in it, who is " +
			"working in it and what has happened, checks that it is whole, and removes what nothing needs.",
		SeeAlso: []string{"ctr-pull", "ctr-image", "ctr-snap", "ctr-task"},
	}, nil)
	for _, verb := range []func(*cli.Global) *cobra.Command{configVerb, duVerb, eventsVerb, fsckVerb, gcVerb, leaseVerb, locksVerb, nsVerb, serveVerb, statusVerb} {
		root.AddCommand(verb(g))
	}
	cli.Main(root)
}
