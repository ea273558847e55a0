// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// patience bounds everything that is waited for.
const patience = 30 * time.Second

// shim is one that containerd is to drive.
type shim struct {
	name    string
	runtime string // what --runtime is given
	program string // its file
}

var shims = []shim{
	{"runc-v2", "io.containerd.runc.v2", filepath.Join(peers, "containerd-shim-runc-v2")},
	{"ctr-shim", ours, ours},
}

var ours = filepath.Join(bin, "ctr-shim")

// daemon is a private containerd: its directories, socket and namespace are its own.
type daemon struct {
	shim
	dir       string
	namespace string
	cmd       *exec.Cmd
	ended     chan struct{}
	more      string // configuration
}

// withDaemon runs a test once for each shim, each with a new daemon, and wants nothing to be left behind.
func withDaemon(t *testing.T, test func(t *testing.T, d *daemon)) {
	for i, s := range shims {
		t.Run(s.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "ctrd-interop-")
			if err != nil {
				t.Fatal(err)
			}
			name := regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-")
			d := &daemon{shim: s, dir: dir, namespace: fmt.Sprintf("%s-%d-%s", mark, i, name)}
			t.Cleanup(func() { d.destroy(t) })
			d.start(t)
			d.must(t, "images", "pull", "--plain-http", busybox)
			test(t, d)
			if !t.Failed() {
				d.settle(t)
			}
		})
	}
}

const config = `version = 4
root = "%[1]s/root"
state = "%[1]s/state"
imports = []
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[plugins.'io.containerd.server.v1.grpc']
  address = "%[1]s/sock"
[plugins.'io.containerd.server.v1.ttrpc']
  address = "%[1]s/sock.ttrpc"
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = "%[1]s/s"
[plugins.'io.containerd.internal.v1.opt']
  path = "%[1]s/opt"
`

// start starts the daemon, also again after it was killed, and waits until it answers.
func (d *daemon) start(t *testing.T) {
	t.Helper()
	file := filepath.Join(d.dir, "config.toml")
	if err := os.WriteFile(file, append(fmt.Appendf(nil, config, d.dir), d.more...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.spawn(); err != nil {
		t.Fatal(err)
	}
	until(t, "containerd answers", func() error {
		select {
		case <-d.ended:
			t.Fatalf("containerd ended: %s", d.tail())
		default:
		}
		if r := d.ctr(t, "version"); r.status != 0 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
}

// spawn starts the daemon with the configuration that is there.
func (d *daemon) spawn() error {
	log, err := os.OpenFile(d.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(filepath.Join(peers, "containerd"), "--config", filepath.Join(d.dir, "config.toml"), "--log-level", "debug")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.Dir = d.dir
	if err := d.cmd.Start(); err != nil {
		return err
	}
	d.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		cmd.Wait()
		close(ended)
	}(d.cmd, d.ended)
	return nil
}

// kill ends the daemon like a crash: nothing of it is told to its shims.
func (d *daemon) kill() {
	d.cmd.Process.Kill()
	<-d.ended
}

func (d *daemon) log() string { return filepath.Join(d.dir, "log") }

// tail is the end of the daemon's log, for a failure.
func (d *daemon) tail() string {
	text, _ := os.ReadFile(d.log())
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// client connects to the daemon. The context has its namespace and the test's patience.
func (d *daemon) client(t *testing.T) (context.Context, *containerd.Client) {
	t.Helper()
	c, err := containerd.New(filepath.Join(d.dir, "sock"), containerd.WithDefaultNamespace(d.namespace))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), d.namespace), patience)
	t.Cleanup(func() {
		cancel()
		c.Close()
	})
	return ctx, c
}

// result is how a command ended.
type result struct {
	args           []string
	stdout, stderr string
	status         int
}

func (r result) String() string {
	return fmt.Sprintf("%s: status %d\n%s%s", strings.Join(r.args, " "), r.status, r.stdout, r.stderr)
}

// command is one of ctr.
func (d *daemon) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(peers, "ctr"), append([]string{"--address", filepath.Join(d.dir, "sock"), "-n", d.namespace}, args...)...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	return cmd
}

// ctr runs a command of ctr to its end, without stdin.
func (d *daemon) ctr(t *testing.T, args ...string) result {
	t.Helper()
	return d.feed(t, "", args...)
}

// feed runs a command of ctr with a text on its stdin.
func (d *daemon) feed(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := d.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(t, ctx, cmd)
}

func finish(t *testing.T, ctx context.Context, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	r := result{cmd.Args[1:], out.String(), withoutWarning(errs.String()), cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		t.Fatalf("it hangs: %s", r)
	}
	return r
}

// withoutWarning drops what containerd and runc say of cgroup v1.
func withoutWarning(text string) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "cgroup v1 is deprecated") }), "")
}

// must runs a command that succeeds and gives its stdout.
func (d *daemon) must(t *testing.T, args ...string) string {
	t.Helper()
	r := d.ctr(t, args...)
	if r.status != 0 {
		t.Fatalf("%s\n%s", r, d.tail())
	}
	return r.stdout
}

// run is `ctr run` with the daemon's shim.
func (d *daemon) run(t *testing.T, args ...string) result {
	t.Helper()
	return d.ctr(t, append([]string{"run", "--runtime", d.runtime}, args...)...)
}

