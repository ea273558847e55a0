// SPDX-License-Identifier: Apache-2.0

package world

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// FindCriu gives the path of a criu that works on this kernel, from the directory CTRD_ENGINES or from PATH, or says why there
// is none.
func FindCriu() (path, why string) {
	candidates := []string{filepath.Join(os.Getenv("CTRD_ENGINES"), "criu"), "/usr/sbin/criu"}
	if onPath, err := exec.LookPath("criu"); err == nil {
		candidates = append(candidates, onPath)
	}
	why = "needs criu (make deps-test)"
	for _, path := range candidates {
		if _, err := os.Stat(path); err != nil || !filepath.IsAbs(path) {
			continue
		}
		out, err := exec.Command(path, "check").CombinedOutput()
		if err == nil {
			return path, ""
		}
		why = "needs a criu that works on this kernel; " + path + " says: " + string(bytes.TrimSpace(out))
	}
	return "", why
}

// Criu has what the test starts use a criu that works on this kernel; where there is none the test is skipped.
func Criu(tb testing.TB) (path string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	path, why := FindCriu()
	if why != "" {
		tb.Skip(why)
	}
	tb.(interface{ Setenv(key, value string) }).Setenv("CTRD_CRIU", path)
	return path
}
