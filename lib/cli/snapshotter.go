// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ctrd.dev/ctrd/lib/snapshot"
)

// EnvSnapshotter is the environment variable that sets the default of --snapshotter.
const EnvSnapshotter = "CTRD_SNAPSHOTTER"

// SnapshotterFlag declares the option --snapshotter in f, which is one of the command's. Its text is for
// [snapshot.Named]; it is empty where neither the option nor the environment names one.
func SnapshotterFlag(cmd *cobra.Command, f *pflag.FlagSet, name *string) {
	f.StringVar(name, "snapshotter", os.Getenv(EnvSnapshotter), "keep layers and roots with the `DRIVER`: overlayfs, native, which copies them, btrfs, for a root that is on btrfs, or erofs, which keeps a layer in one file")
	f.Lookup("snapshotter").DefValue = snapshot.Overlayfs
	var names []string
	for _, sn := range snapshot.Snapshotters() {
		names = append(names, sn.Name())
	}
	CompleteOption(cmd, "snapshotter", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// SnapshotterNote tells of the environment variable in a page.
var SnapshotterNote = Note{Name: EnvSnapshotter, Text: "the default of --snapshotter"}
