// SPDX-License-Identifier: Apache-2.0

package world

import (
	"os"
	"path/filepath"
	"testing"
)

// WithoutHybrid gives a crun that does not see the cgroup2 mount of a hybrid host: it refuses a host on which that has
// controllers.
func WithoutHybrid(tb testing.TB, crun string) string {
	tb.Helper()
	const hybrid = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(hybrid); err != nil {
		return crun
	}
	path := filepath.Join(tb.TempDir(), "crun")
	text := "#!/bin/sh\nexec unshare -m --propagation private sh -c 'umount " + hybrid + "; exec \"$@\"' sh " + crun + " \"$@\"\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		tb.Fatal(err)
	}
	return path
}
