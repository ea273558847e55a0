// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/config"
)

func podCIDR(text string) *runtimeapi.UpdateRuntimeConfigRequest {
	return &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: text}}}
}

// The kubelet's addresses go into the template, as long as nobody else has configured a network.
func TestUpdateRuntimeConfig(t *testing.T) {
	dir := t.TempDir()
	c := config.Default()
	c.CRI.CNI.ConfDir, c.CRI.CNI.ConfTemplate = filepath.Join(dir, "net.d"), ""
	w := newWorld(t, Options{Config: func() *config.Config { return c }})
	r := runtimeService{s: w.Server}
	for _, bad := range []string{"10.0.0.0", "10.0.0.0/33", "x", "10.0.0.0/8,"} {
		if _, err := r.UpdateRuntimeConfig(t.Context(), podCIDR(bad)); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "runtime_config.") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, text := range []string{"", "10.1.0.0/16"} {
		if _, err := r.UpdateRuntimeConfig(t.Context(), podCIDR(text)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(c.CRI.CNI.ConfDir); err == nil {
		t.Error("a configuration without a template")
	}
	c.CRI.CNI.ConfTemplate = filepath.Join(dir, "template")
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(c.CRI.CNI.ConfTemplate, "{{.PodCIDR}}{{range .PodCIDRRanges}} {{.}}{{end}}{{range .Routes}} {{.}}{{end}}")
	made := filepath.Join(c.CRI.CNI.ConfDir, networkName)
	for text, want := range map[string]string{"10.1.0.0/16": "10.1.0.0/16 10.1.0.0/16 0.0.0.0/0", "10.1.0.0/16, fd00::/64": "10.1.0.0/16 10.1.0.0/16 fd00::/64 0.0.0.0/0 ::/0"} {
		if _, err := r.UpdateRuntimeConfig(t.Context(), podCIDR(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(made); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	if err := os.Remove(made); err != nil {
		t.Fatal(err)
	}
	// A template with a mistake makes no file, and the error names it.
	for _, bad := range []string{"{{.PodCidr}}", "{{range .Routes}}{{$.Nets}}{{end}}", "{{.PodCIDR.x}}", "{{", "{{index .Routes 7}}"} {
		write(c.CRI.CNI.ConfTemplate, bad)
		if _, err := r.UpdateRuntimeConfig(t.Context(), podCIDR("10.1.0.0/16")); err == nil || !strings.Contains(err.Error(), c.CRI.CNI.ConfTemplate) {
			t.Errorf("%s: %v", bad, err)
		}
		if _, err := os.Stat(made); err == nil {
			t.Errorf("%s: there is a file", bad)
		}
	}
	write(filepath.Join(c.CRI.CNI.ConfDir, "50-other.conflist"), "{}")
	if _, err := r.UpdateRuntimeConfig(t.Context(), podCIDR("10.1.0.0/16")); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(c.CRI.CNI.ConfDir); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}

// Runtimes are handlers, the default one under no name too; a secret of the configuration is not told.
func TestStatus(t *testing.T) {
	c := config.Default()
	c.Runtimes["kata"] = config.Runtime{Type: "io.containerd.kata.v2"}
	c.CRI.Registry.Headers = map[string][]string{"Authorization": {"secret-word"}}
	c.CgroupDriver = "systemd"
	w := newWorld(t, Options{Config: func() *config.Config { return c }})
	r := runtimeService{s: w.Server}
	st, err := r.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range st.RuntimeHandlers {
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != " kata runc" || !st.RuntimeHandlers[0].Features.UserNamespaces || st.RuntimeHandlers[1].Features.UserNamespaces {
		t.Errorf("%v", st.RuntimeHandlers)
	}
	if strings.Contains(st.Info["config"], "secret") || !strings.Contains(st.Info["config"], w.d.Path()) {
		t.Errorf("%v", st.Info)
	}
	conf, err := r.RuntimeConfig(t.Context(), nil)
	if err != nil || conf.Linux.CgroupDriver != runtimeapi.CgroupDriver_SYSTEMD {
		t.Errorf("%v, %v", conf, err)
	}
	if _, err := r.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "none"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
