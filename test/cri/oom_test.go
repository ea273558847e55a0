// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"os"
	"path/filepath"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A kill for want of memory is told as such: within the container's limit or the pod's, of the first process or of another one that
// ends the container, also of one that was executed in it.
func TestOOMKilled(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	parent := "/ctrd-test-oom-" + filepath.Base(h.Dir)
	memory := "/sys/fs/cgroup/memory" + parent
	if _, err := os.Stat(filepath.Dir(memory)); err != nil {
		t.Skip("no memory controller of cgroup v1")
	}
	if err := os.Mkdir(memory, 0o755); err != nil {
		t.Fatal(err)
	}
	const limit = "16777216"
	if err := os.WriteFile(filepath.Join(memory, "memory.limit_in_bytes"), []byte(limit), 0o644); err != nil {
		t.Fatal(err)
	}
	const hog = "x=a; while :; do x=$x$x; done"
	for _, where := range []string{"container", "pod", "both"} {
		config := &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: where, Uid: where, Namespace: "test"}, LogDirectory: h.logs,
			Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
			}},
		}
		if where != "container" {
			config.Linux.CgroupParent = parent
		}
		r, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
		if err != nil {
			t.Fatal(err)
		}
		limited := func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 990}
			if where != "pod" {
				c.Linux.Resources.MemoryLimitInBytes = 16 << 20
			}
		}
		for what, script := range map[string]string{"init": hog, "child": "sh -c '" + hog + "'; exit 137"} {
			id := h.container(t, r.PodSandboxId, config, what, script, limited)
			h.said(t, id)
			if s := h.status(t, id); s.Reason != "OOMKilled" || s.ExitCode != 137 {
				t.Errorf("limit of the %s, %s: %d, %s", where, what, s.ExitCode, s.Reason)
			}
		}
		id := h.container(t, r.PodSandboxId, config, "exec", "while [ ! -e /end ]; do sleep 0.1; done; exit 1", limited)
		if r, err := h.exec(id, 0, "sh", "-c", hog); err != nil || r.ExitCode != 137 {
			t.Errorf("limit of the %s: exec: %v, %v", where, r, err)
		}
		if r, err := h.exec(id, 0, "touch", "/end"); err != nil || r.ExitCode != 0 {
			t.Errorf("limit of the %s: %v, %v", where, r, err)
		}
		h.said(t, id)
		if s := h.status(t, id); s.Reason != "OOMKilled" || s.ExitCode != 1 {
			t.Errorf("limit of the %s, exec: %d, %s", where, s.ExitCode, s.Reason)
		}
		if _, err := h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range func() []string { d, _ := filepath.Glob("/sys/fs/cgroup/*" + parent); return d }() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}
