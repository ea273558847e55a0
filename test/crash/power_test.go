// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// poweredText is a manifest of a pod with a network and a volume of files.
const poweredText = `apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: powered}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: words, configMap: {name: words, items: [{key: word, path: below/word}]}}]
  containers:
  - {name: main, image: %s, command: [sh, -c, "cat /words/below/word; exec sleep 1000"], volumeMounts: [{name: words, mountPath: /words}]}
`

// poweredNetwork keeps its addresses on the disk.
const poweredNetwork = `{"cniVersion": "1.0.0", "name": "powered", "plugins": [
	{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.218.7.0/24"}]]}},
	{"type": "tuning"}]}`

// nextBoot is run after the power cut, in a boot with another id.
const nextBoot = `set -e
cat /proc/sys/kernel/random/uuid >boot
mount --bind boot /proc/sys/kernel/random/boot_id
ctrd fsck
ctr-cri run -f manifest.yaml
c=$(ctr-cri ps -q --name main)
test "$(ctr-cri exec -s $c cat /words/below/word)" = powered
ctrd gc
ctr-cri down --force -f manifest.yaml
ctrd gc
ctrd fsck
`

// The power fails just after a pod was run, on a file system that leaves files empty which were not synced: XFS. In the next boot the pod
// is run again from what is on the disk, and what the network had given the first is given back.
func TestPowerCut(t *testing.T) {
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		t.Skipf("needs mkfs.xfs: %v", err)
	}
	w := world.New(t, bin)
	networked(t, w)
	at, disk, cut := filepath.Join(w.Dir, "at"), filepath.Join(w.Dir, "disk"), filepath.Join(w.Dir, "cut")
	w.Root, w.Env = filepath.Join(at, "root"), append(w.Env, "NETCONFPATH="+filepath.Join(w.Dir, "nets"))
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	mounted := false
	unmount := func() {
		if mounted {
			mounted = false
			run("umount", at)
		}
	}
	t.Cleanup(unmount)
	run("mkdir", at, filepath.Join(w.Dir, "nets"))
	run("truncate", "-s", "512M", disk)
	run(mkfs, "-q", disk)
	run("mount", "-o", "loop", disk, at)
	mounted = true
	addresses := filepath.Join(at, "addresses")
	for name, text := range map[string]string{
		manifestFile: fmt.Sprintf(poweredText, small), "next": nextBoot, "nets/10-powered.conflist": fmt.Sprintf(poweredNetwork, addresses),
	} {
		if err := os.WriteFile(filepath.Join(w.Dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.Must(t, "ctr-cri", "pull", small)
	w.Must(t, in(w, words(inHost+"ctr-cri run -f "+fileOf(manifestFile)))...)

	// The files of host-local are its own business.
	given, _ := filepath.Glob(filepath.Join(addresses, "powered/10.*"))
	if len(given) != 1 {
		t.Fatalf("addresses: %q; want one", given)
	}
	run("sync", given[0])
	run("cp", "--sparse=always", disk, cut)
	for _, pid := range w.Processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended with another one
	}
	until(t, "the end of all processes", func() bool { return len(w.Processes()) == 0 })
	for _, cgroup := range slices.Backward(w.Cgroups()) {
		if err := os.Remove(cgroup); err != nil {
			t.Fatal(err)
		}
	}
	all, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if dir := strings.Fields(line)[1]; strings.HasPrefix(dir, w.State+"/") {
			run("umount", dir)
		}
	}
	unmount()
	run("rm", "-r", w.State)
	run("mount", "-o", "loop,nouuid", cut, at)
	mounted = true

	next := w.Command(t.Context(), nil, in(w, words(inHost+"/usr/bin/unshare -m sh -x next"))...)
	next.Dir = w.Dir
	if out, err := next.CombinedOutput(); err != nil {
		t.Errorf("after the power cut: %v:\n%s", err, out)
	}
	for _, pattern := range []string{filepath.Join(w.Root, "networks/pods/*"), filepath.Join(addresses, "powered/10.*")} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	}
}

// until waits for what comes by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(world.Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
	}
}
