// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the built commands as root on a real kernel: real registry, real images, real overlay,
// real cgroups, real shells. The scripts in testdata are the specification of the command line.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ctrd.dev/ctrd/test/world"
)

// The source tree, the commands, and the address of the registry.
var top, bin, registry string

func TestMain(m *testing.M) {
	if args := os.Getenv("CTRD_TEST_MEASURE"); args != "" {
		measure(strings.Split(args, "\n"))
	}
	os.Exit(world.Main(m, func(s world.Site) error {
		top, bin, registry = s.Top, s.Bin, s.Registry
		return nil
	}))
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup:               setup,
		Condition: func(cond string) (bool, error) {
			if cond == "criu" {
				_, why := world.FindCriu()
				return why == "", nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":    status,
			"sh":        shell,
			"until":     until,
			"fault":     fault,
			"traffic":   traffic,
			"hostile":   hostile,
			"layers":    layers,
			"tab":       tab,
			"nothing":   nothing,
			"processes": processes,
			"terminal":  terminal,
		},
	})
}

// background is the program bg: `exec bg NAME COMMAND... &NAME&` succeeds whatever becomes of the command, and
// keeps its pid in NAME.pid and its status in NAME.status.
const background = `#!/bin/bash
name=$1
shift
"$@" &
echo $! >$name.pid
wait $! 2>/dev/null
echo $? >$name.status
exit 0
`

func setup(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("the test cannot be told of leaks")
	}
	w := world.New(t, bin)
	env.Values["world"] = w
	p, err := newProxy(registry)
	if err != nil {
		return err
	}
	env.Values["proxy"] = p
	home := filepath.Join(env.WorkDir, ".home")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(home, "bg"), []byte(background), 0o755); err != nil {
		return err
	}
	env.Setenv("HOME", home)
	env.Setenv("PATH", bin+":"+home+":"+os.Getenv("PATH"))
	env.Setenv("TERM", "xterm")
	env.Setenv("CTRD_ROOT", w.Root)
	env.Setenv("CTRD_STATE", w.State)
	env.Setenv("REGISTRY", registry)
	env.Setenv("NEW", strings.ToLower(filepath.Base(w.Dir))) // a repository that no run before has filled
	env.Setenv("PROXY", p.addr)
	env.Setenv("IMG", registry+"/busybox:1")
	env.Setenv("TOP", top)
	if path, why := world.FindCriu(); why == "" {
		env.Setenv("CTRD_CRIU", path)
	}
	env.Defer(p.close)
	return nil
}

// status N COMMAND... runs the command and wants the exit status N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(arg(args, 0))
	if err != nil || neg || len(args) < 2 {
		ts.Fatalf("usage: status N command [argument]...")
	}
	if args[1] == "sh" {
		args = append([]string{args[0], "bash", "-c"}, args[2:]...)
	}
	if got := exitCode(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func arg(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

func exitCode(ts *testscript.TestScript, err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if exit.ExitCode() < 0 {
			ts.Fatalf("%v", err)
		}
		return exit.ExitCode()
	}
	ts.Fatalf("%v", err)
	return -1
}

// sh SCRIPT runs a script of bash; every part of a pipe must succeed.
func shell(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("bash", "-euo", "pipefail", "-c", strings.Join(args, " "))
	if (err != nil) != neg {
		ts.Fatalf("sh: %v", err)
	}
}

// until DURATION SCRIPT runs a script of bash again and again until it succeeds.
func until(ts *testscript.TestScript, neg bool, args []string) {
	limit, err := time.ParseDuration(arg(args, 0))
	if err != nil || neg {
		ts.Fatalf("usage: until DURATION script")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		err := ts.Exec("bash", "-euo", "pipefail", "-c", strings.Join(args[1:], " "))
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			_ = ts.Exec("sh", "-c", "tail $CTRD_ROOT/manifests/*/keeper.log 2>/dev/null") // which may say why
			ts.Fatalf("not within %s: %v", limit, err)
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// nothing: the world has no process, mount, cgroup or task directory left.
func nothing(ts *testscript.TestScript, neg bool, args []string) {
	w := ts.Value("world").(*world.World)
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := w.Leaks()
		if len(left) == 0 || neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("left behind: %s", strings.Join(left, "; "))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// processes prints the names of the world's processes, in order.
func processes(ts *testscript.TestScript, neg bool, args []string) {
	var names []string
	for _, pid := range ts.Value("world").(*world.World).Processes() {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil {
			names = append(names, strings.TrimSpace(string(name)))
		}
	}
	slices.Sort(names)
	fmt.Fprintln(ts.Stdout(), strings.Join(names, "\n"))
}
