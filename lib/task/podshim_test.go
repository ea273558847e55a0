// SPDX-License-Identifier: Apache-2.0

package task

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskdir"
)

// Of a pod's supervisor that is killed before it has said a word the error says so. It is no fault of who asks for the pod.
func TestPodShimKilled(t *testing.T) {
	d := openDir(t)
	shim := filepath.Join(t.TempDir(), "ctr-shim")
	if err := os.WriteFile(shim, []byte("#!/bin/sh\nkill -9 $$\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := StartPod(t.Context(), d, taskdir.Pod{Namespace: "default", ID: "p"}, t.TempDir(), shim)
	if err == nil || errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "it was killed by signal 9 (killed): it said nothing") {
		t.Errorf("the error is: %v", err)
	}
}
