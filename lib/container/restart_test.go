// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskdir"
)

func TestRestart(t *testing.T) {
	for text, want := range map[string]taskdir.Restart{
		"": {}, "no": {}, "always": {Policy: "always"}, "unless-stopped": {Policy: "unless-stopped"},
		"on-failure": {Policy: "on-failure"}, "on-failure:3": {Policy: "on-failure", Max: 3},
	} {
		got, err := ParseRestart(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if back := RestartOf(RestartLabels(got)); back != want {
			t.Errorf("%q: back as %+v", text, back)
		}
	}
	for _, text := range []string{"never", "no:1", "always:2", "on-failure:", "on-failure:0", "on-failure:-1", "on-failure:x", "on-failure:99999999999"} {
		if _, err := ParseRestart(text); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", text, err)
		}
	}
	want := map[string]string{"containerd.io/restart.policy": "on-failure:3", "containerd.io/restart.status": "running", "containerd.io/restart.count": "2"}
	if got := RestartLabels(taskdir.Restart{Policy: "on-failure", Max: 3, Count: 2}); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := RestartOf(map[string]string{LabelRestartStatus: "running"}); got.Policy != RestartAlways {
		t.Errorf("meant to run, without a policy: %+v", got)
	}
	for _, labels := range []map[string]string{{LabelRestartStatus: "stopped"}, {LabelRestartStatus: "running", LabelRestartPolicy: "no"}} {
		if got := RestartOf(labels); got.Policy != "" {
			t.Errorf("%v: %+v", labels, got)
		}
	}
	if got := RestartOf(map[string]string{LabelRestartPolicy: "rubbish", LabelRestartCount: "7"}); got != (taskdir.Restart{}) {
		t.Errorf("%+v", got)
	}
}

func FuzzRestart(f *testing.F) {
	for _, s := range []string{"no", "always", "on-failure:3", "on-failure:", ":", "unless-stopped:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRestart(text)
		if err == nil && (r.Max < 0 || r.Max > 0 && r.Policy != RestartOnFailure || strings.Contains(r.Policy, ":") || RestartOf(RestartLabels(r)) != r) {
			t.Errorf("%q: %+v", text, r)
		}
	})
}

func TestCheckRuntime(t *testing.T) {
	for _, name := range []string{"ctr", "runc", "crun", "youki", "io.containerd.runc.v2", "io.containerd.kata.v2", "io.containerd.runsc.v1", "/opt/bin/containerd-shim-x-v2"} {
		if err := CheckRuntime(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "docker-runc", "io.containerd.runc", "io.containerd..v2", "io.containerd.runc.vx", "./runc", "/", "/a\x00b", "/a/../b/", "io.containerd.a/b.v2"} {
		if err := CheckRuntime(name); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
