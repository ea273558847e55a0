// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/test/world"
)

// engineProgram finds an OCI engine.
func engineProgram(t *testing.T) string {
	t.Helper()
	for _, name := range []string{filepath.Join(site.Top, "build", "peers", "bin", "runc"), filepath.Join(os.Getenv("CTRD_ENGINES"), "crun"), "runc", "crun"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if filepath.Base(path) == "crun" {
			return world.WithoutHybrid(t, path)
		}
		return path
	}
	t.Skip("no OCI engine")
	return ""
}

// A handler has its engine, its options, its snapshotter, its networks, and lets annotations through.
func TestHandler(t *testing.T) {
	runc := engineProgram(t)
	dir := t.TempDir()
	// An engine that says how it was called.
	engine := filepath.Join(dir, "engine")
	if err := os.WriteFile(engine, fmt.Appendf(nil, "#!/bin/sh\necho \"$@\" >>%s/calls\nexec %s \"$@\"\n", dir, runc), 0o755); err != nil {
		t.Fatal(err)
	}
	nets := filepath.Join(dir, "nets")
	if err := os.Mkdir(nets, 0o755); err != nil {
		t.Fatal(err)
	}
	const other = `{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.219.72.0/24"}]]}}]}`
	if err := os.WriteFile(filepath.Join(nets, "10-other.conflist"), fmt.Appendf(nil, other, filepath.Join(dir, "addresses")), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHostWith(t, fmt.Sprintf(`[runtimes.other]
runtime_type = "io.containerd.runc.v2"
snapshotter = "native"
cni_conf_dir = %q
pod_annotations = ["pod.example/*", "exact"]
container_annotations = ["container.example/*"]
options = { BinaryName = %q }
`, nets, engine))
	if _, err := h.images.PullImage(h.ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: busybox(), RuntimeHandler: "other"}}); err != nil {
		t.Fatal(err)
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "p", Namespace: "test"}, LogDirectory: h.logs, Linux: &runtimeapi.LinuxPodSandboxConfig{},
		Annotations: map[string]string{"pod.example/a": "1", "exact": "2", "exactly": "3", "pod.other/b": "4"},
	}
	pod := h.runPod(t, "other", config)
	st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || !strings.HasPrefix(st.Status.Network.Ip, "10.219.72.") || st.Status.RuntimeHandler != "other" {
		t.Errorf("%v, %v", st, err)
	}
	id := h.container(t, pod, config, "c", "mount | grep ' / '; sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Annotations = map[string]string{"container.example/a": "5", "container.other/b": "6"}
	})
	if calls, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || !strings.Contains(string(calls), " create ") {
		t.Errorf("the engine was called %q, %v", calls, err)
	}
	spec := h.Must(t, "ctr-task", "-n", "k8s.io", "inspect", "--format", "{{.snapshotter}} {{json .spec.annotations}}", id)
	for _, part := range []string{"native ", `"pod.example/a":"1"`, `"exact":"2"`, `"container.example/a":"5"`, `"io.kubernetes.cri.sandbox-id":"` + pod + `"`} {
		if !strings.Contains(spec, part) {
			t.Errorf("want %s in %s", part, spec)
		}
	}
	for _, part := range []string{"exactly", "pod.other", "container.other"} {
		if strings.Contains(spec, part) {
			t.Errorf("%s is let through: %s", part, spec)
		}
	}
}

