// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

func TestIdle(t *testing.T) {
	if all := Default().Idle(); len(all) > 0 {
		t.Errorf("of the defaults: %q", all)
	}
	c, err := Parse([]byte(`[runtimes."a.b"]
base_runtime_spec = "/a.json"
cni_max_conf_num = 2
[cri]
cdi_spec_dirs = ["/etc/other"]
selinux_category_range = 100
drain_exec_sync_io_timeout = "1s"
disable_snapshot_annotations = false
enable_selinux = true
[cri.nri]
disable = true
socket_path = "/run/nri.sock"
`), "c.toml")
	if err != nil {
		t.Fatal(err)
	}
	all := c.Idle()
	want := []string{"cri.selinux_category_range", "cri.drain_exec_sync_io_timeout", "cri.disable_snapshot_annotations"}
	if len(all) != len(want) {
		t.Fatalf("%q, want %q", all, want)
	}
	for i, key := range want {
		if !strings.HasPrefix(all[i], key+" has no effect: ") {
			t.Errorf("%q, want that of %s", all[i], key)
		}
	}
}
