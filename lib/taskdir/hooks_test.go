// SPDX-License-Identifier: Apache-2.0

package taskdir_test

import (
	"os"
	"path/filepath"
	"testing"

	"ctrd.dev/ctrd/lib/taskdir"
)

func TestHooks(t *testing.T) {
	for _, c := range []struct {
		config   string
		has, bad bool
	}{
		{config: `{"ociVersion": "1.2.0"}`},
		{config: `{"process": {"args": ["\"hooks\""]}}`},
		{config: `{"hooks": {"poststop": [{"path": "/bin/true", "timeout": 5}]}}`, has: true},
		{config: `{"root": 5, "hooks": {}}`, has: true},
		{config: `{"hooks": {"poststop": [{"path": "/bin/true", "timeout": "5"}]}}`, bad: true},
		{config: `{"hooks": `, bad: true},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, taskdir.Config), []byte(c.config), 0o600); err != nil {
			t.Fatal(err)
		}
		if h, err := taskdir.Hooks(dir); (h != nil) != c.has || (err != nil) != c.bad {
			t.Errorf("%s: %v, %v", c.config, h, err)
		}
	}
	if h, err := taskdir.Hooks(t.TempDir()); h != nil || err != nil {
		t.Errorf("without a configuration: %v, %v", h, err)
	}
}
