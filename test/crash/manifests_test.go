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

// manifestFile is a Kubernetes manifest of a pod with the host's network, a volume in memory, an init container and a container.
const manifestFile = "manifest.yaml"

const manifestText = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  volumes: [{name: scratch, emptyDir: {medium: Memory}}]
  initContainers:
  - {name: first, image: %[1]s, command: [touch, /scratch/first], volumeMounts: [{name: scratch, mountPath: /scratch}]}
  containers:
  - {name: main, image: %[1]s, command: [sh, -c, "test -e /scratch/first && exec sleep 1000"], volumeMounts: [{name: scratch, mountPath: /scratch}]}
`

// manifests are run and ended; who is killed is the command, or the keeper that it leaves beside the pod.
func manifests() []scenario {
	written := func(t *testing.T, w *world.World) {
		if err := os.WriteFile(filepath.Join(w.Dir, manifestFile), fmt.Appendf(nil, manifestText, small), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run, down := "ctr-cri run -f "+fileOf(manifestFile), "ctr-cri down --force -f "+fileOf(manifestFile)
	before := []step{written, do("ctr-cri pull " + small)}
	only := []string{"manifest."}
	ended := []step{do(down), noPods, noHomes}
	end := append(ended, do("ctr-cri rmi -a"))
	return []scenario{
		{name: "manifest", lives: true, before: before, command: words(run), again: []step{do(run), onePod, onePlace}, only: only, end: end},
		{name: "end after a killed start", lives: true, before: before, command: words(run), again: ended, only: only, end: end},
		{name: "end of a manifest", before: append(before, do(run)), command: words(down), again: append(ended, do(run), onePod, onePlace), only: only, end: end},
	}
}

// onePlace wants one home, which is kept, and in its pod the init container, which has run once, and the container, which runs.
func onePlace(t *testing.T, w *world.World) {
	homes, err := os.ReadDir(filepath.Join(w.Root, "manifests"))
	if err != nil || len(homes) != 1 {
		t.Fatalf("homes: %v, %v; want one", homes, err)
	}
	all := strings.Fields(w.Must(t, "ctr-cri", "ps", "-a", "-q"))
	running := strings.Fields(w.Must(t, "ctr-cri", "ps", "-q", "--name", "main"))
	if len(all) != 2 || len(running) != 1 {
		t.Fatalf("containers %v, of which %v is main and runs; want two, and one", all, running)
	}
	if r := w.Run(t, nil, "ctr-cri", "exec", "-s", running[0], "test", "-e", "/scratch/first"); r.Status != 0 {
		t.Fatalf("the volume lacks what the init container has written: %s", r)
	}
}

// noHomes wants nothing of a manifest to be left.
func noHomes(t *testing.T, w *world.World) {
	homes, err := os.ReadDir(filepath.Join(w.Root, "manifests"))
	if err != nil && !os.IsNotExist(err) || len(homes) > 0 {
		t.Fatalf("homes that are left: %v, %v", homes, err)
	}
}
