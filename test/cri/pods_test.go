// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// many calls fn so many times at once, and wants one answer of all.
func many(t *testing.T, n int, fn func() (string, error)) string {
	t.Helper()
	answers := make([]string, n)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			var err error
			if answers[i], err = fn(); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	for _, a := range answers {
		if a != answers[0] {
			t.Fatalf("one call, several answers: %v", answers)
		}
	}
	return answers[0]
}

// Each call may be made again at any time, and at the same time: one pod, one container.
func TestAgain(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	_, config := h.pod(t, "p")
	run := func() (string, error) {
		r, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
		return r.GetPodSandboxId(), err
	}
	pod := many(t, 5, run)
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox()}, Command: []string{"sleep", "1000"}, LogPath: "c.log",
	}
	id := many(t, 5, func() (string, error) {
		r, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config})
		return r.GetContainerId(), err
	})
	many(t, 5, func() (string, error) {
		_, err := h.StartContainer(h.ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
		return "", err
	})
	if st := h.status(t, id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || st.StartedAt == 0 {
		t.Errorf("it is %v", st)
	}
	many(t, 3, func() (string, error) {
		_, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
		return "", err
	})
	if st := h.status(t, id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 137 || st.Reason != "Error" || st.FinishedAt == 0 {
		t.Errorf("after it was stopped: %v", st)
	}
	if _, err := h.StartContainer(h.ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("start of one that has ended: %v", err)
	}
	many(t, 3, func() (string, error) {
		_, err := h.StopPodSandbox(h.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod})
		return "", err
	})
	if st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod}); err != nil || st.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("a stopped pod: %v, %v", st, err)
	}
	if _, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a container in a stopped pod: %v", err)
	}
	// The same pod anew: nothing is reserved.
	again, err := run()
	if err != nil || again == pod {
		t.Errorf("the same pod anew: %s, %v", again, err)
	}
	for _, gone := range []string{pod, again, "no-such-pod"} {
		many(t, 3, func() (string, error) {
			_, err := h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: gone})
			return "", err
		})
	}
	for _, gone := range []string{id, "no-such-container"} {
		if _, err := h.RemoveContainer(h.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: gone}); err != nil {
			t.Error(err)
		}
		if _, err := h.StopContainer(h.ctx, &runtimeapi.StopContainerRequest{ContainerId: gone}); err != nil {
			t.Error(err)
		}
		if _, err := h.ContainerStatus(h.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: gone}); status.Code(err) != codes.NotFound {
			t.Errorf("status of %q: %v", gone, err)
		}
	}
	pods, err := h.ListPodSandbox(h.ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("pods that are left: %v, %v", pods, err)
	}
}

