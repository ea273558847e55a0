// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestNativeMemory: a server that has had no call for some seconds takes little memory, and answers the next.
func TestNativeMemory(t *testing.T) {
	n := withNative(t)
	resident := func() (kib int) {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			t.Fatal(err)
		}
		return kib
	}
	used := resident()
	until(t, "the memory is given back", func() error {
		if now := resident(); now > used/2 {
			return fmt.Errorf("%d KiB, when it began %d", now, used)
		}
		return nil
	})
	if _, err := n.client.Version(t.Context()); err != nil {
		t.Error(err)
	}
}
