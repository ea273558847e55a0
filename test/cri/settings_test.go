// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/test/world"
)

// What the configuration says of containers is so in them.
func TestSettings(t *testing.T) {
	h := newHostWith(t, `[cri]
device_ownership_from_security_context = true
ignore_image_defined_volumes = true
disable_apparmor = true
[runtimes.runc]
privileged_without_host_devices = true
[runtimes.all]
privileged_without_host_devices = true
privileged_without_host_devices_all_devices_allowed = true
[runtimes.cgroup]
cgroup_writable = true
`)
	h.pull(t)
	pull := &runtimeapi.ImageSpec{Image: site.Registry + "/volumes:1"}
	if _, err := h.images.PullImage(h.ctx, &runtimeapi.PullImageRequest{Image: pull}); err != nil {
		t.Fatal(err)
	}
	config := onNode(h, "p")
	pod := h.runPod(t, "", config)
	n := func(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }
	device := func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/x", Permissions: "r"}}
	}
	privileged := func(c *runtimeapi.ContainerConfig) {
		device(c)
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{Privileged: true}
	}
	for name, c := range map[string]struct {
		script, want string
		change       func(*runtimeapi.ContainerConfig)
	}{
		"owner": {"stat -c %u:%g /dev/x /dev/null", "1000:7\n0:0\n", func(c *runtimeapi.ContainerConfig) {
			device(c)
			c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{RunAsUser: n(1000), RunAsGroup: n(7)}
		}},
		"owner-root": {"stat -c %u:%g /dev/x", "0:0\n", device},
		"volumes":    {"grep -c ' /data ' /proc/self/mounts", "0\n", func(c *runtimeapi.ContainerConfig) { c.Image = pull }},
		"devices": {"ls /dev/loop-control /dev/kmsg 2>/dev/null; head -c 1 /dev/x | wc -c; mknod /dev/k c 1 11; (: </dev/k) 2>/dev/null || echo refused",
			"1\nrefused\n", privileged},
	} {
		id := h.container(t, pod, config, name, c.script, c.change)
		if got := h.said(t, id); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	id := h.container(t, h.runPod(t, "all", onNode(h, "all")), config, "all", "ls /dev/loop-control /dev/kmsg 2>/dev/null; mknod /dev/k c 1 5; head -c 1 /dev/k | wc -c", privileged)
	if got := h.said(t, id); got != "1\n" {
		t.Errorf("all devices allowed: %q", got)
	}
	_, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "apparmor"}, Image: &runtimeapi.ImageSpec{Image: busybox()},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			Apparmor: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "mine"},
		}},
	}})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a profile of AppArmor, which is disabled: %v", err)
	}
	pod = h.runPod(t, "cgroup", onNode(h, "cgroup"))
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		_, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "cgroup"}, Image: &runtimeapi.ImageSpec{Image: busybox()}, Linux: &runtimeapi.LinuxContainerConfig{},
		}})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a cgroup that may be written to, without cgroup v2: %v", err)
		}
		return
	}
	id = h.container(t, pod, config, "cgroup", "mkdir /sys/fs/cgroup/x && echo made", nil)
	if got := h.said(t, id); got != "made\n" {
		t.Errorf("a cgroup that may be written to: %q", got)
	}
}

// onNode is the configuration of a pod on the host's network.
func onNode(h *host, name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "test"}, LogDirectory: h.logs,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}},
	}
}

// runPod makes a pod, which is removed with the test.
func (h *host) runPod(t *testing.T, handler string, config *runtimeapi.PodSandboxConfig) string {
	t.Helper()
	r, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{RuntimeHandler: handler, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), world.Patience)
		defer cancel()
		if _, err := h.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil {
			t.Error(err)
		}
	})
	return r.PodSandboxId
}

// The program of a pause image is in each pod's namespaces, is no container to clients, and goes with the pod. The image is pulled
// with the first pod, and stays.
func TestPauseImage(t *testing.T) {
	h := newHostWith(t, "[cri]\nsandbox_image = \""+site.Registry+"/redis:7\"\n")
	h.pull(t)
	pod, config := h.pod(t, "p")
	h.kill(t)
	if again, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: config}); err != nil || again.PodSandboxId != pod {
		t.Errorf("the same pod once more: %v, %v", again, err)
	}
	list, err := h.ListContainers(h.ctx, &runtimeapi.ListContainersRequest{})
	if err != nil || len(list.Containers) > 0 {
		t.Errorf("the CRI has the containers %v, %v", list, err)
	}
	id := h.container(t, pod, config, "c", "grep -l redis /proc/[0-9]*/comm | wc -l; readlink /proc/self/ns/net", nil)
	var pids []string
	for _, comm := range glob(t, "/proc/[0-9]*/comm") {
		name, _ := os.ReadFile(comm)
		net, _ := os.Readlink(filepath.Dir(comm) + "/ns/net")
		if net != "" && h.said(t, id) == "1\n"+net+"\n" && strings.HasPrefix(string(name), "redis") {
			pids = append(pids, filepath.Base(filepath.Dir(comm)))
		}
	}
	if len(pids) != 1 {
		t.Errorf("%q are in the pod, which sees %q", pids, h.said(t, id))
	}
	images, err := h.images.ListImages(h.ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: site.Registry + "/redis:7"}}})
	if err != nil || len(images.Images) != 1 || !images.Images[0].Pinned {
		t.Errorf("the image: %v, %v", images, err)
	}
	if _, err := h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if left := h.Must(t, "ctr-task", "ls", "-q", "-n", "k8s.io"); left != "" {
		t.Errorf("left are %q", left)
	}
}

