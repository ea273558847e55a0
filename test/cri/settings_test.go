// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
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

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
