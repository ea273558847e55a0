// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"maps"
	"slices"
	"strconv"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/snapshot"
)

// ConfigNote tells of the environment variable that names the configuration in a page.
var ConfigNote = Note{Name: config.EnvFile, Text: "the configuration to read in place of " + config.File + "; commands read the snapshotters of other processes there"}

// serveProxies makes the snapshotters known that the configuration says other processes serve.
func serveProxies() error {
	plugins, err := config.Proxies()
	if err != nil {
		return Hint(err, "ctrd config check says all that is wrong")
	}
	var all []snapshot.Proxy
	for _, name := range slices.Sorted(maps.Keys(plugins)) {
		p := plugins[name]
		annotate, _ := strconv.ParseBool(p.Exports["enable_remote_snapshot_annotations"])
		all = append(all, snapshot.Proxy{
			Name: name, Address: p.Address, Snapshotter: p.Snapshotter, Root: p.Exports["root"],
			Annotate: annotate, Maps: slices.Contains(p.Capabilities, "remap-ids"),
		})
	}
	return snapshot.Serve(all...)
}
