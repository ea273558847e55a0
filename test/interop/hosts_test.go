// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	hostconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
)

// hostsFiles are hosts.toml files by the directory that they are in.
var hostsFiles = map[string]string{
	"docker.io":            "server = \"https://registry-1.docker.io\"\n[host.\"https://z.example\"]\ncapabilities = [\"pull\"]\n[host.\"http://a.example:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
	"only-hosts.example":   "[host.\"https://m.example\"]\n[host.\"https://n.example\".header]\nx-a = \"1\"\nx-b = [\"1\", \"2\"]\n",
	"override.example":     "[host.\"https://m.example/v2/proxy\"]\noverride_path = true\n[host.\"https://n.example/v2/proxy\"]\n[host.\"https://o.example/v2/\"]\n[host.\"https://p.example\"]\noverride_path = true\n",
	"server-path.example":  "server = \"https://up.example/some/path/\"\n",
	"bare.example":         "server = \"up.example:8443\"\n[host.\"mirror.example\"]\n",
	"port.example_5000_":   "server = \"https://underlined.example\"\n",
	"other.example:5000":   "server = \"http://colon.example:80\"\n",
	"root-options.example": "capabilities = [\"pull\"]\nskip_verify = true\n",
	"tls-on-http.example":  "[host.\"http://m.example:5000\"]\nskip_verify = true\n[host.\"http://n.example:80\"]\nskip_verify = true\n[host.\"http://o.example:5000\"]\n",
	"push.example":         "server = \"https://up.example\"\ncapabilities = [\"push\"]\n[host.\"https://m.example\"]\ncapabilities = [\"PULL\", \"Referrers\"]\n",
	"unknown.example":      "servr = \"x\"\n[host.\"https://m.example\"]\ncolour = 1\n",
	"empty.example":        "",
	"_default":             "[host.\"https://fallback.example\"]\n",
}

// containerd and ctr-pull read one set of hosts.toml files and mean the same hosts, in the same order.
func TestHosts(t *testing.T) {
	dir := t.TempDir()
	for name, text := range hostsFiles {
		os.MkdirAll(filepath.Join(dir, name), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name, "hosts.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	theirs := hostconfig.ConfigureHosts(context.Background(), hostconfig.HostOptions{HostDir: hostconfig.HostDirFromRoot(dir)})
	for _, registry := range []string{
		"docker.io", "only-hosts.example", "override.example", "server-path.example", "bare.example", "port.example:5000", "other.example:5000",
		"root-options.example", "tls-on-http.example", "push.example", "unknown.example", "empty.example", "nobody.example",
	} {
		hosts, err := theirs(registry)
		if err != nil {
			t.Fatalf("%s: containerd: %v", registry, err)
		}
		var want []string
		for _, h := range hosts {
			want = append(want, h.Scheme+"://"+h.Host+strings.TrimSuffix(h.Path, "/")+" "+capabilities(h.Capabilities))
		}
		got := explained(t, dir, registry+"/team/app:1")
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: ctr-pull asks\n%s\ncontainerd\n%s", registry, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// explained gives the hosts that ctr-pull would ask.
func explained(t *testing.T, dir, image string) []string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "ctr-pull"), "--explain", "--json", "--hosts-dir", dir, image).Output()
	if err != nil {
		t.Fatalf("explain %s: %v", image, err)
	}
	var all []string
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p struct{ URL, Capabilities string }
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		base, _, _ := strings.Cut(p.URL, "?")
		all = append(all, strings.TrimSuffix(base, "/team/app")+" "+p.Capabilities)
	}
	return all
}

func capabilities(c docker.HostCapabilities) string {
	var all []string
	for _, n := range []struct {
		one  docker.HostCapabilities
		name string
	}{
		{docker.HostCapabilityPull, "pull"}, {docker.HostCapabilityResolve, "resolve"}, {docker.HostCapabilityPush, "push"},
		{docker.HostCapabilityReferrers, "referrers"},
	} {
		if c.Has(n.one) {
			all = append(all, n.name)
		}
	}
	return strings.Join(all, ",")
}
