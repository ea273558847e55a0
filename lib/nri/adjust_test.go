// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/task"
)

func spec() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
}

// CDI devices of plugins are given by the configuration; what plugins cannot have is refused, and not left out.
func TestAdjust(t *testing.T) {
	dir := t.TempDir()
	const text = "cdiVersion: 0.6.0\nkind: vendor.com/class\ndevices:\n- name: one\n  containerEdits: {env: [DEVICE=1]}\n"
	if err := os.WriteFile(filepath.Join(dir, "vendor.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	device := &api.ContainerAdjustment{}
	device.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/class=one"})
	io, rdt := &api.ContainerAdjustment{}, &api.ContainerAdjustment{}
	io.SetLinuxBlockIOClass("fast")
	rdt.SetLinuxRDTClass("gold")
	for _, c := range []struct {
		name   string
		to     *api.ContainerAdjustment
		conf   config.CRI
		is     func(error) bool
		env    string
		naming string
	}{
		{"nothing", nil, config.CRI{}, nil, "", ""},
		{"a device", device, config.CRI{EnableCDI: true, CDISpecDirs: []string{dir}}, nil, "DEVICE=1", ""},
		{"a device that there is not", device, config.CRI{EnableCDI: true, CDISpecDirs: []string{filepath.Join(dir, "none")}}, errdefs.IsNotFound, "", "vendor.com/class=one"},
		{"a device without CDI", device, config.CRI{}, errdefs.IsFailedPrecondition, "", "enable_cdi"},
		{"a class of block I/O", io, config.CRI{}, errdefs.IsNotImplemented, "", "fast"},
		{"a class of RDT", rdt, config.CRI{}, errdefs.IsNotImplemented, "", "gold"},
	} {
		s := spec()
		err := adjust(s, c.to, c.conf)
		if c.is == nil && err != nil || c.is != nil && (err == nil || !c.is(err) || !strings.Contains(err.Error(), c.naming)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := strings.Join(s.Process.Env, " "); got != c.env {
			t.Errorf("%s: the environment is %q", c.name, got)
		}
	}
}

// A plugin is told of files of the pod by their paths, and of the client's annotations beside those of the spec, which stays as it is.
func TestContainerMessage(t *testing.T) {
	s := spec()
	s.Annotations = map[string]string{"of": "spec"}
	s.Mounts = []specs.Mount{{Destination: "/etc/hosts", Source: task.SandboxFile + "hosts"}, {Destination: "/m", Source: "/m"}}
	c := pod.ContainerStatus{ID: "id", Pod: "p", State: pod.Running}
	c.Annotations = map[string]string{"client": "yes", "of": "client"}
	c.ImageRef = "example.com/a@sha256:12"
	m := containerMessage(c, s, "/run/pod")
	if m.Annotations["of"] != "spec" || m.Annotations["client"] != "yes" || m.Image.Digest != "sha256:12" || m.State != api.ContainerState_CONTAINER_RUNNING || m.StartedAt != 0 {
		t.Errorf("%v", m)
	}
	var sources []string
	for _, mount := range m.Mounts {
		sources = append(sources, mount.Source)
	}
	if !slices.Equal(sources, []string{"/run/pod/hosts", "/m"}) || s.Mounts[0].Source != task.SandboxFile+"hosts" || len(s.Annotations) != 1 {
		t.Errorf("%q; the spec has become %v", sources, s)
	}
}
