// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/test/world"
)

// cri is a client of the CRI socket of the machine, as the kubelet is.
func (m *machine) cri(t *testing.T) runtimeapi.RuntimeServiceClient {
	t.Helper()
	c := m.client(t, "cri.sock")
	t.Cleanup(func() { c.Close() })
	return runtimeapi.NewRuntimeServiceClient(c)
}

// The cgroups of containers of pods are scopes of systemd in the slices that the kubelet names, with either engine: systemd shows their
// bounds, and nothing is left of them.
func TestPods(t *testing.T) {
	on(t, func(t *testing.T, m *machine) {
		m.Must(t, "ctr-cri", "pull", m.image)
		runc := filepath.Join(m.Dir, "runc")
		build := exec.Command("go", "build", "-tags", "seccomp", "-o", runc, "github.com/opencontainers/runc")
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build runc: %v: %s", err, out)
		}
		m.install(t, "1s")
		m.sh(t, `systemd-run -q -p Delegate=yes sleep infinity
			mkdir -p /etc/ctrd/config.d
			printf '[runtimes.runc]\nengine = "`+runc+`"\n' >/etc/ctrd/config.d/runc.toml
			systemctl start ctrd-cri.socket`)
		c := m.cri(t)
		for _, handler := range []string{"", "runc"} {
			t.Run("handler "+handler, func(t *testing.T) { m.podInSlice(t, c, handler) })
		}
		if m.mode == "hybrid" {
			t.Run("no more memory", func(t *testing.T) { m.podOutOfMemory(t, c) })
		}
		m.sh(t, `systemctl stop ctrd-cri.socket ctrd.socket ctrd`)
		m.Must(t, "ctr-cri", "rmi", "-a")
	})
}

const (
	slice   = "kubepods-burstable-pod1234_5678.slice"
	inSlice = "/kubepods.slice/kubepods-burstable.slice/" + slice
)

// pod makes a pod of the slice, in the machine's network, with a container that runs.
func (m *machine) pod(t *testing.T, c runtimeapi.RuntimeServiceClient, handler string, r *runtimeapi.LinuxContainerResources, command ...string) (pod, container string) {
	t.Helper()
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "1234-5678", Namespace: "test"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    slice,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}},
		},
	}
	p, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: m.image}, Command: command,
		Linux: &runtimeapi.LinuxContainerConfig{Resources: r},
	}})
	if err == nil {
		_, err = c.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()})
	}
	if err != nil {
		t.Fatal(err)
	}
	return p.PodSandboxId, made.ContainerId
}

// removePod removes a pod, and wants systemd to have no unit of it.
func (m *machine) removePod(t *testing.T, c runtimeapi.RuntimeServiceClient, pod string) {
	t.Helper()
	if _, err := c.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	// The slices, and what else has their names in cgroup v1, are the kubelet's.
	m.sh(t, `absent() { ! systemctl list-units --all --plain --no-legend "$PREFIX-*" | grep .; }
		wait_for absent
		systemctl stop kubepods.slice
		[ -z "$(find /sys/fs/cgroup -path '*kubepods*.scope')" ]`)
}

func (m *machine) podInSlice(t *testing.T, c runtimeapi.RuntimeServiceClient, handler string) {
	if r, err := c.RuntimeConfig(t.Context(), &runtimeapi.RuntimeConfigRequest{}); err != nil || r.Linux.CgroupDriver != runtimeapi.CgroupDriver_SYSTEMD {
		t.Errorf("%v, %v", r, err)
	}
	bounds := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100_000, CpuQuota: 50_000, CpuShares: 512}
	if m.mode == "unified" {
		bounds = nil // scripts/nsboot has no controllers there
	}
	pod, id := m.pod(t, c, handler, bounds, "sleep", "1000")
	scope := m.Prefix() + "-k8s.io--" + id + ".scope"
	show := func() string {
		return m.sh(t, `systemctl show -P CPUShares -P CPUQuotaPerSecUSec -P MemoryLimit `+scope)
	}
	ended := func() { m.sh(t, `systemctl stop ctrd`) } // and the next call starts it
	got := m.sh(t, `pid=$(ctr-cri inspect -o go-template --template '{{.info.pid}}' `+id+`)
		cgroups $pid
		systemctl show -P ActiveState -P Slice `+scope)
	if !strings.Contains(got, inSlice+"/"+scope) || !strings.HasSuffix(got, "\n"+slice+"\nactive") {
		t.Errorf("%s: %s", scope, got)
	}
	r, err := c.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/proc/self/cgroup"}})
	if err != nil || m.mode == "hybrid" && !strings.Contains(string(r.Stdout), ":memory:"+inSlice+"/"+scope+"\n") || m.mode == "unified" && !strings.Contains(string(r.Stdout), "0::/\n") {
		t.Errorf("the cgroups of an exec: %v, %v", r, err)
	}
	if st, err := c.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: pod}); err != nil || len(st.Stats.Linux.Containers) != 1 {
		t.Errorf("%v, %v", st, err)
	}
	if m.mode == "hybrid" {
		if got := show(); got != "512\n500ms\n67108864" {
			t.Errorf("systemd shows the bounds %q", got)
		}
		ended()
		if _, err := c.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuQuota: 25_000, CpuPeriod: 100_000, CpuShares: 256},
		}); err != nil {
			t.Fatal(err)
		}
		if got := show(); got != "256\n250ms\n100663296" {
			t.Errorf("after an update systemd shows the bounds %q", got)
		}
		// What systemd has recorded it writes again at each daemon-reload.
		got := m.sh(t, `systemctl daemon-reload
			cat /sys/fs/cgroup/memory`+inSlice+`/`+scope+`/memory.limit_in_bytes /sys/fs/cgroup/cpu`+inSlice+`/`+scope+`/cpu.cfs_quota_us`)
		if got != "100663296\n25000" {
			t.Errorf("after an update the bounds are %q", got)
		}
		st, err := c.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
		if err != nil || st.Stats.Memory.GetWorkingSetBytes().GetValue() == 0 || st.Stats.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("%v, %v", st, err)
		}
	}
	for range 3 {
		m.sh(t, `systemctl kill -s KILL ctrd 2>/dev/null || :`)
		for end := time.Now().Add(world.Patience); ; {
			_, err := c.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}, grpc.WaitForReady(true))
			if err == nil {
				break
			}
			// A call can have been on its way when ctrd was killed.
			if status.Code(err) != codes.Unavailable || time.Now().After(end) {
				t.Fatal(err)
			}
		}
	}
	m.sh(t, `absent() { ! systemctl list-units --all --plain --no-legend `+scope+` | grep .; }
		wait_for absent`)
	m.removePod(t, c, pod)
}

// The kernel's kill is told, although the scope and its counters are gone with the container.
func (m *machine) podOutOfMemory(t *testing.T, c runtimeapi.RuntimeServiceClient) {
	pod, id := m.pod(t, c, "", &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}, "sh", "-c", "x=x; while :; do x=$x$x; done")
	var st *runtimeapi.ContainerStatus
	for end := time.Now().Add(world.Patience); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED; time.Sleep(20 * time.Millisecond) {
		r, err := c.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil || time.Now().After(end) {
			t.Fatalf("%v, %v", r, err)
		}
		st = r.Status
	}
	if st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Error(st)
	}
	m.removePod(t, c, pod)
}
