// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	containerd "github.com/containerd/containerd/v2/client"
)

func TestRun(t *testing.T) {
	above := mark + "-above"
	tests := []struct {
		name, stdin     string
		options         []string
		command         []string
		status          int
		stdout, problem string // problem: what stderr has to say
	}{
		{name: "success", command: []string{"true"}},
		{name: "status", command: []string{"sh", "-c", "exit 7"}, status: 7},
		{name: "streams", command: []string{"sh", "-c", "echo out; echo err >&2"}, stdout: "out\n", problem: "err\n"},
		{name: "stdin", command: []string{"head", "-n", "1"}, stdin: "typed\n", stdout: "typed\n"},
		{name: "options", options: []string{"--env", "A=b", "--cwd", "/tmp", "--hostname", "box", "--user", "65534"},
			command: []string{"sh", "-c", "echo $A $PWD $(hostname) $(id -u)"}, stdout: "b /tmp box 65534\n"},
		{name: "read-only", options: []string{"--read-only"}, command: []string{"sh", "-c", "touch /x 2>/dev/null || echo refused"}, stdout: "refused\n"},
		{name: "volume", options: []string{"--mount", "type=tmpfs,dst=/v,options=size=1m"}, command: []string{"sh", "-c", "grep -c ' /v tmpfs ' /proc/mounts"}, stdout: "1\n"},
		{name: "no-output", options: []string{"--null-io"}, command: []string{"sh", "-c", "echo lost; exit 3"}, status: 3},
		{name: "missing", command: []string{"/no/such/program"}, status: 1, problem: "no such file or directory"},
		{name: "not-on-path", command: []string{"no-such-program"}, status: 1, problem: "executable file not found"},
		{name: "seccomp", options: []string{"--seccomp"}, command: []string{"sh", "-c", "grep Seccomp: /proc/self/status"}, stdout: "Seccomp:\t2\n"},
		{name: "host-network", options: []string{"--net-host"}, command: []string{"true"}},
		{name: "cgroup", options: []string{"--cgroup", "/" + above + "/c"}, command: []string{"sh", "-c", "grep -c :pids: /proc/self/cgroup"}, stdout: "1\n"},
	}
	withDaemon(t, func(t *testing.T, d *daemon) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				args := append([]string{"run", "--runtime", d.runtime, "--rm"}, test.options...)
				r := d.feed(t, test.stdin, append(append(args, busybox, test.name), test.command...)...)
				if r.status != test.status || r.stdout != test.stdout || !strings.Contains(r.stderr, test.problem) {
					t.Errorf("want status %d, stdout %q, stderr with %q: %s", test.status, test.stdout, test.problem, r)
				}
				if test.problem == "" && r.stderr != "" {
					t.Errorf("stderr: %s", r.stderr)
				}
				d.settle(t)
			})
		}
		// A shim removes a container's cgroup, and not those above it.
		for _, c := range cgroups(above) {
			if err := os.Remove(c); err != nil || filepath.Base(c) != above {
				t.Errorf("left behind: %s, %v", c, err)
			}
		}
	})
}

// TestLargeOutput: nothing is lost, whoever is slower.
func TestLargeOutput(t *testing.T) {
	const size = 16 << 20
	withDaemon(t, func(t *testing.T, d *daemon) {
		script := fmt.Sprintf("head -c %d /dev/zero; head -c %d /dev/zero >&2", size, size)
		if r := d.run(t, "--rm", busybox, "c", "sh", "-c", script); r.status != 0 || len(r.stdout) != size || len(r.stderr) != size {
			t.Errorf("status %d, %d and %d bytes, want %d", r.status, len(r.stdout), len(r.stderr), size)
		}
		count := fmt.Sprintf("head -c %d | wc -c", size)
		if r := d.feed(t, strings.Repeat("x", size), "run", "--runtime", d.runtime, "--rm", busybox, "in", "sh", "-c", count); r.stdout != fmt.Sprintf("%d\n", size) {
			t.Errorf("of stdin: %s", r)
		}
	})
}

func TestExec(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		d.background(t, "c", "sleep 1000")
		defer d.remove(t, "c")
		for _, test := range []struct {
			script string
			status int
			stdout string
		}{{"exit 0", 0, ""}, {"exit 7", 7, ""}, {"echo $$ >/dev/null; echo out", 0, "out\n"}, {"kill -9 $$", 137, ""}} {
			if r := d.exec(t, "c", "sh", "-c", test.script); r.status != test.status || r.stdout != test.stdout {
				t.Errorf("want status %d, stdout %q: %s", test.status, test.stdout, r)
			}
		}
		inputEnds(t, d, "task", "exec", "--exec-id", "in", "c", "cat")
		if r := d.ctr(t, "task", "exec", "--exec-id", "user", "--user", "65534", "--cwd", "/tmp", "c", "sh", "-c", "id -u; pwd"); r.stdout != "65534\n/tmp\n" {
			t.Errorf("user and directory: %s", r)
		}
		if r := d.exec(t, "c", "no-such-program"); r.status != 1 || !strings.Contains(r.stderr, "executable file not found") {
			t.Errorf("not found: %s", r)
		}

		// One that is left alone, is killed by its id, and whose id is then free again.
		for range 2 {
			d.must(t, "task", "exec", "-d", "--exec-id", "back", "c", "sleep", "2000")
			if r := d.ctr(t, "task", "exec", "-d", "--exec-id", "back", "c", "true"); r.status == 0 || !strings.Contains(r.stderr, "already exists") {
				t.Errorf("an exec id is used twice: %s", r)
			}
			d.must(t, "task", "kill", "-s", "KILL", "--exec-id", "back", "c")
			until(t, "the exec can be deleted", func() error {
				if r := d.ctr(t, "task", "rm", "--exec-id", "back", "c"); r.status != 137 {
					return fmt.Errorf("want 137: %s", r)
				}
				return nil
			})
		}
		if got := d.status(t, "c"); got != "RUNNING" {
			t.Errorf("the container is %q", got)
		}
	})
}

