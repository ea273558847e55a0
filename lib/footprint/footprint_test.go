// SPDX-License-Identifier: Apache-2.0

package footprint

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// mapped is how much of files is in the memory of this process, in KiB.
func mapped(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

func TestForgetCode(t *testing.T) {
	before := mapped(t)
	for range 2 {
		if err := ForgetCode(); err != nil {
			t.Fatal(err)
		}
	}
	// A parallel test or the runtime brings some of it back.
	if after := mapped(t); after >= before {
		t.Errorf("%d KiB of files in memory, before %d", after, before)
	}
}