// killSupervisor kills the supervisor of a pod.
func killSupervisor(t *testing.T, h *host, pod string) {
	t.Helper()
	st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(st.Info["info"]), &info); err != nil || info.PID == 0 {
		t.Fatalf("%v, %v", st.Info, err)
	}
	if err := unix.Kill(info.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// A shim of others runs the containers of a pod: they share its namespaces and its network, and live and end as any.
func TestForeignShim(t *testing.T) {
	program := filepath.Join(site.Top, "build", "peers", "bin", "containerd-shim-runc-v2")
	if _, err := os.Stat(program); err != nil {
		t.Skip("containerd's shim is not built: make interop builds it")
	}
	h := newHostWith(t, fmt.Sprintf(`[runtimes.shim]
runtime_type = "io.containerd.runc.v2"
runtime_path = %q
options = { BinaryName = %q, NoNewKeyring = true }
`, program, engineProgram(t)))
	h.pull(t)
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "p", Namespace: "test"}, LogDirectory: h.logs, Hostname: "shared",
		Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
	pod := h.runPod(t, "shim", config)
	const links = "readlink /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/pid"
	one := h.container(t, pod, config, "one", "hostname; "+links+"; echo of-one >/dev/shm/file; exec sleep 1000", nil)
	two := h.container(t, pod, config, "two", "hostname; "+links+"; cat /dev/shm/file; exit 3", nil)
	said := h.said(t, two)
	lines := strings.Split(said, "\n")
	if got := text(t, h.status(t, one).LogPath)["stdout"]; lines[0] != "shared" || got+"of-one\n" != said {
		t.Errorf("two containers of a pod say %q and %q", got, said)
	}
	if st := h.status(t, two); st.ExitCode != 3 || st.Reason != "Error" {
		t.Errorf("the second has ended as %v", st)
	}
	hog := h.container(t, pod, config, "hog", "x=a; while :; do x=$x$x; done", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20, OomScoreAdj: 990}
	})
	h.said(t, hog)
	if st := h.status(t, hog); st.ExitCode != 137 || st.Reason != "OOMKilled" {
		t.Errorf("one that wanted too much memory has ended as %v", st)
	}
	if _, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: hog}); err != nil {
		t.Error(err)
	}
	if st := h.status(t, hog); st.Reason != "OOMKilled" { // by the exit that is recorded
		t.Errorf("after its shim was let go: %v", st)
	}
	shims := func() (n int) {
		all, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, link := range all {
			if exe, err := os.Readlink(link); err == nil && exe == program {
				n++
			}
		}
		return n
	}
	if n := shims(); n == 0 {
		t.Error("the shim does not run")
	}
	r, err := h.exec(one, 10, "sh", "-c", "echo $((6*7)); exit 4")
	if err != nil || string(r.Stdout) != "42\n" || r.ExitCode != 4 {
		t.Errorf("exec: %v, %v", r, err)
	}
	// An end is told as it happens, to who listens to events and to plugins, though nobody asks.
	events, err := h.GetContainerEvents(h.ctx, &runtimeapi.GetEventsRequest{})
	if err == nil {
		_, err = events.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	p := h.plug(t, "plugin")
	ends := h.container(t, pod, config, "ends", "sleep 1; exit 5", nil)
	for {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId == ends && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
			break
		}
	}
	until(t, "a plugin to know of an end", func() bool { return slices.Contains(p.events(), "stop p ends CONTAINER_STOPPED 5") })
	h.kill(t) // ctrd: nothing of it is in the way of the shim
	if st := h.status(t, one); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("after a kill of ctrd: %v", st)
	}
	s, err := h.ContainerStats(h.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: one})
	if err != nil || s.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("stats: %v, %v", s, err)
	}
	if _, err := h.UpdateContainerResources(h.ctx, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: one, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20},
	}); err != nil {
		t.Error(err)
	}
	if _, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: one, Timeout: 0}); err != nil {
		t.Error(err)
	}
	if st := h.status(t, one); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 128+int32(unix.SIGKILL) {
		t.Errorf("after it was stopped: %v", st)
	}
	third := h.container(t, pod, config, "third", "exec sleep 1000", nil)
	// The pod is no more without its supervisor, which has its namespaces; what runs in it ends with the next act on it.
	killSupervisor(t, h, pod)
	until(t, "the end of the pod", func() bool {
		st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
		return err == nil && st.Status.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
	if _, err := h.StopPodSandbox(h.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if st := h.status(t, third); st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("after its pod was stopped: %v", st)
	}
	if _, err := h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	until(t, "the end of the shims", func() bool { return shims() == 0 })
}