// inputEnds runs a command of ctr that copies its stdin, and closes that when the first line has come back: ctr
// forgets to pass on an end that comes at once.
func inputEnds(t *testing.T, d *daemon, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := d.command(ctx, args...)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "typed\n"); err != nil {
		t.Error(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "typed\n" {
		t.Errorf("it answers %q, %v", line, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %v", cmd.Args, err)
	}
}

func TestInputEnds(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		inputEnds(t, d, "run", "--runtime", d.runtime, "--rm", busybox, "c", "cat")
	})
}

func TestKill(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		d.background(t, "trap", "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done")
		d.background(t, "all", "sleep 1000 & sleep 1001 & wait")
		until(t, "the trap is set", func() error {
			if r := d.exec(t, "trap", "test", "-e", "/ready"); r.status != 0 {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		d.must(t, "task", "kill", "trap")
		d.awaitStatus(t, "trap", "STOPPED")
		r := d.ctr(t, "task", "kill", "trap")
		if r.status == 0 || !strings.Contains(r.stderr, "not found") {
			t.Errorf("kill of what has ended: %s", r)
		}
		if r := d.exec(t, "trap", "true"); r.status == 0 {
			t.Errorf("exec in what has ended: %s", r)
		}
		if r := d.ctr(t, "task", "rm", "trap"); !strings.Contains(r.stderr, "non-zero exit code 5") {
			t.Errorf("want status 5: %s", r)
		}
		d.must(t, "containers", "rm", "trap")

		d.must(t, "task", "kill", "--all", "-s", "KILL", "all")
		d.awaitStatus(t, "all", "STOPPED")
		d.remove(t, "all")
	})
}

func TestPause(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		d.background(t, "c", "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.01; done")
		defer d.remove(t, "c")
		pid, _ := d.task(t, "c")
		file := fmt.Sprintf("/proc/%d/root/count", pid)
		until(t, "it counts", func() error {
			_, err := os.Stat(file)
			return err
		})
		d.must(t, "task", "pause", "c")
		d.awaitStatus(t, "c", "PAUSED")
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if r := d.exec(t, "c", "true"); r.status == 0 {
			t.Errorf("exec in a paused container: %s", r)
		}
		if after, _ := os.ReadFile(file); string(after) != string(before) {
			t.Errorf("it goes on: %s, then %s", before, after)
		}
		d.must(t, "task", "resume", "c")
		d.awaitStatus(t, "c", "RUNNING")
		until(t, "it goes on", func() error {
			if after, _ := os.ReadFile(file); string(after) == string(before) {
				return fmt.Errorf("it counts %s", after)
			}
			return nil
		})
		d.must(t, "task", "pause", "c") // it is removed as it is
	})
}

func TestProcesses(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		d.background(t, "c", "sleep 1000 & wait")
		defer d.remove(t, "c")
		d.must(t, "task", "exec", "-d", "--exec-id", "named", "c", "sleep", "1001")
		init, _ := d.task(t, "c")
		until(t, "three processes", func() error {
			out := d.must(t, "task", "ps", "c")
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if len(lines) != 4 || !strings.Contains(out, strconv.Itoa(init)) || !strings.Contains(out, "named") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		out := d.must(t, "task", "metrics", "--format", "json", "c")
		for _, want := range []string{`"pids":`, `"memory":`, `"cpu":`, `"usage":`} {
			if !strings.Contains(out, want) {
				t.Errorf("metrics have no %s: %s", want, out)
			}
		}
	})
}

func TestUpdate(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		d.background(t, "c", "sleep 1000")
		defer d.remove(t, "c")
		ctx, client := d.client(t)
		c, err := client.LoadContainer(ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		task, err := c.Task(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		limit, shares := int64(64<<20), uint64(512)
		err = task.Update(ctx, containerd.WithResources(&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Shares: &shares}, Pids: &specs.LinuxPids{Limit: ptr(int64(77))},
		}))
		if err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]string{"memory.limit_in_bytes": "67108864", "cpu.shares": "512", "pids.max": "77"} {
			if got := setting(t, d.namespace+"/c", file); got != want {
				t.Errorf("%s is %q, want %q", file, got, want)
			}
		}
		impossible := int64(4096)
		if err := task.Update(ctx, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &impossible}})); err == nil {
			t.Error("a limit below what is used was accepted")
		}
		if got := d.status(t, "c"); got != "RUNNING" {
			t.Errorf("the container is %q", got)
		}
	})
}

