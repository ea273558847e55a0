// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const vendorSpec = `cdiVersion: 0.6.0
kind: vendor.com/class
devices:
- name: one
  containerEdits:
    env: [ONE=1]
    deviceNodes:
    - {path: /dev/one, hostPath: /dev/zero, permissions: rw}
    mounts:
    - {hostPath: %[1]s, containerPath: /vendor, options: [ro, rbind, nosuid]}
    hooks:
    - {hookName: createContainer, path: /bin/touch, args: [touch, %[1]s/hook]}
- name: two
  containerEdits:
    env: [TWO=2]
`

// newHostWithCDI makes a host with the image, and with the devices of a CDI specification in a directory that %s in it stands for.
func newHostWithCDI(t *testing.T, spec string) (h *host, dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vendor.yaml"), fmt.Appendf(nil, spec, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	h = newHostWith(t, fmt.Sprintf("[cri]\ncdi_spec_dirs = [%q]\n", dir))
	h.pull(t)
	return h, dir
}

// CDI devices are given by the field of the API and by annotations; one that there is not is refused by its name.
func TestCDI(t *testing.T) {
	h, _ := newHostWithCDI(t, vendorSpec)
	pod, config := h.pod(t, "p")
	id := h.container(t, pod, config, "c", "echo $ONE $TWO; head -c 3 /dev/one | wc -c; ls /vendor; touch /vendor/x 2>/dev/null || echo read-only", func(c *runtimeapi.ContainerConfig) {
		c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.com/class=one"}}
		c.Annotations = map[string]string{"cdi.k8s.io/plugin": "vendor.com/class=two,vendor.com/class=one"}
	})
	if got, want := h.said(t, id), "1 2\n3\nhook\nvendor.yaml\nread-only\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for want, change := range map[string]func(*runtimeapi.ContainerConfig){
		"vendor.com/class=none": func(c *runtimeapi.ContainerConfig) {
			c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.com/class=none"}}
		},
		"cdi.k8s.io/x": func(c *runtimeapi.ContainerConfig) { c.Annotations = map[string]string{"cdi.k8s.io/x": "no name"} },
		"no name":      func(c *runtimeapi.ContainerConfig) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "no name"}} },
	} {
		c := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "bad"}, Image: &runtimeapi.ImageSpec{Image: busybox()}}
		change(c)
		_, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config})
		if code := status.Code(err); code != codes.NotFound && code != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// The end of a pod waits for the hooks that run after the stop of its containers, as long as they may take.
func TestPodPoststop(t *testing.T) {
	h, dir := newHostWithCDI(t, "cdiVersion: 0.6.0\nkind: vendor.com/class\ndevices:\n- name: slow\n  containerEdits:\n    hooks:\n"+
		"    - {hookName: poststop, path: /bin/sh, args: [sh, -c, 'sleep 12; : >%s/done'], env: ['PATH=/bin:/usr/bin'], timeout: 30}\n")
	pod, config := h.pod(t, "p")
	id := h.container(t, pod, config, "c", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.com/class=slow"}}
	})
	if _, err := h.StopPodSandbox(h.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "done")); err != nil {
		t.Error(err)
	}
	if st := h.status(t, id); st.ExitCode != 137 || strings.Contains(st.Message+st.Reason, "supervisor") {
		t.Errorf("%v", st)
	}
}

// Where the configuration has no CDI, a device is refused, and not left out; annotations mean nothing.
func TestCDIDisabled(t *testing.T) {
	h := newHostWith(t, "[cri]\nenable_cdi = false\n")
	h.pull(t)
	pod, config := h.pod(t, "p")
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox()}, Annotations: map[string]string{"cdi.k8s.io/x": "a/b=c"},
		CDIDevices: []*runtimeapi.CDIDevice{{Name: "a/b=c"}},
	}
	create := func() error {
		_, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config})
		return err
	}
	if err := create(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "enable_cdi") {
		t.Errorf("a CDI device: %v", err)
	}
	c.CDIDevices = nil
	if err := create(); err != nil {
		t.Error(err)
	}
}
