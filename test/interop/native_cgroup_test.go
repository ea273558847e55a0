// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestNativeCgroup: a server moves itself into the cgroup that its configuration names, and takes no container with it.
func TestNativeCgroup(t *testing.T) {
	path := mark + "-serve/own"
	n := withConfig(t, fmt.Sprintf("[cgroup]\npath = %q\n", path))
	n.after = func() { removeCgroups(mark + "-serve") } // it stays for the next one
	in := func(pid string) string {
		t.Helper()
		text, err := os.ReadFile("/proc/" + pid + "/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for line := range strings.Lines(in(fmt.Sprint(n.cmd.Process.Pid))) {
		if _, controllers, _ := strings.Cut(line, ":"); !strings.HasPrefix(controllers, "name=") && !strings.HasSuffix(line, ":/"+path+"\n") {
			t.Errorf("the server is in %q, want /%s", line, path)
		}
	}
	n.Must(t, "ctr-pull", "-q", busybox)
	if r := (&tasker{native: n, namespace: "default"}).ctr(t, "run", "-d", busybox, "c1", "sleep", "1000"); r.status != 0 {
		t.Fatal(r)
	}
	pid := strings.TrimSpace(n.Must(t, "ctr-task", "inspect", "--format", "{{.pid}}", "c1"))
	if text := in(pid); strings.Contains(text, path) {
		t.Errorf("the container is in the server's cgroup: %s", text)
	}
	n.Must(t, "ctr-task", "rm", "-f", "c1")
}
