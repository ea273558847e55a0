// SPDX-License-Identifier: Apache-2.0

// Package systemd tests how containers live with systemd, on a real one that scripts/nsboot boots: who ends with
// a unit, who does not, and what systemctl shows and reaches.
package systemd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// The source tree, the commands, and the address of the registry.
var top, bin, registry string

func TestMain(m *testing.M) {
	os.Exit(world.Main(m, func(s world.Site) error {
		top, bin, registry = s.Top, s.Bin, s.Registry
		return nil
	}))
}

// machine is a systemd that runs, with the commands, and a state directory that has one image.
type machine struct {
	*world.World
	mode  string
	dir   string // of nsboot
	image string
}

// boot starts a machine that ends with the test, and leaves nothing.
func boot(t *testing.T, mode string) *machine {
	t.Helper()
	if v1, _ := filepath.Glob("/sys/fs/cgroup/*/tasks"); mode == "hybrid" && len(v1) == 0 {
		t.Skip("this kernel has no cgroup v1 hierarchy mounted")
	}
	m := &machine{World: world.New(t, bin), mode: mode, image: registry + "/busybox:1"}
	m.Must(t, "ctr-pull", "-q", m.image)
	dir, err := os.MkdirTemp("/run", "nsboot-")
	if err != nil {
		t.Fatal(err)
	}
	m.dir = dir
	t.Cleanup(func() {
		if out, err := m.nsboot(context.Background(), "stop").CombinedOutput(); err != nil {
			t.Errorf("nsboot stop: %v: %s", err, out)
		}
		for _, l := range world.Left(filepath.Base(dir)) {
			t.Errorf("left behind: %s", l)
		}
	})
	if out, err := m.nsboot(t.Context(), "start", mode).CombinedOutput(); err != nil {
		t.Fatalf("nsboot start: %v: %s", err, out)
	}
	return m
}

func (m *machine) nsboot(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(top, "scripts/nsboot"), args...)
	cmd.Env = append(os.Environ(), "NSBOOT_DIR="+m.dir, "NSBOOT_BIND="+m.Dir+":"+m.Dir+" "+bin+":"+bin)
	cmd.WaitDelay = time.Second
	return cmd
}

// environ is what commands in the machine need to find this world.
func (m *machine) environ() []string {
	return []string{"CTRD_ROOT=" + m.Root, "CTRD_STATE=" + m.State, "IMG=" + m.image, "PREFIX=" + m.Prefix(),
		"PATH=" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// try runs a script of bash in the machine.
func (m *machine) try(script string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), world.Patience)
	defer cancel()
	args := append([]string{"exec", "env"}, m.environ()...)
	cmd := m.nsboot(ctx, append(args, "bash", "-euo", "pipefail", "-c", functions+script)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), errors.Join(err, ctx.Err())
}

// sh runs a script that succeeds, and gives what it prints.
func (m *machine) sh(t *testing.T, script string) string {
	t.Helper()
	out, errs, err := m.try(script)
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", script, err, out, errs)
	}
	return strings.TrimSpace(out)
}

// The functions that every script has.
const functions = `
# unit NAME [OPTION]... COMMAND... is systemd-run with what commands need.
unit() { local u=$1 e=(); shift; for v in CTRD_ROOT CTRD_STATE IMG PATH; do e+=(-E "$v=${!v}"); done; systemd-run -q --unit="$u" "${e[@]}" "$@"; }
# field ID NAME prints a field of a container.
field() { ctr-task inspect --format "{{.$2}}" "$1"; }
running() { [ "$(field "$1" status 2>/dev/null)" = running ]; }
# not COMMAND... wants it to fail. (set -e has no eye for !.)
not() { if "$@"; then echo "it has not failed: $*" >&2; return 1; fi; }
# wait_for COMMAND... waits until it succeeds.
wait_for() { local n; for n in $(seq 300); do if "$@"; then return 0; fi; sleep 0.05; done; echo "never: $*" >&2; return 1; }
# cgroups PID prints the cgroups of a process, one a line.
cgroups() { cut -d: -f3 "/proc/$1/cgroup"; }
# v2 UNIT prints the directory of the unit's cgroup in the v2 hierarchy.
v2() { local d=/sys/fs/cgroup; [ ! -d $d/unified ] || d=$d/unified; echo "$d$(systemctl show -P ControlGroup "$1")"; }
`

// on runs a test on both kinds of machines.
func on(t *testing.T, test func(t *testing.T, m *machine)) {
	for _, mode := range []string{"hybrid", "unified"} {
		t.Run(mode, func(t *testing.T) {
			m := boot(t, mode)
			test(t, m)
			if t.Failed() {
				return
			}
			m.sh(t, `ctr-task ls -q | xargs -r ctr-task rm -f`)
			m.Settle(t)
		})
	}
}
