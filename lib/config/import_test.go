// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// nodes are what nodes have, by versions; each says the same.
var nodes = []string{`version = 2
root = "/var/lib/containerd"
[grpc]
  gid = 988
[debug]
  level = "trace"
[metrics]
  address = "127.0.0.1:1338"
[proxy_plugins.stargz]
  type = "snapshot"
  address = "/run/stargz.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.9"
  enable_unprivileged_ports = false
  stats_collect_period = 30
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "stargz"
    default_runtime_name = "crun"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
        BinaryName = "/usr/bin/crun"
        SystemdCgroup = true
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
      runtime_type = "io.containerd.kata.v2"
      pod_annotations = ["io.katacontainers.*"]
      options = { ConfigPath = "/etc/kata.toml" }
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/libexec/cni"
    max_conf_num = 2
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/certs.d"
`, `version = 3
[grpc]
gid = 988
[debug]
level = "debug"
[metrics]
address = "127.0.0.1:1338"
[proxy_plugins]
stargz = { type = "snapshot", address = "/run/stargz.sock" }
[plugins.'io.containerd.cri.v1.images']
snapshotter = "stargz"
stats_collect_period = 30
pinned_images = { sandbox = "registry.k8s.io/pause:3.10" }
registry.config_path = "/etc/certs.d"
[plugins.'io.containerd.snapshotter.v1.erofs']
enable_fsverity = true
[plugins.'io.containerd.cri.v1.runtime']
enable_unprivileged_ports = false
enable_criu = true
cni = { bin_dirs = ["/usr/libexec/cni"], max_conf_num = 2 }
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "crun"
runtimes.crun = { runtime_type = "io.containerd.runc.v2", sandboxer = "podsandbox", options = { BinaryName = "/usr/bin/crun", SystemdCgroup = true } }
runtimes.kata = { runtime_type = "io.containerd.kata.v2", pod_annotations = ["io.katacontainers.*"], options = { ConfigPath = "/etc/kata.toml" } }
`, `version = 4
[debug]
level = "debug"
[proxy_plugins.stargz]
type = "snapshot"
address = "/run/stargz.sock"
[plugins.'io.containerd.server.v1.grpc']
address = "/run/containerd/containerd.sock"
gid = 988
max_recv_message_size = 16777216
[plugins.'io.containerd.server.v1.metrics']
address = "127.0.0.1:1338"
[plugins.'io.containerd.cri.v1.images']
snapshotter = "stargz"
stats_collect_period = 30
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "/etc/certs.d"
[plugins.'io.containerd.cri.v1.runtime']
enable_unprivileged_ports = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/libexec/cni"]
max_conf_num = 2
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "crun"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
options = { BinaryName = "/usr/bin/crun", SystemdCgroup = true, IoUid = 0 }
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]
runtime_type = "io.containerd.kata.v2"
pod_annotations = ["io.katacontainers.*"]
options = { ConfigPath = "/etc/kata.toml" }
`}

const node = `cgroup_driver = 'systemd'
default_runtime = 'crun'
log_level = 'debug'
snapshotter = 'stargz'

[cri]
enable_unprivileged_ports = false
image_stats_collect_period = '30s'

[cri.cni]
bin_dirs = ['/usr/libexec/cni']
max_conf_num = 2

[cri.registry]
config_path = '/etc/certs.d'

[metrics]
address = '127.0.0.1:1338'

[proxy_plugins]
[proxy_plugins.stargz]
address = '/run/stargz.sock'
type = 'snapshot'

[runtimes]
[runtimes.crun]
engine = '/usr/bin/crun'
runtime_type = ''

[runtimes.kata]
pod_annotations = ['io.katacontainers.*']
runtime_type = 'io.containerd.kata.v2'

[runtimes.kata.options]
ConfigPath = '/etc/kata.toml'

[sockets]
[sockets.native]
group = '988'
`

func TestImport(t *testing.T) {
	for _, text := range nodes {
		got, left, err := Import([]byte(text), "c.toml")
		if err != nil {
			t.Fatalf("%v of\n%s", err, text)
		}
		if _, rest, _ := strings.Cut(string(got), "\n"); rest != node || len(left) > 0 {
			t.Errorf("%s\n%v of\n%s", got, left, text)
		}
	}
}

// TestImportLeft: what has no equal is told, in the order of lines.
func TestImportLeft(t *testing.T) {
	got, left, err := Import([]byte(`version = 3
imports = ["/etc/x.toml"]
disabled_plugins = []
required_plugins = ["io.containerd.grpc.v1.cri"]
oom_score = -999
root = "/data"
[debug]
  level = "loud"
[proxy_plugins.differ]
  type = "diff"
  address = "/run/d.sock"
[plugins."io.containerd.cri.v1.images".registry.mirrors."docker.io"]
  endpoint = ["https://m"]
[plugins."io.containerd.cri.v1.images"]
  pinned_images = { sandbox = "example.com/init:1", base = "example.com/base:1" }
  max_concurrent_downloads = "many"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  sandboxer = "shim"
  options.Root = "/run/r"
[timeouts]
  "io.containerd.timeout.shim.load" = "5s"
[plugins."com.example.own"]
  a.b = [1]
  c = 0
`), "c.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"c.toml:2: imports: these", "c.toml:4: required_plugins: it has no", "c.toml:5: oom_score: OOM", "c.toml:6: root: the option --root",
		"c.toml:8: debug.level: it is no level", "c.toml:10: proxy_plugins.differ.type: only", "c.toml:11: proxy_plugins.differ.address: only",
		`c.toml:13: plugins."io.containerd.cri.v1.images".registry.mirrors."docker.io".endpoint: registries are`,
		`c.toml:15: plugins."io.containerd.cri.v1.images".pinned_images.sandbox: pods have no pause image`,
		`c.toml:16: plugins."io.containerd.cri.v1.images".max_concurrent_downloads: its value cannot be that of cri.max_concurrent_downloads`,
		"c.toml:19: ", "c.toml:20: ", `c.toml:24: plugins."com.example.own".a.b: it has no equal`,
	}
	for i := range max(len(want), len(left)) {
		if i >= len(want) || i >= len(left) || !strings.HasPrefix(left[i], want[i]) {
			t.Fatalf("line %d of %s\nof %s", i, strings.Join(left, "\n"), got)
		}
	}
	if !strings.Contains(string(got), "base = 'example.com/base:1'") || strings.Contains(string(got), "differ") {
		t.Errorf("%s", got)
	}
}

func TestImportBad(t *testing.T) {
	for _, text := range []string{"", "version = 1", "version = 5", "version = \"2\"", "version = 2\n[a", "version = 2\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = '..'"} {
		if got, _, err := Import([]byte(text), "c.toml"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v\n%s", text, err, got)
		}
	}
}

func FuzzImport(f *testing.F) {
	for _, text := range nodes {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		text, _, err := Import(data, "c.toml")
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
			return
		}
		if _, err := Parse(text, "again"); err != nil {
			t.Errorf("%v of\n%s", err, text)
		}
	})
}
