// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// said waits for the end of a container and gives what it wrote to stdout.
func (h *host) said(t *testing.T, id string) string {
	t.Helper()
	until(t, "the end of a container", func() bool {
		return h.status(t, id).State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return text(t, h.status(t, id).LogPath)["stdout"]
}

// Everything that a container's configuration says is so in the container.
func TestContainerFields(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	type security = runtimeapi.LinuxContainerSecurityContext
	secure := func(s *security) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext = s }
	}
	n := func(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }
	kernel := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	for i, c := range []struct {
		name, script, want string
		change             func(*runtimeapi.ContainerConfig)
	}{
		{"env", `echo "$A|$B"`, "1|x y\n", func(c *runtimeapi.ContainerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("1")}, {Key: "B", Value: []byte("x y")}}
		}},
		{"args", "", "one two\n", func(c *runtimeapi.ContainerConfig) { c.Command, c.Args = []string{"echo"}, []string{"one", "two"} }},
		{"directory", "pwd", "/tmp\n", func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/tmp" }},
		{"user", "id -u; id -g; id -G", "1000\n7\n7 9 10\n", secure(&security{RunAsUser: n(1000), RunAsGroup: n(7), SupplementalGroups: []int64{9, 10}})},
		{"strict groups", "id -G", "7 9\n", secure(&security{RunAsUser: n(0), RunAsGroup: n(7), SupplementalGroups: []int64{9}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict})},
		{"username", "id -u", "0\n", secure(&security{RunAsUsername: "root"})},
		{"no capabilities", "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n", secure(&security{Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}})},
		{"one capability", "grep CapEff /proc/self/status", "CapEff:\t0000000000001000\n", secure(&security{Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}})},
		{"ambient capability", "grep CapAmb /proc/self/status", "CapAmb:\t0000000000000400\n", secure(&security{RunAsUser: n(1000), Capabilities: &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}})},
		{"read-only root", "touch /x 2>/dev/null || echo refused", "refused\n", secure(&security{ReadonlyRootfs: true})},
		{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n", secure(&security{NoNewPrivs: true})},
		{"seccomp", "grep Seccomp: /proc/self/status", "Seccomp:\t2\n", secure(&security{Seccomp: kernel})},
		{"no seccomp", "grep Seccomp: /proc/self/status", "Seccomp:\t0\n", nil},
		{"masked and read-only paths", "cat /etc/group; touch /tmp/x 2>/dev/null || echo refused", "refused\n", secure(&security{MaskedPaths: []string{"/etc/group"}, ReadonlyPaths: []string{"/tmp"}})},
		{"privileged", "test -e /dev/loop-control -o -e /dev/kmsg && echo devices; mkdir -p /x && mount -t tmpfs x /x && echo mounts", "devices\nmounts\n", secure(&security{Privileged: true})},
		{"own pid namespace", "echo $$", "1\n", secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}})},
		{"pod's pid namespace", "cat /proc/1/comm; ls /proc/1/root/ 2>/dev/null", "init\n", secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{}})},
		{"host's pid namespace", "test $$ -gt 1 && cat /proc/1/comm", comm(t), secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_NODE}})},
		{"mounts", "cat /m/file; touch /m/file 2>/dev/null || echo refused; grep ' /m ' /proc/self/mounts | grep -c noexec", "from the host\nrefused\n1\n", func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/m", Readonly: true, RecursiveReadOnly: true, MountOptions: []string{"noexec"}}}
		}},
		{"a directory that is made", "ls -A /m", "", func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: filepath.Join(dir, "new"), ContainerPath: "/m"}}
		}},
		{"an image", "test -x /i/bin/busybox && touch /i/x 2>/dev/null || echo refused; test -e /b/busybox && echo found", "refused\nfound\n", func(c *runtimeapi.ContainerConfig) {
			img := &runtimeapi.ImageSpec{Image: busybox()}
			c.Mounts = []*runtimeapi.Mount{{Image: img, Readonly: true, ContainerPath: "/i"}, {Image: img, Readonly: true, ImageSubPath: "bin", ContainerPath: "/b"}}
		}},
		{"a device", "test -c /dev/x && head -c 1 /dev/x | wc -c", "1\n", func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/x", Permissions: "r"}}
		}},
		{"oom score", "cat /proc/self/oom_score_adj", "900\n", func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 900}
		}},
		{"a terminal", "test -t 1 && echo yes", "yes\r\n", func(c *runtimeapi.ContainerConfig) { c.Tty = true }},
	} {
		id := h.container(t, pod, config, fmt.Sprintf("c%d", i), c.script, c.change)
		if got := h.said(t, id); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// comm is the name of the host's first process.
func comm(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		t.Fatal(err)
	}
	return string(name)
}

// run makes a pod of a configuration, runs a script in it, gives what it said, and removes the pod.
func (h *host) run(t *testing.T, name, script string, change func(*runtimeapi.PodSandboxConfig), container func(*runtimeapi.ContainerConfig)) string {
	t.Helper()
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "test"}, LogDirectory: filepath.Join(h.logs, name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
	change(config)
	r, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return ""
	}
	id := h.container(t, r.PodSandboxId, config, "c", script, func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: config.Linux.SecurityContext.NamespaceOptions}
		if container != nil {
			container(c)
		}
	})
	said := h.said(t, id)
	if _, err := h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil {
		t.Error(err)
	}
	return said
}

