// SPDX-License-Identifier: Apache-2.0

// Command ctr-snap handles snapshots.
package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func main() {
	root, g := cli.Root("ctr-snap VERB [OPTION]... [OPERAND]...", "list, make, mount and remove snapshots", cli.About{
		Long: "A snapshot is a file tree that stands on others, its parents. An active one can be written; a view is for " +
			"reading; a committed one is done, and others can stand on it. The layers of images are committed snapshots, and " +
			"the root of each container is an active one.\n\n" +
			"A snapshot is named by its key. The key of a layer is its chain id (sha256:...), of which the beginning will do " +
			"where only one begins so. Each snapshotter has its own snapshots: overlayfs stacks layers, native copies, btrfs takes snapshots of subvolumes, erofs keeps each layer in one file. The operand - reads names from stdin, one a line.",
		Env:     []cli.Note{cli.SnapshotterNote},
		SeeAlso: []string{"ctr-image", "ctr-pull", "ctr-task", "ctrd"},
	}, nil)
	cli.SnapshotterFlag(root, root.PersistentFlags(), &snapshotter)
	for _, verb := range []func(*cli.Global) *cobra.Command{
		lsVerb, treeVerb, infoVerb, usageVerb, diffVerb, prepareVerb, viewVerb, commitVerb, mountsVerb, mountVerb, unmountVerb, rmVerb,
	} {
		root.AddCommand(verb(g))
	}
	cli.Main(root)
}

// operands is what the verbs say of names on stdin.
const operands = "with the operand -, keys of snapshots, one a line"

// open opens the state directory and gives the snapshotter that --snapshotter names, or else the namespace's label.
func open(ctx context.Context, g *cli.Global) (*state.Dir, *snapshot.Snapshotter, error) {
	if err := cli.CheckSnapshotter(snapshotter); err != nil {
		return nil, nil, err
	}
	d, err := g.Open()
	if err != nil {
		return nil, nil, err
	}
	sn, err := namespace.Snapshotter(ctx, d, g.Namespace, snapshotter)
	return d, sn, err
}

// snapshotter is the option --snapshotter, which all verbs have.
var snapshotter string

// find looks a snapshot up by what a person calls it.
func find(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns, name string) (s snapshot.Info, err error) {
	err = d.View(ctx, func(tx *state.Tx) error {
		s, err = sn.Find(tx, ns, name)
		return err
	})
	return s, err
}

// checkNew refuses a key that no operand could name.
func checkNew(key string) error {
	if key == "-" {
		return cli.Usagef("a snapshot cannot be named -")
	}
	return nil
}

// usedBy objects to changes of a snapshot that is a container's.
func usedBy(sn *snapshot.Snapshotter, ns string) func(*state.Tx, snapshot.Info) error {
	return func(tx *state.Tx, s snapshot.Info) error {
		for c, err := range container.All(tx, ns) {
			if err != nil {
				return err
			}
			if c.SnapshotKey == s.Key && sn.Has(c.Snapshotter) {
				return cli.Hint(fmt.Errorf("snapshot %q: it is the root of container %q: %w", s.Key, c.ID, errdefs.ErrFailedPrecondition),
					"ctr-task rm %s removes both", c.ID)
			}
		}
		return nil
	}
}

// parseLabels reads KEY[=VALUE] options.
func parseLabels(options []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if key == "" {
			return nil, cli.Usagef("--label %q has no key", o)
		}
		labels[key] = value
	}
	return labels, nil
}

func labelFlag(cmd *cobra.Command, labels *[]string) {
	cmd.Flags().StringArrayVar(labels, "label", nil, "set the label `KEY[=VALUE]`")
	cli.CompleteOption(cmd, "label", cobra.NoFileCompletions)
}
