// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// engines are the OCI engines that ctr-shim drives, by the names that --runtime takes for them; "ctr" is the
// one that it embeds.
var engines = []string{"ctr", "crun", "runc", "runsc", "youki"}

// CheckRuntime checks the form of --runtime: the name of an engine, a shim by containerd's naming rule
// (io.containerd.NAME.vN), or the absolute path of either. Whether it is there is not looked at.
func CheckRuntime(name string) error {
	switch {
	case slices.Contains(engines, name):
		return nil
	case strings.HasPrefix(name, "io.containerd."):
		// Compiled only where it is needed: every command would pay for it.
		if regexp.MustCompile(`^io\.containerd\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.v[0-9]+$`).MatchString(name) {
			return nil
		}
	case path.IsAbs(name) && path.Clean(name) == name && name != "/" && !strings.ContainsRune(name, 0):
		return nil
	}
	return fmt.Errorf("--runtime %q: want one of %s, a shim such as io.containerd.runc.v2, or an absolute path: %w", name, strings.Join(engines, ", "), errdefs.ErrInvalidArgument)
}