// background starts a container that runs a shell script.
func (d *daemon) background(t *testing.T, id, script string, options ...string) {
	t.Helper()
	args := append([]string{"run", "--runtime", d.runtime, "-d"}, options...)
	d.must(t, append(args, busybox, id, "sh", "-c", script)...)
}

// exec runs a command in a container.
func (d *daemon) exec(t *testing.T, id string, command ...string) result {
	t.Helper()
	return d.ctr(t, append([]string{"task", "exec", "--exec-id", "e" + strconv.Itoa(os.Getpid()) + strconv.FormatInt(time.Now().UnixNano(), 36), id}, command...)...)
}

// remove kills what runs of the containers and removes them.
func (d *daemon) remove(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if d.status(t, id) != "" {
			d.must(t, "task", "rm", "-f", id)
		}
		d.must(t, "containers", "rm", id)
	}
}

// status is what containerd says of a task: RUNNING, STOPPED and so on; empty if there is none.
func (d *daemon) status(t *testing.T, id string) string {
	t.Helper()
	_, status := d.task(t, id)
	return status
}

// task gives the pid and the status of a task that containerd lists.
func (d *daemon) task(t *testing.T, id string) (pid int, status string) {
	t.Helper()
	for line := range strings.Lines(d.must(t, "task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			pid, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return pid, f[2]
		}
	}
	return 0, ""
}

// awaitStatus waits until a task has that status.
func (d *daemon) awaitStatus(t *testing.T, id, want string) {
	t.Helper()
	until(t, id+" is "+want, func() error {
		if got := d.status(t, id); got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// until tries again and again until something holds.
func until(t *testing.T, what string, try func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-limit:
			t.Fatalf("not in time: %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// settle wants nothing to be left of the containers, which the test has removed.
func (d *daemon) settle(t *testing.T) {
	t.Helper()
	until(t, "nothing is left", func() error {
		if left := d.leaks(); len(left) > 0 {
			return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
}

// leaks lists processes, mounts, cgroups, bundles and sockets of containers.
func (d *daemon) leaks() []string {
	var left []string
	for _, pid := range d.processes() {
		left = append(left, fmt.Sprintf("process %d (%s)", pid, commandOf(pid)))
	}
	left = append(left, mountsBelow(d.dir)...)
	for _, c := range cgroups(d.namespace) {
		if filepath.Base(c) != d.namespace {
			left = append(left, "cgroup "+c)
		}
	}
	for _, pattern := range []string{"state/io.containerd.runtime.v2.task/*/*", "root/io.containerd.runtime.v2.task/*/*"} {
		found, _ := filepath.Glob(filepath.Join(d.dir, pattern))
		left = append(left, found...)
	}
	if d.program != ours {
		return left // containerd's shim leaves the sockets of one that was killed
	}
	filepath.WalkDir(filepath.Join(d.dir, "s"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			left = append(left, path)
		}
		return nil
	})
	return left
}

// processes are shims, by their working directory and program, and what runs in containers, by its cgroup.
func (d *daemon) processes() []int {
	var pids []int
	for _, pid := range allProcesses() {
		proc := fmt.Sprintf("/proc/%d/", pid)
		if stat, _ := os.ReadFile(proc + "stat"); strings.Contains(string(stat), ") Z ") || pid == d.cmd.Process.Pid {
			continue
		}
		cwd, _ := os.Readlink(proc + "cwd")
		groups, _ := os.ReadFile(proc + "cgroup")
		if strings.HasPrefix(cwd, d.dir) || strings.Contains(string(groups), "/"+d.namespace) || slices.Contains(d.shims(), pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// shims are the processes of the shim's program that serve this daemon's namespace.
func (d *daemon) shims() []int {
	var pids []int
	for _, pid := range allProcesses() {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if exe == d.program && slices.Contains(strings.Split(string(args), "\x00"), d.namespace) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func allProcesses() []int {
	var pids []int
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		if pid, err := strconv.Atoi(filepath.Base(name)); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func commandOf(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}

// mountsBelow lists the mounts below a directory in every mount namespace that a process is in.
func mountsBelow(dir string) []string {
	var found []string
	seen := map[string]bool{}
	for _, pid := range allProcesses() {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		for line := range strings.Lines(string(table)) {
			if strings.Contains(line, dir+"/") {
				found = append(found, fmt.Sprintf("mount in %s, where process %d is: %s", ns, pid, strings.TrimSpace(line)))
			}
		}
	}
	return found
}

// cgroups lists those with a name in their path, in all hierarchies, parents first.
func cgroups(name string) []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(path, "/"+name) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

func removeCgroups(name string) {
	for _, c := range slices.Backward(cgroups(name)) {
		os.Remove(c)
	}
}

// destroy ends and removes what is left of the daemon, by force.
func (d *daemon) destroy(t *testing.T) {
	if d.cmd == nil {
		return
	}
	d.kill()
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		pids := d.processes()
		if len(pids) == 0 {
			break
		}
		for _, c := range cgroups(d.namespace) {
			os.WriteFile(filepath.Join(c, "freezer.state"), []byte("THAWED"), 0)
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range slices.Backward(strings.Split(string(table), "\n")) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], d.dir+"/") {
			syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
	removeCgroups(d.namespace)
	if t.Failed() {
		t.Logf("containerd's log ends with:\n%s", d.tail())
	}
	if err := os.RemoveAll(d.dir); err != nil {
		t.Errorf("clean up: %v", err)
	}
}