// Everything that a pod's configuration says is so in its containers.
func TestPodFields(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	if err := os.Chmod(h.Dir, 0o711); err != nil { // the users of a user namespace pass it
		t.Fatal(err)
	}
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	namespaces := func(n *runtimeapi.NamespaceOption) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions = n }
	}
	ids := []*runtimeapi.IDMapping{{HostId: 200000, Length: 65536}}
	own := runtimeapi.NamespaceMode_CONTAINER
	for _, c := range []struct {
		name, script, want string
		change             func(*runtimeapi.PodSandboxConfig)
	}{
		{"hostname", `hostname; cat /etc/hostname; echo $HOSTNAME`, "web\nweb\nweb\n", func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "web" }},
		{"dns", "cat /etc/resolv.conf", "search a b\nnameserver 9.9.9.9\noptions ndots:5\n", func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"9.9.9.9"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}}
		}},
		{"sysctls", "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced", "1024\t4096\n1\n", func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "1024 4096", "kernel.shm_rmid_forced": "1"}
		}},
		{"host-network", "hostname; readlink /proc/self/ns/net", hostname + "\n" + link(t, "net"), namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: own})},
		{"host-ipc", "readlink /proc/self/ns/ipc", link(t, "ipc"), namespaces(&runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_NODE, Pid: own})},
		{"user-namespace", "cat /proc/self/uid_map; id -u; touch /x && echo made", "         0     200000      65536\n0\nmade\n", namespaces(&runtimeapi.NamespaceOption{
			Pid: own, UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids},
		})},
		{"shared-pids-of-users", "cat /proc/1/comm", "init\n", namespaces(&runtimeapi.NamespaceOption{
			UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids},
		})},
		{"cgroup-parent", "grep -c /pod-fields/burstable/ /proc/self/cgroup >/dev/null && echo below", "below\n", func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.CgroupParent = "/pod-fields/burstable"
		}},
	} {
		if got := h.run(t, c.name, c.script, c.change, nil); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// link is the host's namespace of a kind, as a script that reads the link prints it.
func link(t *testing.T, kind string) string {
	t.Helper()
	name, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return name + "\n"
}

// Containers of a pod share /dev/shm, the network and, where the pod says so, their processes; the first of these is ours, and
// shows nothing of the host.
func TestSharing(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	h.container(t, pod, config, "a", "echo shared >/dev/shm/f; sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{Capabilities: &runtimeapi.Capability{AddCapabilities: []string{"SYS_PTRACE"}}}
	})
	b := h.container(t, pod, config, "b", "until test -e /dev/shm/f; do sleep 0.01; done; cat /dev/shm/f; ls -A /proc/1/root; grep -c . /proc/1/environ; grep -q sleep /proc/[0-9]*/comm && echo sees", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{Privileged: true}
	})
	if got, want := h.said(t, b), "shared\ninit\n0\nsees\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A mount that propagates reaches the host, and one of the host the container.
func TestPropagation(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	dir := t.TempDir()
	if err := unix.Mount("shared", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Unmount(filepath.Join(dir, "in"), unix.MNT_DETACH)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	h.run(t, "p", "mkdir /m/in && mount -t tmpfs x /m/in && touch /m/in/seen", func(c *runtimeapi.PodSandboxConfig) {}, func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.Privileged = true
		c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/m", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
	})
	if _, err := os.Stat(filepath.Join(dir, "in", "seen")); err != nil {
		t.Error(err)
	}
}

// Bounds are changed while the container runs, and told.
func TestUpdate(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	id := h.container(t, pod, config, "c", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20}
	})
	_, err := h.UpdateContainerResources(h.ctx, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpuQuota: 80000, MemoryLimitInBytes: 128 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := h.status(t, id).Resources.GetLinux()
	if r.CpuQuota != 80000 || r.CpuPeriod != 100000 || r.MemoryLimitInBytes != 128<<20 {
		t.Errorf("it has %v", r)
	}
	text, err := h.exec(id, 10, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null")
	if err != nil || !strings.Contains(string(text.Stdout), "134217728") {
		t.Errorf("in the container: %v, %v", text, err)
	}
	if _, err := h.UpdateContainerResources(h.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "no-such"}); err == nil {
		t.Error("a container that there is not is updated")
	}
}

// Bounds that are changed before a container starts are those that it starts with; those of a pod are recorded, and told by the
// next ctrd, too.
func TestUpdateBefore(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	c, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox()}, LogPath: "c.log",
		Command: []string{"sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"},
		Linux:   &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}},
	}})
	if err == nil {
		_, err = h.UpdateContainerResources(h.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ContainerId, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}})
	}
	if err == nil {
		_, err = h.StartContainer(h.ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId})
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := h.said(t, c.ContainerId); got != "100663296\n" {
		t.Errorf("it started with %q", got)
	}
	if _, err := h.UpdatePodSandboxResources(h.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: pod, Overhead: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 8 << 20}, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 77},
	}); err != nil {
		t.Fatal(err)
	}
	h.kill(t)
	st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil || !strings.Contains(st.Info["info"], `"memory":8388608`) || !strings.Contains(st.Info["info"], `"cpu_shares":77`) {
		t.Errorf("of the pod: %v, %v", st.GetInfo(), err)
	}
	if again, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: config}); err != nil || again.PodSandboxId != pod {
		t.Errorf("the same pod once more: %v, %v", again, err)
	}
}
