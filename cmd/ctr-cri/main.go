// SPDX-License-Identifier: Apache-2.0

// Command ctr-cri handles pods and their containers as the kubelet does, with crictl's verbs, on the state directory
// or on the socket of any CRI runtime.
package main

import (
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
)

func main() {
	root, g := cli.Root("ctr-cri VERB [OPTION]... [OPERAND]...", "run and look after pods", cli.About{
		Long: "A pod is a group of containers that share a network and are run together; the kubelet asks for them through the " +
			"Kubernetes Container Runtime Interface, the CRI. ctr-cri makes the same requests, with the verbs, options and " +
			"output of crictl. It carries them out itself on the state directory and needs no daemon; with --endpoint it " +
			"is a client of the CRI socket that is named.\n\n" +
			"A pod or a container is given by its id, of which the beginning will do where only one begins so.",
		Env: append([]cli.Note{{Name: envEndpoint, Text: "default of --endpoint"}}, cli.UnpackNotes...),
		SeeAlso: []string{
			"ctrd-serve", "ctr-task", "ctr-image",
		},
		OneNamespace: true,
	}, nil)
	o := &options{g: g}
	o.add(root)
	for _, verb := range []func(*options) *cobra.Command{
		podsVerb, runpVerb, stoppVerb, rmpVerb, inspectpVerb,
		psVerb, createVerb, startVerb, stopVerb, rmVerb, inspectVerb, updateVerb, checkpointVerb, runVerb, downVerb, keepVerb,
		execVerb, attachVerb, portForwardVerb, logsVerb,
		imagesVerb, pullVerb, rmiVerb, inspectiVerb, imagefsinfoVerb,
		statsVerb, statspVerb, metricspVerb, metricdescsVerb,
		infoVerb, versionVerb, runtimeConfigVerb, updateRuntimeConfigVerb, eventsVerb,
	} {
		root.AddCommand(verb(o))
	}
	cli.Main(root)
}
