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
	f.StringVar(name, "snapshotter", os.Getenv(EnvSnapshotter), "keep layers and roots with the `DRIVER`: overlayfs, native, which copies them, btrfs, for a root that is on btrfs, erofs, which keeps a layer in one file, or one of proxy_plugins in the configuration")
	f.Lookup("snapshotter").DefValue = snapshot.Overlayfs
	CompleteOption(cmd, "snapshotter", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		_ = serveProxies() // completion offers what it can
		var names []string
		for _, sn := range snapshot.Snapshotters() {
			names = append(names, sn.Name())
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// CheckSnapshotter refuses a --snapshotter that there is not, before anything is done.
func CheckSnapshotter(name string) error {
	if err := serveProxies(); err != nil {
		return err
	}
	if _, err := snapshot.Named(name); err != nil {
		return Usagef("--%v", err)
	}
	return nil
}

// SnapshotterNote tells of the environment variable in a page.
var SnapshotterNote = Note{Name: EnvSnapshotter, Text: "the default of --snapshotter"}

// UnpackNotes tell of the environment variables of a command that unpacks layers.
var UnpackNotes = []Note{SnapshotterNote, {Name: "CONTAINERD_DISABLE_IGZIP", Text: "1: gzip layers are not decompressed by igzip, which else is used where it is installed"}}