func (h *host) status(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	r, err := h.ContainerStatus(h.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

// A field that makes no sense is refused by its name, and nothing is made.
func TestBadPods(t *testing.T) {
	h := newHost(t)
	type security = runtimeapi.LinuxSandboxSecurityContext
	secure := func(s *security) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext = s }
	}
	for field, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"metadata":           func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil },
		"metadata.name":      func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" },
		"metadata.uid":       func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "" },
		"metadata.namespace": func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = strings.Repeat("x", 300) },
		"hostname":           func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a b" },
		"log_directory":      func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "logs" },
		"dns_config.servers": func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1\nx"}}
		},
		"port_mappings.host_port": func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70000}} },
		"port_mappings.protocol":  func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{Protocol: 9}} },
		"linux.sysctls":           func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} },
		"linux.cgroup_parent":     func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../../b" },
		"port_mappings.host_ip": func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 80, HostIp: "localhost"}}
		},
		"port_mappings.container_port": func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80}} },
		"port_mappings.host_port twice": func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 80}, {HostPort: 80, ContainerPort: 81}}
		},
		"hostname with NUL":      func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a\x00" },
		"log_directory with NUL": func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "/logs\x00" },
		"annotations": func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": "fast"}
		},
		"linux.overhead": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Overhead = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -1}
		},
		"linux.resources": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 1}
		},
		"linux.sysctls that share the host's": func(c *runtimeapi.PodSandboxConfig) {
			namespaceOf(c).Network = runtimeapi.NamespaceMode_NODE
			c.Linux.Sysctls = map[string]string{"net.core.somaxconn": "1"}
		},
		"namespace_options.pid": func(c *runtimeapi.PodSandboxConfig) {
			n := namespaceOf(c)
			n.Pid, n.TargetId = runtimeapi.NamespaceMode_TARGET, "x"
		},
		"userns_options with the host's network": func(c *runtimeapi.PodSandboxConfig) {
			one := []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}
			n := namespaceOf(c)
			n.Network, n.UsernsOptions = runtimeapi.NamespaceMode_NODE, &runtimeapi.UserNamespace{Uids: one, Gids: one}
		},
		"userns_options.gids that overlap": func(c *runtimeapi.PodSandboxConfig) {
			one := &runtimeapi.IDMapping{HostId: 100000, Length: 65536}
			namespaceOf(c).UsernsOptions = &runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{one}, Gids: []*runtimeapi.IDMapping{one, one}}
		},
		"userns_options.uids": func(c *runtimeapi.PodSandboxConfig) {
			namespaceOf(c).UsernsOptions = &runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 1}}, Gids: []*runtimeapi.IDMapping{{HostId: 1, Length: 1}}}
		},
		"userns_options.uids without 0": func(c *runtimeapi.PodSandboxConfig) {
			one := []*runtimeapi.IDMapping{{ContainerId: 1, HostId: 100000, Length: 65536}}
			namespaceOf(c).UsernsOptions = &runtimeapi.UserNamespace{Uids: one, Gids: one}
		},
		"userns_options.gids without 0": func(c *runtimeapi.PodSandboxConfig) {
			namespaceOf(c).UsernsOptions = &runtimeapi.UserNamespace{
				Uids: []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}, Gids: []*runtimeapi.IDMapping{{ContainerId: 1, HostId: 100000, Length: 65536}},
			}
		},
		"userns_options.uids too many": func(c *runtimeapi.PodSandboxConfig) {
			var all []*runtimeapi.IDMapping
			for i := range uint32(341) {
				all = append(all, &runtimeapi.IDMapping{ContainerId: 2 * i, HostId: 100000 + 2*i, Length: 1})
			}
			namespaceOf(c).UsernsOptions = &runtimeapi.UserNamespace{Uids: all, Gids: all}
		},
		"namespace_options.pid no":    func(c *runtimeapi.PodSandboxConfig) { namespaceOf(c).Pid = -1 },
		"namespace_options.network":   func(c *runtimeapi.PodSandboxConfig) { namespaceOf(c).Network = runtimeapi.NamespaceMode_CONTAINER },
		"namespace_options.ipc":       func(c *runtimeapi.PodSandboxConfig) { namespaceOf(c).Ipc = 77 },
		"namespace_options.target_id": func(c *runtimeapi.PodSandboxConfig) { namespaceOf(c).Pid = runtimeapi.NamespaceMode_TARGET },
		"userns_options.mode": func(c *runtimeapi.PodSandboxConfig) {
			namespaceOf(c).UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_CONTAINER}
		},
		"userns_options": func(c *runtimeapi.PodSandboxConfig) { namespaceOf(c).UsernsOptions = &runtimeapi.UserNamespace{} },
		"security_context.run_as_group": func(c *runtimeapi.PodSandboxConfig) {
			namespaceOf(c)
			c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
		},
		"security_context.run_as_user":                secure(&security{RunAsUser: &runtimeapi.Int64Value{Value: -5}}),
		"security_context.supplemental_groups":        secure(&security{SupplementalGroups: []int64{1 << 33}}),
		"security_context.supplemental_groups_policy": secure(&security{SupplementalGroupsPolicy: 9}),
		"security_context.seccomp.profile_type":       secure(&security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: 7}}),
		"security_context.seccomp.localhost_ref":      secure(&security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "rel"}}),
		"security_context.apparmor.localhost_ref":     secure(&security{Apparmor: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}}),
		"linux.sysctls that there are not":            func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.no_such": "1"} },
		"linux.sysctls with a wrong value": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "abc"}
		},
		"linux.resources that are too many": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 1 << 20}
		},
	} {
		c := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: "n"}, Linux: &runtimeapi.LinuxPodSandboxConfig{}}
		change(c)
		field, _, _ := strings.Cut(field, " ")
		r, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: c})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s: %v, %v", field, r, err)
		}
	}
	if _, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: "n"}}, RuntimeHandler: "no-such"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a handler that there is not: %v", err)
	}
	pods, err := h.ListPodSandbox(h.ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("pods that are left: %v, %v", pods, err)
	}
}

