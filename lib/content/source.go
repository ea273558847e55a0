// SPDX-License-Identifier: Apache-2.0

package content

import (
	"slices"
	"strings"

	"ctrd.dev/ctrd/lib/label"
)

// labelSource is where a blob is from: the label's key ends with the registry's host, its value lists
// repositories, separated by commas. containerd leaves the port out of the key.
const labelSource = "containerd.io/distribution.source."

func sourceKey(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	return labelSource + strings.Trim(host, "[]")
}

// Sources lists the repositories of a registry that a blob with these labels is known to be in, as far as
// labels tell: registries of one host that have different ports are not told apart.
func Sources(labels map[string]string, host string) []string {
	var all []string
	for _, key := range slices.Compact([]string{sourceKey(host), labelSource + host}) {
		for s := range strings.SplitSeq(labels[key], ",") {
			if s != "" && !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}

// AddSource gives the label that says that a blob is in a repository of a registry, beside those that its
// labels name already. It is not changed when they name it, or when the list would be too long for a label.
func AddSource(labels map[string]string, host, repository string) (key, value string, changed bool) {
	key = sourceKey(host)
	value = labels[key]
	all := strings.Split(value, ",")
	switch {
	case value == "":
		all = nil
	case slices.Contains(all, repository):
		return key, value, false
	}
	all = append(all, repository)
	slices.Sort(all)
	longer := strings.Join(all, ",")
	if len(key)+len(longer) > label.Max {
		return key, value, false
	}
	return key, longer, true
}