// A pod is ready as long as its supervisor and the process of its pause image live: who asks is told when either was killed, the same
// pod is made anew, and nothing of the old one is left.
func TestPodDies(t *testing.T) {
	h := newHostWith(t, "[cri]\nsandbox_image = \""+site.Registry+"/pause:1\"\n")
	h.pull(t)
	ready := func(t *testing.T, id string) bool {
		t.Helper()
		st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		return st.Status.State == runtimeapi.PodSandboxState_SANDBOX_READY
	}
	listed := func(t *testing.T, id string) int {
		t.Helper()
		list, err := h.ListPodSandbox(h.ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
			Id: id, State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	for name, victim := range map[string]func(t *testing.T, id string) int{
		"pause image": func(t *testing.T, _ string) int {
			pid, err := strconv.Atoi(strings.TrimSpace(h.Must(t, "ctr-task", "ls", "-n", "k8s.io", "-o", "pid")))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		},
		"supervisor": func(t *testing.T, id string) int {
			st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
			var info struct{ PID int }
			if err == nil {
				err = json.Unmarshal([]byte(st.Info["info"]), &info)
			}
			if err != nil || info.PID == 0 {
				t.Fatal(st, err)
			}
			return info.PID
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := onNode(h, "p")
			pod := h.runPod(t, "", config)
			if !ready(t, pod) || listed(t, pod) != 1 {
				t.Error("it is not ready at first")
			}
			if err := syscall.Kill(victim(t, pod), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			until(t, "a pod that is not ready", func() bool { return !ready(t, pod) })
			if listed(t, pod) != 0 {
				t.Error("the list has it among those that are ready")
			}
			if again := h.runPod(t, "", config); again == pod || !ready(t, again) {
				t.Errorf("the same pod once more is %s, which was %s", again, pod)
			}
		})
	}
}

// A runtime's containers begin with its OCI spec: what that says counts where neither the image nor the client says anything.
func TestBaseSpec(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base.json")
	h := newHostWith(t, fmt.Sprintf("[runtimes.runc]\n[runtimes.based]\nbase_runtime_spec = %q\n", base))
	h.pull(t)
	pod := h.runPod(t, "based", onNode(h, "p"))
	create := func(name string) (string, error) {
		c := &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: busybox()}, LogPath: name + ".log",
			Envs:    []*runtimeapi.KeyValue{{Key: "B", Value: []byte("client")}},
			Command: []string{"sh", "-c", "ulimit -n; echo $A $B; grep CapBnd /proc/self/status; ls /based; grep ' /proc ' /proc/mounts | wc -l"},
			Linux:   &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{Capabilities: &runtimeapi.Capability{AddCapabilities: []string{"KILL"}}}},
		}
		r, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: onNode(h, "p")})
		if err == nil {
			_, err = h.StartContainer(h.ctx, &runtimeapi.StartContainerRequest{ContainerId: r.ContainerId})
		}
		return r.GetContainerId(), err
	}
	refused := func(want string) {
		t.Helper()
		if _, err := create("bad"); err == nil || !strings.Contains(err.Error(), "base_runtime_spec of the configuration: "+base) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	refused("no such file")
	if err := os.WriteFile(base, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused("no OCI spec")
	if err := os.Mkdir(filepath.Join(filepath.Dir(base), "file"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}], "env": ["A=base", "B=base"], "capabilities": {"bounding": ["CAP_CHOWN"]}},
		"mounts": [{"destination": "/based", "type": "bind", "source": %q, "options": ["rbind"]}]}`, filepath.Dir(base))
	if err := os.WriteFile(base, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	id, err := create("good")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := h.said(t, id), "77\nbase client\nCapBnd:\t0000000000000021\nbase.json\nfile\n1\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A pod has an interface for each of the first configurations, as many as are used, and is known by the addresses of the first.
func TestNetworks(t *testing.T) {
	h := newHostWith(t, "[runtimes.runc]\n[runtimes.all]\ncni_max_conf_num = 10\n[cri.cni]\nmax_conf_num = 2\n")
	h.pull(t)
	for i, name := range []string{"20-two", "30-three"} {
		conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.219.%d.0/24"}]]}}]}`,
			name, filepath.Join(h.Dir, "addresses"), 70+i)
		if err := os.WriteFile(filepath.Join(h.Dir, "nets", name+".conflist"), []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for handler, want := range map[string]string{"": "eth0\neth1\n", "all": "eth0\neth1\neth2\n"} {
		config := &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "p" + handler, Uid: "u" + handler, Namespace: "test"}, LogDirectory: h.logs, Linux: &runtimeapi.LinuxPodSandboxConfig{},
		}
		pod := h.runPod(t, handler, config)
		id := h.container(t, pod, config, "c"+handler, "ls /sys/class/net | grep eth", nil)
		if got := h.said(t, id); got != want {
			t.Errorf("%q: the pod has %q, want %q", handler, got, want)
		}
		st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil || !strings.HasPrefix(st.Status.Network.Ip, "10.219.6") || len(st.Status.Network.AdditionalIps) > 0 {
			t.Errorf("%q: %v, %v", handler, st, err)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