func namespaceOf(c *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}
	return c.Linux.SecurityContext.NamespaceOptions
}

// The same of containers.
func TestBadContainers(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	type security = runtimeapi.LinuxContainerSecurityContext
	secure := func(s *security) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext = s }
	}
	limit := func(r *runtimeapi.LinuxContainerResources) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = r }
	}
	mount := func(m *runtimeapi.Mount) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{m} }
	}
	one := &runtimeapi.Int64Value{Value: 1}
	for field, change := range map[string]func(*runtimeapi.ContainerConfig){
		"metadata.name": func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "" },
		"image":         func(c *runtimeapi.ContainerConfig) { c.Image = nil },
		"working_dir":   func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "relative" },
		"log_path":      func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../x" },
		"stdin_once":    func(c *runtimeapi.ContainerConfig) { c.StdinOnce = true },
		"stop_signal":   func(c *runtimeapi.ContainerConfig) { c.StopSignal = 99 },
		"envs.key":      func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Key: "a=b"}} },
		"devices.permissions": func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "q"}}
		},
		"mounts.container_path": mount(&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "/"}),
		"mounts.host_path":      mount(&runtimeapi.Mount{HostPath: "tmp", ContainerPath: "/x"}),
		"mounts":                mount(&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "/x", Readonly: true, Image: &runtimeapi.ImageSpec{Image: busybox()}}),
		"mounts.readonly":       mount(&runtimeapi.Mount{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: busybox()}}),
		"mounts.image_sub_path that there is not": mount(&runtimeapi.Mount{ContainerPath: "/x", Readonly: true, Image: &runtimeapi.ImageSpec{Image: busybox()}, ImageSubPath: "no/such"}),
		"mounts.image_sub_path":                   mount(&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "/x", ImageSubPath: "x"}),
		"mounts.recursive_read_only":              mount(&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "/x", RecursiveReadOnly: true}),
		"mounts.propagation":                      mount(&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "/x", Propagation: 12}),
		"mounts.mount_options":                    mount(&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "/x", MountOptions: []string{"suid"}}),

		"working_dir with NUL": func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/a\x00" },
		"log_path with NUL":    func(c *runtimeapi.ContainerConfig) { c.LogPath = "a\x00" },
		"command":              func(c *runtimeapi.ContainerConfig) { c.Command = []string{"a\x00b"} },
		"args":                 func(c *runtimeapi.ContainerConfig) { c.Args = []string{"a\x00b"} },
		"envs": func(c *runtimeapi.ContainerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "a", Value: []byte("b\x00")}}
		},
		"devices.host_path": func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "dev", ContainerPath: "/dev/x", Permissions: "r"}}
		},
		"devices.host_path that there is not": func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/no-such", ContainerPath: "/dev/x", Permissions: "r"}}
		},
		"mounts.container_path twice": func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp", ContainerPath: "/x"}, {HostPath: "/tmp", ContainerPath: "/x/"}}
		},
		"mounts.uid_mappings": mount(&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "/x", UidMappings: []*runtimeapi.IDMapping{{HostId: 1}}}),

		"resources.cpu_period":                        limit(&runtimeapi.LinuxContainerResources{CpuPeriod: 5}),
		"resources.cpu_quota that is too small":       limit(&runtimeapi.LinuxContainerResources{CpuQuota: 5}),
		"resources.cpu_shares":                        limit(&runtimeapi.LinuxContainerResources{CpuShares: -1}),
		"resources.cpuset_mems":                       limit(&runtimeapi.LinuxContainerResources{CpusetMems: "1-0"}),
		"resources.hugepage_limits.page_size no":      limit(&runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "MB"}}}),
		"security_context.masked_paths":               secure(&security{MaskedPaths: []string{"proc"}}),
		"security_context.readonly_paths":             secure(&security{ReadonlyPaths: []string{"../proc"}}),
		"security_context.run_as_user":                secure(&security{RunAsUser: &runtimeapi.Int64Value{Value: -1}}),
		"security_context.run_as_username no":         secure(&security{RunAsUsername: "nobody-such"}),
		"security_context.run_as_group large":         secure(&security{RunAsUser: one, RunAsGroup: &runtimeapi.Int64Value{Value: 1 << 40}}),
		"namespace_options.target_id":                 secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "no-such"}}),
		"namespace_options.network":                   secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_CONTAINER}}),
		"namespace_options.network no":                secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{Network: 9}}),
		"namespace_options.pid":                       secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: 9}}),
		"namespace_options.ipc":                       secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_CONTAINER}}),
		"namespace_options.ipc no":                    secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{Ipc: -3}}),
		"userns_options.mode":                         secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: 9}}}),
		"userns_options.uids":                         secure(&security{NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 1}}, Gids: []*runtimeapi.IDMapping{{HostId: 1, Length: 1}}}}}),
		"security_context.supplemental_groups_policy": secure(&security{SupplementalGroupsPolicy: 5}),
		"security_context.apparmor.profile_type":      secure(&security{Apparmor: &runtimeapi.SecurityProfile{ProfileType: 9}}),
		"security_context.run_as_user large":          secure(&security{RunAsUser: &runtimeapi.Int64Value{Value: 1 << 33}}),
		"image that is no name":                       func(c *runtimeapi.ContainerConfig) { c.Image = &runtimeapi.ImageSpec{Image: "A b"} },
		"envs.key missing":                            func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Value: []byte("x")}} },
		"resources.cpu_period large":                  limit(&runtimeapi.LinuxContainerResources{CpuPeriod: 2000000}),
		"resources.oom_score_adj small":               limit(&runtimeapi.LinuxContainerResources{OomScoreAdj: -1001}),
		"resources.memory_limit_in_bytes no":          limit(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -1}),
		"resources.memory_swap_limit_in_bytes no":     limit(&runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: -2}),
		"capabilities.add_capabilities":               secure(&security{Capabilities: &runtimeapi.Capability{AddCapabilities: []string{"NO_SUCH"}}}),
		"capabilities.drop_capabilities":              secure(&security{Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"NO_SUCH"}}}),
		"resources.cpu_quota":                         limit(&runtimeapi.LinuxContainerResources{CpuQuota: -5}),
		"resources.memory_limit_in_bytes":             limit(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 5}),
		"resources.memory_swap_limit_in_bytes":        limit(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1 << 30, MemorySwapLimitInBytes: 1 << 20}),
		"resources.oom_score_adj":                     limit(&runtimeapi.LinuxContainerResources{OomScoreAdj: 5000}),
		"resources.cpuset_cpus":                       limit(&runtimeapi.LinuxContainerResources{CpusetCpus: "all"}),
		"resources.cpu_shares large":                  limit(&runtimeapi.LinuxContainerResources{CpuShares: 1 << 20}),
		"resources.cpu_shares small":                  limit(&runtimeapi.LinuxContainerResources{CpuShares: 1}),
		"resources.cpu_quota large":                   limit(&runtimeapi.LinuxContainerResources{CpuQuota: 1 << 62}),
		"resources.cpuset_cpus that there are not":    limit(&runtimeapi.LinuxContainerResources{CpusetCpus: "0,4095"}),
		"resources.cpuset_mems that there are not":    limit(&runtimeapi.LinuxContainerResources{CpusetMems: "4095"}),
		"resources.memory_swap_limit_in_bytes alone":  limit(&runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: 1 << 30}),
		"resources.unified":                           limit(&runtimeapi.LinuxContainerResources{Unified: map[string]string{"../x": "1"}}),
		"resources.hugepage_limits.page_size":         limit(&runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "../x"}}}),
		"security_context.run_as_username":            secure(&security{RunAsUser: one, RunAsUsername: "root"}),
		"security_context.run_as_group":               secure(&security{RunAsGroup: one}),
		"security_context.supplemental_groups":        secure(&security{SupplementalGroups: []int64{-1}}),
		"security_context.seccomp":                    secure(&security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/no/such"}}),
		"security_context.seccomp.localhost_ref":      secure(&security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}}),
		"capabilities.add_ambient_capabilities":       secure(&security{Capabilities: &runtimeapi.Capability{AddAmbientCapabilities: []string{"NO_SUCH"}}}),
	} {
		c := &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: field}, Image: &runtimeapi.ImageSpec{Image: busybox()}, Command: []string{"true"},
			Linux: &runtimeapi.LinuxContainerConfig{},
		}
		change(c)
		field, _, _ := strings.Cut(field, " ")
		r, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s: %v, %v", field, r, err)
		}
	}
	left, err := h.ListContainers(h.ctx, &runtimeapi.ListContainersRequest{})
	if err != nil || len(left.Containers) > 0 {
		t.Errorf("containers that are left: %v, %v", left, err)
	}
}

