// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// hostNetns stands for the network namespace of the host: one for each world, so that bridges and rules are nobody's.
func hostNetns(w *world.World) string {
	return filepath.Join(os.TempDir(), "ctrd-crash-netns-"+filepath.Base(w.Dir))
}

// networked makes the namespace, and takes it away at the end of the test.
func networked(t *testing.T, w *world.World) {
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		t.Skip("needs the package containernetworking-plugins: scripts/deps test installs it")
	}
	file := hostNetns(w)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("umount", file).Run() // where it was never mounted
		os.Remove(file)
	})
	if out, err := exec.Command("unshare", "--net="+file, "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("make a network namespace: %v: %s", err, out)
	}
}

// inHost begins a command that runs in the namespace that stands for the host's.
const inHost = "/usr/bin/nsenter --net=NETNS "

// offNetwork wants nothing to be left of what was attached to a network, after a collection.
func offNetwork(t *testing.T, w *world.World) {
	w.Must(t, in(w, words(inHost+"ctrd gc"))...)
	var left []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if left = attached(t, w); len(left) == 0 {
			return
		}
	}
	t.Fatalf("left on the network:\n%s", strings.Join(left, "\n"))
}

// attached lists records, pins, addresses, links and rules that attachments have.
func attached(t *testing.T, w *world.World) (left []string) {
	for _, dir := range []string{filepath.Join(w.Root, "networks/tasks"), filepath.Join(w.State, "netns/tasks"), filepath.Join(w.State, "ipam/ctrd")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if n := e.Name(); n != "lock" && !strings.HasPrefix(n, "last_reserved_ip") {
				left = append(left, filepath.Join(dir, n))
			}
		}
	}
	for _, command := range []string{"ip -o link", "iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(w.Must(t, in(w, words(inHost+command))...)) {
			// The chains that plugins share stay.
			for _, mark := range []string{"veth", "id: ", "-s 10.", "-d 10.", "-s fd", "-d fd", "CNI-DN-"} {
				if strings.Contains(line, mark) {
					left = append(left, command+": "+strings.TrimSpace(line))
					break
				}
			}
		}
	}
	return left
}

// networks are the scenarios of attachments. They are killed at the points of those alone: what else a run passes is
// the same without a network.
func networks() []scenario {
	run := inHost + "ctr-task run -d --name c --net ctrd -p 80 " + small
	sleeping := run + " sleep 1000"
	again := []step{
		do(inHost + "ctr-task rm -f c"), offNetwork,
		do(sleeping), do(inHost + "ctr-task port c 80"), do(inHost + "ctr-task rm -f c"), offNetwork,
	}
	add := []string{"network.recorded", "network.pinned", "network.plugin-added", "network.added", "task.attach"}
	only := []string{"network.", "task.attach"}
	return []scenario{
		{name: "run on a network", before: []step{networked, pull(small)}, command: words(sleeping), only: add, again: again},
		{name: "run --rm on a network", before: []step{networked, pull(small)}, command: words(inHost + "ctr-task run --rm --net ctrd " + small + " true"), only: only,
			again: append([]step{gone}, again...)},
		{name: "rm on a network", before: []step{networked, pull(small), do(sleeping)}, command: words(inHost + "ctr-task rm -f c"), only: only, again: again},
		{
			name: "end on a network", before: []step{networked, pull(small)}, command: words(run + " sleep 0.1"), only: []string{"network.removing", "network.deleted", "network.unpinned"},
			then: [][]string{{"ctr-task", "wait", "c"}}, again: again,
		},
	}
}