func ptr[T any](v T) *T { return &v }

// setting reads a file of a container's cgroup, under the name that cgroup v1 has for it.
func setting(t *testing.T, group, file string) string {
	t.Helper()
	controller, _, _ := strings.Cut(file, ".")
	text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, group, file))
	if err != nil {
		if _, v2 := os.Stat("/sys/fs/cgroup/cgroup.controllers"); v2 == nil {
			t.Skip("the limits are read from cgroup v1, and this machine has v2")
		}
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// TestCheckpoint: without criu it is refused with a reason, and the container does not notice.
func TestCheckpoint(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		d.background(t, "c", "sleep 1000")
		defer d.remove(t, "c")
		r := d.ctr(t, "task", "checkpoint", "--image-path", filepath.Join(d.dir, "images"), "c")
		if r.status == 0 || !strings.Contains(r.stderr, "criu") && !strings.Contains(r.stderr, "not implemented") {
			t.Errorf("want an error that says why: %s", r)
		}
		if got := d.status(t, "c"); got != "RUNNING" {
			t.Errorf("the container is %q", got)
		}
		if r := d.exec(t, "c", "true"); r.status != 0 {
			t.Errorf("exec after it: %s", r)
		}
	})
}

// TestSpec: fields that nobody knows do no harm; what is impossible is an error, and leaves nothing.
func TestSpec(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		rootfs := filepath.Join(d.dir, "rootfs")
		for _, dir := range []string{"bin", "proc", "dev", "sys"} {
			if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		box, err := os.ReadFile("/bin/busybox")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(rootfs, "bin/sh"), box, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name, extra, linux, process string
			status                      int
			problem                     string
		}{
			{name: "plain", status: 4},
			{name: "unknown", extra: `"fromTheFuture": {"a": [1, 2]},`, linux: `"alsoNew": true,`, process: `"newer": "x",`, status: 4},
			{name: "device", linux: `"devices": [{"path": "/dev/x", "type": "q", "major": 1, "minor": 1}],`, status: 1, problem: "device"},
			{name: "limit", linux: `"resources": {"memory": {"limit": 1024}},`, status: 1, problem: "memory"},
			{name: "namespace", linux: `"namespaces": [{"type": "network", "path": "/no/such/netns"}],`, status: 1, problem: "netns"},
		} {
			namespaces := `"namespaces": [{"type": "pid"}, {"type": "mount"}],`
			if strings.Contains(test.linux, "namespaces") {
				namespaces = ""
			}
			file := filepath.Join(d.dir, test.name+".json")
			text := fmt.Sprintf(`{"ociVersion": "1.2.0", %s
				"process": {%s "args": ["sh", "-c", "exit 4"], "cwd": "/", "env": ["PATH=/bin"], "user": {}},
				"root": {"path": %q}, "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
				"linux": {%s %s "cgroupsPath": "/%s/%s"}}`, test.extra, test.process, rootfs, test.linux, namespaces, d.namespace, test.name)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			r := d.run(t, "--rm", "--config", file, test.name)
			if r.status != test.status || !strings.Contains(r.stderr, test.problem) {
				t.Errorf("%s: want status %d and %q: %s", test.name, test.status, test.problem, r)
			}
		}
	})
}

// TestLongAndStrangeNames: an id that is a path is refused, and a very long argument arrives.
func TestLongAndStrangeNames(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		for _, id := range []string{"../c", "a/b", ".."} {
			if r := d.run(t, "--rm", busybox, id, "true"); r.status == 0 {
				t.Errorf("id %q: %s", id, r)
			}
		}
		if r := d.run(t, "--rm", busybox, "long", "sh", "-c", "echo ${#1}", "-", strings.Repeat("x", 10000)); r.stdout != "10000\n" {
			t.Errorf("a long argument: %s", r)
		}
		name := strings.Repeat("n", 76) // the longest that containerd takes
		if r := d.run(t, "--rm", busybox, name, "sh", "-c", "exit 3"); r.status != 3 {
			t.Errorf("a long id: %s", r)
		}
	})
}

// TestRuntimeInfo: what `ctr-shim -info` says is what containerd asks for.
func TestRuntimeInfo(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		ctx, client := d.client(t)
		info, err := client.RuntimeInfo(ctx, d.runtime, nil)
		if err != nil {
			t.Fatal(err)
		}
		if info.Name == "" || info.Version.Version == "" || info.Features == nil {
			t.Errorf("%+v", info)
		}
		if _, err := client.LoadContainer(ctx, "none"); !errdefs.IsNotFound(err) {
			t.Errorf("%v", err)
		}
	})
}