// So are the fields of all other requests.
func TestBadRequests(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	id := h.container(t, pod, config, "c", "sleep 1000", nil)
	ctx := h.ctx
	for field, call := range map[string]func() error{
		"timeout of a stop": func() error {
			_, err := h.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: -1})
			return err
		},
		"timeout of an exec": func() error {
			_, err := h.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: -1})
			return err
		},
		"timeout that is too long": func() error {
			_, err := h.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 1 << 62})
			return err
		},
		"cmd": func() error {
			_, err := h.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id})
			return err
		},
		"cmd with NUL": func() error {
			_, err := h.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"a\x00b"}})
			return err
		},
		"cmd of a stream": func() error {
			_, err := h.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Stdout: true})
			return err
		},
		"cmd of a stream with NUL": func() error {
			_, err := h.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Stdout: true, Cmd: []string{"a\x00b"}})
			return err
		},
		"stderr": func() error {
			_, err := h.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Tty: true, Stderr: true})
			return err
		},
		"port": func() error {
			_, err := h.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: pod, Port: []int32{70000}})
			return err
		},
		"resources.cpu_quota": func() error {
			_, err := h.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpuQuota: -5}})
			return err
		},
		"resources.cpuset_cpus": func() error {
			_, err := h.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpusetCpus: "x"}})
			return err
		},
		"resources.memory_limit_in_bytes": func() error {
			_, err := h.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -1}})
			return err
		},
		"overhead": func() error {
			_, err := h.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Overhead: &runtimeapi.LinuxContainerResources{CpuPeriod: 1}})
			return err
		},
		"location": func() error {
			_, err := h.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: id})
			return err
		},
		"timeout of a checkpoint": func() error {
			_, err := h.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: "/tmp/never-made", Timeout: -1})
			return err
		},
		"image of a pull": func() error {
			_, err := h.images.PullImage(ctx, &runtimeapi.PullImageRequest{})
			return err
		},
		"image of a status": func() error {
			_, err := h.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{})
			return err
		},
		"image of a removal": func() error {
			_, err := h.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{})
			return err
		},
		"runtime_config.network_config.pod_cidr": func() error {
			_, err := h.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.0.0.0/99"}}})
			return err
		},
	} {
		name, _, _ := strings.Cut(field, " ")
		if err := call(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
	if st := h.status(t, id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %s", st.State)
	}
}
