// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctrd.dev/ctrd/test/world"
)

// The files that describe a pod, with the host's network, and a container of it.
const (
	podFile       = "pod.json"
	containerFile = "container.json"
)

// described writes them into the world's directory.
func described(t *testing.T, w *world.World) {
	pod := `{"metadata":{"name":"p","uid":"u","namespace":"n"},"linux":{"security_context":{"namespace_options":{"network":2}}}}`
	container := fmt.Sprintf(`{"metadata":{"name":"c"},"image":{"image":%q},"command":["sleep","1000"]}`, small)
	for name, text := range map[string]string{podFile: pod, containerFile: container} {
		if err := os.WriteFile(filepath.Join(w.Dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// fileOf is the path of a file of the world, for a command line.
func fileOf(name string) string { return filepath.Join(os.TempDir(), "WORLD", name) }

// pods are made, given a container and removed. Each is done again by the very same command.
func pods() []scenario {
	run := "ctr-cri runp " + fileOf(podFile)
	both := "ctr-cri run --no-pull " + fileOf(containerFile) + " " + fileOf(podFile)
	remove := "ctr-cri rmp -f -a"
	pull := do("ctr-cri pull " + small)
	return []scenario{
		{name: "pod", lives: true, before: []step{described}, command: words(run), again: []step{do(run), onePod}},
		{name: "removal of a pod", before: []step{described, do(run)}, command: words(remove), again: []step{do(remove), noPods, do(run), onePod}},
		{name: "container of a pod", lives: true, before: []step{described, pull}, command: words(both), again: []step{do(both), onePod}},
		{name: "collection of a pod", before: []step{described, dead("pod.shm", run)}, command: words("ctrd gc"), again: []step{do("ctrd gc"), do(remove), noPods}},
	}
}

// onePod wants one pod, which is ready.
func onePod(t *testing.T, w *world.World) {
	ready := strings.Fields(w.Must(t, "ctr-cri", "pods", "-q", "--state", "ready"))
	if all := strings.Fields(w.Must(t, "ctr-cri", "pods", "-q")); len(ready) != 1 || len(all) != 1 {
		t.Fatalf("pods %v, of which are ready %v; want one", all, ready)
	}
}

// noPods wants none.
func noPods(t *testing.T, w *world.World) {
	if all := w.Must(t, "ctr-cri", "pods", "-q"); all != "" {
		t.Fatalf("pods that are left: %s", all)
	}
}
