// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
)

// TestSystemd: a cgroup of the form SLICE:PREFIX:NAME is a scope of systemd's, with its limits, and goes at the
// end. Where process 1 is no systemd, the test runs itself in one that scripts/nsboot boots.
func TestSystemd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if !cgroup.Booted() {
		inSystemd(t)
		return
	}
	for _, name := range []string{"", "runc"} {
		e := ask.Engine{SystemdCgroup: true}
		if name != "" {
			e.Binary = filepath.Join(os.Getenv("CTRD_ENGINES"), name)
		}
		testScope(t, e)
	}
}

func testScope(t *testing.T, e ask.Engine) {
	b := newBundle(t, e, "sleep", "1000")
	b.spec.Linux.CgroupsPath = "ctrdtest-inner.slice:ctrdtest:" + b.id
	limit := int64(64 << 20)
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	_, err := b.create()
	must(t, err)
	must(t, b.start())
	scope := "ctrdtest-" + b.id + ".scope"
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.made.Pid))
	must(t, err)
	if want := "/ctrdtest.slice/ctrdtest-inner.slice/" + scope; b.cgroup() != want || !strings.Contains(string(text), want+"\n") {
		t.Errorf("%q: the cgroup is\n%s", e.Binary, text)
	}
	show := func(property string) string {
		out, err := exec.Command("systemctl", "show", "-p", property, "--value", scope).Output()
		must(t, err)
		return strings.TrimSpace(string(out))
	}
	if state := show("ActiveState"); state != "active" {
		t.Errorf("%q: the scope is %s", e.Binary, state)
	}
	file := filepath.Join(t.TempDir(), "resources.json")
	must(t, os.WriteFile(file, []byte(`{"memory":{"limit":33554432}}`), 0o600))
	_, _, err = b.request(ask.Update, ask.Request{File: file})
	must(t, err)
	if m, err := cgroup.Measure(b.cgroup()); err != nil || m.Memory.Limit != 32<<20 {
		t.Errorf("%q: after update: %+v, %v", e.Binary, m, err)
	}
	pid, _, err := b.exec(newTestProcess("true"))
	must(t, err)
	if status := b.wait(pid); status != 0 {
		t.Errorf("%q: exec: status %d", e.Binary, status)
	}
	b.end()
	if state := show("ActiveState"); state != "inactive" {
		t.Errorf("%q: after the end the scope is %s", e.Binary, state)
	}
}

// inSystemd runs the test that calls it in a systemd in namespaces.
func inSystemd(t *testing.T) {
	t.Helper()
	const boot = "../../scripts/nsboot"
	if _, err := exec.LookPath("systemctl"); err != nil {
		t.Skip("needs systemd to be installed")
	}
	shared := t.TempDir()
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(shared, "engine.test"), self, 0o755))
	must(t, os.Rename(findEngine(t, "runc"), filepath.Join(shared, "runc")))
	env := append(os.Environ(), fmt.Sprintf("NSBOOT_DIR=/run/nsboot-engine-%d", os.Getpid()), "NSBOOT_BIND="+shared+":/engine")
	nsboot := func(args ...string) (string, error) {
		cmd := exec.Command(boot, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	defer func() {
		if out, err := nsboot("stop"); err != nil {
			t.Errorf("nsboot stop: %v\n%s", err, out)
		}
	}()
	if out, err := nsboot("start", "hybrid"); err != nil {
		t.Fatalf("nsboot start: %v\n%s", err, out)
	}
	out, err := nsboot("exec", "env", "CTRD_ENGINES=/engine", "TMPDIR=/engine", "/engine/engine.test", "-test.v", "-test.run=^"+t.Name()+"$")
	if err != nil || !strings.Contains(out, "--- PASS: "+t.Name()) {
		t.Errorf("inside: %v\n%s", err, out)
	}
}

// TestSystemdWithoutUnit: the systemd driver takes nothing but a unit, and a unit needs systemd.
func TestSystemdWithoutUnit(t *testing.T) {
	b := newBundle(t, ask.Engine{SystemdCgroup: true}, "true")
	if _, err := b.create(); err == nil || !strings.Contains(err.Error(), "the systemd driver needs SLICE:PREFIX:NAME") {
		t.Errorf("%v", err)
	}
	b.remove()
	if cgroup.Booted() {
		return
	}
	b = newBundle(t, ask.Engine{}, "true")
	b.spec.Linux.CgroupsPath = "system.slice:ctrdtest:" + b.id
	if _, err := b.create(); err == nil || !strings.Contains(err.Error(), "systemd") {
		t.Errorf("%v", err)
	}
	b.remove()
}
