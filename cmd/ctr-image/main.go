// SPDX-License-Identifier: Apache-2.0

// Command ctr-image looks after the images that are here.
package main

import (
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
)

func main() {
	root, g := cli.Root("ctr-image VERB [OPTION]... [OPERAND]...", "list, show, name, move and remove images", cli.About{
		Long: "An image is a name for what ctr-pull has brought: a manifest, or an index of manifests for several platforms.\n\n" +
			"An image is named as it is listed, or in the short form that docker users know (redis:7 is " +
			"docker.io/library/redis:7), by its digest, or by four or more digits that only its digest begins with. The " +
			"operand - reads names from stdin, one a line.",
		SeeAlso: []string{"ctr-pull", "ctr-snap", "ctr-task", "ctrd"},
	}, nil)
	for _, verb := range []func(*cli.Global) *cobra.Command{lsVerb, inspectVerb, importVerb, exportVerb, commitVerb, tagVerb, labelVerb, treeVerb, historyVerb, checkVerb, usageVerb, mountVerb, unmountVerb, pruneVerb, rmVerb, blobVerb} {
		root.AddCommand(verb(g))
	}
	cli.Main(root)
}

// operands is what the verbs say of names on stdin.
const operands = "with the operand -, names of images, one a line"
