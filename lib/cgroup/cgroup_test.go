// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/test/world"
)

// Helpers that the test binary becomes when it is started with CGROUP_TEST_ROLE.
func TestMain(m *testing.M) {
	role, args, _ := strings.Cut(os.Getenv("CGROUP_TEST_ROLE"), " ")
	switch role {
	case "":
		os.Exit(world.Ended(m.Run(), testMark))
	case "sleep":
		fmt.Println("up")
		time.Sleep(time.Minute)
	case "count":
		// Writes a byte whenever it runs, so that a reader sees it stand still.
		for {
			fmt.Print(".")
			time.Sleep(time.Millisecond)
		}
	case "bomb":
		// Never done with leaving two more children behind.
		fmt.Println("up")
		for {
			c := exec.Command("/bin/sh", "-c", "sleep 60 & sleep 60 &")
			_ = c.Run()
		}
	case "hog":
		var keep [][]byte
		for range 200 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
		}
		fmt.Println(len(keep))
	case "starter", "leaver", "above":
		if err := act(role, args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "spin":
		fmt.Println("up")
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		}
	}
	os.Exit(0)
}

// testMark begins the names of this process's cgroups.
var testMark = fmt.Sprintf("ctrd-test-%d-", os.Getpid())

// act does something in the hierarchies that args name, v2 alone or all, with the cgroup that they name.
func act(role, args string) error {
	v2, path, _ := strings.Cut(args, " ")
	h, err := mounted()
	if err != nil {
		return err
	}
	if v2 == "true" {
		h = slices.DeleteFunc(slices.Clone(h), func(x hierarchy) bool { return !x.v2 })
	}
	if role == "leaver" {
		return h.leave()
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), "CGROUP_TEST_ROLE=sleep")
	if role == "above" {
		return h.startAbove(func(sys *syscall.SysProcAttr) error {
			c.SysProcAttr = sys
			return c.Start()
		})
	}
	if err := h.start(c, path); err != nil {
		return err
	}
	fmt.Println("up")
	return c.Wait()
}

// everywhere is the list of sets of hierarchies that the tests run over: those of this host, and the
// v2 one alone, which is how a pure v2 host looks to the code.
func everywhere(t *testing.T, fn func(t *testing.T, h tree)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	all, err := mounted()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("host", func(t *testing.T) { fn(t, all) })
	for _, h := range all {
		if h.v2 && len(all) > 1 {
			t.Run("v2 alone", func(t *testing.T) { fn(t, tree{h}) })
		}
	}
}

// newGroup makes a cgroup with a unique name in every hierarchy of h, removed when the test ends.
func newGroup(t *testing.T, h tree, below ...string) string {
	t.Helper()
	path := fmt.Sprint("/", testMark, time.Now().UnixNano())
	t.Cleanup(func() {
		if err := h.kill(path, 5*time.Second); err != nil {
			t.Errorf("clean up: %v", err)
		}
		if err := h.remove(path, 5*time.Second); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	for _, name := range append([]string{""}, below...) {
		for _, dir := range h.dirs(filepath.Join(path, name)) {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				// A v1 cpuset takes no process before it has both.
				b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
				if err == nil {
					_ = os.WriteFile(filepath.Join(dir, f), b, 0)
				}
			}
		}
	}
	return path
}

// start runs a helper inside the cgroup path and waits until it printed something. The child is reaped
// in the background, so that it leaves the cgroup when it dies.
func start(t *testing.T, h tree, path, role string) (pid int, done chan error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The shell joins first, so that the helper and all its children are born inside.
	c := exec.Command("/bin/sh", "-c", `for f; do echo $$ > "$f/cgroup.procs" || exit 1; done; exec "$SELF"`, "sh")
	c.Args = append(c.Args, h.dirs(path)...)
	c.Env = append(os.Environ(), "SELF="+self, "CGROUP_TEST_ROLE="+role)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	first, done := make(chan error, 1), make(chan error, 1)
	go func() {
		r := bufio.NewReader(out)
		_, err := r.ReadByte()
		first <- err
		_, _ = r.WriteTo(discard{})
		done <- c.Wait()
	}()
	if err := <-first; err != nil && role != "hog" {
		t.Fatalf("helper %s: %v", role, err)
	}
	return c.Process.Pid, done
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestPidsAndKill(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h, "a", "a/b")
		p1, d1 := start(t, h, path+"/a/b", "sleep")
		p2, d2 := start(t, h, path+"/a", "sleep")
		want := []int{p1, p2}
		slices.Sort(want)
		got, err := h.pids(path)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("pids: %v, %v; want %v", got, err, want)
		}
		if ok, err := Populated(path); err != nil || !ok {
			t.Errorf("populated: %v, %v", ok, err)
		}
		err = h.remove(path, 50*time.Millisecond)
		if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), strconv.Itoa(p1)) {
			t.Errorf("remove of a busy cgroup: %v", err)
		}
		if err := h.kill(path, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		<-d1
		<-d2
		if got, err := h.pids(path); err != nil || len(got) != 0 {
			t.Errorf("after the kill: %v, %v", got, err)
		}
		if err := h.remove(path, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		for _, dir := range h.dirs(path) {
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
}

func TestKillForks(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		start(t, h, path, "bomb")
		time.Sleep(100 * time.Millisecond)
		if err := h.kill(path, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	})
}

// Without cgroup.kill (before 5.14, or v1 alone) the signals go by number.
func TestKillV1Alone(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		alone := slices.DeleteFunc(slices.Clone(h), func(x hierarchy) bool { return x.v2 })
		if len(alone) == 0 {
			return
		}
		path := newGroup(t, alone)
		for range 3 {
			start(t, alone, path, "bomb")
		}
		time.Sleep(100 * time.Millisecond)
		if err := alone.kill(path, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	})
}

// A process that was moved out of the v2 hierarchy of a hybrid host is still found and killed.
func TestKillMoved(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		if len(h) < 2 {
			return
		}
		path := newGroup(t, h)
		pid, done := start(t, h, path, "sleep")
		for _, x := range h {
			if x.v2 {
				if err := write(x.dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := h.kill(path, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		<-done
	})
}

func TestKillSelf(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		pid := strconv.Itoa(os.Getpid())
		dir := h.v2(path)
		if dir == "" {
			dir = h.v1("pids", path)
		}
		back, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		home := "/"
		for line := range strings.Lines(string(back)) {
			if rest, ok := strings.CutPrefix(line, "0::"); ok {
				home = strings.TrimSpace(rest)
			}
		}
		if err := write(dir, "cgroup.procs", pid); err != nil {
			t.Fatal(err)
		}
		err = h.kill(path, time.Second)
		if err := write(filepath.Join(strings.TrimSuffix(dir, path), home), "cgroup.procs", pid); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("kill of our own cgroup: %v", err)
		}
	})
}

func TestFreeze(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h, "sub")
		_, done := start(t, h, path+"/sub", "count")
		pids, err := h.pids(path)
		if err != nil || len(pids) != 1 {
			t.Fatal(pids, err)
		}
		if f, err := h.frozen(path); f || err != nil {
			t.Fatalf("frozen before: %v, %v", f, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for range 2 { // idempotent
			if err := h.freeze(ctx, path); err != nil {
				t.Fatal(err)
			}
			if f, err := h.frozen(path); !f || err != nil {
				t.Fatalf("frozen after: %v, %v", f, err)
			}
		}
		before := switches(t, pids[0])
		time.Sleep(50 * time.Millisecond)
		if after := switches(t, pids[0]); after != before {
			t.Errorf("a frozen process ran: %d context switches, then %d", before, after)
		}
		for range 2 {
			if err := h.thaw(path); err != nil {
				t.Fatal(err)
			}
		}
		if f, err := h.frozen(path); f || err != nil {
			t.Fatalf("frozen after the thaw: %v, %v", f, err)
		}
		for end := time.Now().Add(5 * time.Second); switches(t, pids[0]) == before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a thawed process does not run")
			}
		}
		// SIGKILL must reach the frozen, too.
		if err := h.freeze(ctx, path); err != nil {
			t.Fatal(err)
		}
		if err := h.kill(path, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		<-done
	})
}

// switches sums the context switches of all threads.
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if _, v, ok := strings.Cut(line, "voluntary_ctxt_switches:"); ok {
				x, err := strconv.Atoi(strings.TrimSpace(v))
				if err != nil {
					t.Fatal(err)
				}
				n += x
			}
		}
	}
	if n == 0 {
		t.Fatalf("no context switches of %d", pid)
	}
	return n
}

func TestFreezeCancelled(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		start(t, h, path, "sleep")
		// A vfork parent waits in a state that v2 cannot freeze; here a context that is over already
		// stands for it: when the first step does not do, the cgroup must be thawed.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		err := h.freeze(ctx, path)
		f, ferr := h.frozen(path)
		if ferr != nil {
			t.Fatal(ferr)
		}
		if (err == nil) != f {
			t.Errorf("freeze: %v, yet frozen is %v", err, f)
		}
	})
}

func TestStats(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		_, done := start(t, h, path, "spin")
		<-done
		s, err := h.measure(path)
		if err != nil {
			t.Fatal(err)
		}
		if s.CPU.Total < 10e6 || s.CPU.User == 0 { // a busy machine gives it a small share
			t.Errorf("cpu after 300 ms of spinning: %+v", s.CPU)
		}
		if dir := h.v1("memory", path); dir != "" {
			if s.Memory.Max == 0 || s.Memory.Limit != 0 {
				t.Errorf("memory: %+v", s.Memory)
			}
			if err := write(dir, "memory.limit_in_bytes", "67108864"); err != nil {
				t.Fatal(err)
			}
		}
		if dir := h.v1("pids", path); dir != "" {
			if s.Pids != (PidsUse{}) {
				t.Errorf("pids of an empty cgroup: %+v", s.Pids)
			}
			if err := write(dir, "pids.max", "77"); err != nil {
				t.Fatal(err)
			}
		}
		start(t, h, path, "sleep")
		if s, err = h.measure(path); err != nil {
			t.Fatal(err)
		}
		if h.v1("memory", path) != "" && (s.Memory.Limit != 64<<20 || s.Memory.Usage == 0) {
			t.Errorf("memory with a limit: %+v", s.Memory)
		}
		if h.v1("pids", path) != "" && (s.Pids.Limit != 77 || s.Pids.Current == 0) {
			t.Errorf("pids with a limit: %+v", s.Pids)
		}
	})
}

func TestOOMKills(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		dir := h.v1("memory", "/")
		if dir == "" {
			return
		}
		path := newGroup(t, h, "inner")
		if n, err := h.oomKills(path); n != 0 || err != nil {
			t.Fatalf("before: %d, %v", n, err)
		}
		if err := write(h.v1("memory", path), "memory.limit_in_bytes", "16777216"); err != nil {
			t.Fatal(err)
		}
		// Without this the kernel swaps instead.
		_ = write(h.v1("memory", path), "memory.memsw.limit_in_bytes", "16777216")
		_, done := start(t, h, path+"/inner", "hog")
		if err := <-done; err == nil {
			t.Fatal("200 MiB fitted into 16")
		}
		if n, err := h.oomKills(path); n == 0 || err != nil {
			t.Errorf("after: %d, %v", n, err)
		}
	})
}

func TestBlock(t *testing.T) {
	var b Block
	b.addV1("8:0 Read 4096\n8:0 Write 10\n8:16 Read 4\n8:0 Total 4106\nTotal 4110\n8:0 Read x\n")
	b.addV2("8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=max\n")
	if b != (Block{Read: 4201, Write: 210}) {
		t.Errorf("%+v", b)
	}
}

func TestAbsent(t *testing.T) {
	const path = "/ctrd-test-that-nobody-makes"
	if pids, err := Pids(path); len(pids) != 0 || err != nil {
		t.Errorf("Pids: %v, %v", pids, err)
	}
	if n, err := Processes(path); n != 0 || err != nil {
		t.Errorf("Processes: %d, %v", n, err)
	}
	if ok, err := Populated(path); ok || err != nil {
		t.Errorf("Populated: %v, %v", ok, err)
	}
	for name, err := range map[string]error{"Kill": Kill(path), "Thaw": Thaw(path), "Remove": Remove(path)} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, frozen := Frozen(path)
	_, stats := Measure(path)
	_, oom := OOMKills(path)
	for name, err := range map[string]error{"Frozen": frozen, "Measure": stats, "OOMKills": oom, "Freeze": Freeze(t.Context(), path)} {
		if !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadPaths(t *testing.T) {
	for _, path := range []string{"", "/", "//", "a", "../a", "/..", "/a/../..", "/a/..", "/a/", "/a//b", "/./a", "/a\x00b"} {
		_, pids := Pids(path)
		_, frozen := Frozen(path)
		for _, err := range []error{pids, frozen, Kill(path), Remove(path), Thaw(path), Freeze(t.Context(), path)} {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v", path, err)
			}
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want tree
	}{
		"v2": {
			"23 20 0:5 / /proc rw - proc proc rw\n30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
			tree{{dir: "/sys/fs/cgroup", v2: true}},
		},
		"hybrid, a container's mounts first": {
			"29 23 0:30 /x /run/c/rootfs/sys/fs/cgroup/memory ro master:3 - cgroup cgroup rw,memory\n" +
				"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
				"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu\n" +
				"33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n" +
				"35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" +
				"36 31 0:32 / /elsewhere rw - cgroup2 cgroup2 rw\n",
			tree{
				{dir: "/sys/fs/cgroup/memory", controllers: []string{"memory"}},
				{dir: "/sys/fs/cgroup/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
				{dir: "/sys/fs/cgroup/systemd", controllers: []string{"name=systemd"}},
				{dir: "/sys/fs/cgroup/unified", v2: true},
			},
		},
		"elsewhere, with a blank": {
			`30 23 0:26 / /my\040cgroup rw - cgroup2 none rw` + "\n",
			tree{{dir: "/my cgroup", v2: true}},
		},
		"nonsense": {"- - - -\n\n 1 2 3 - cgroup2\n1 2 3 / /x rw - cgroup c rw\n", nil},
	} {
		got, err := parseMountinfo(strings.NewReader(c.in))
		if err != nil || !slices.EqualFunc(got, c.want, func(a, b hierarchy) bool {
			return a.dir == b.dir && a.v2 == b.v2 && slices.Equal(a.controllers, b.controllers)
		}) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add("30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
	f.Add(`32 31 0:29 / /sys/fs/cgroup/a\0 rw - cgroup cgroup rw,cpuacct,cpu` + "\n")
	f.Fuzz(func(t *testing.T, in string) {
		h, err := parseMountinfo(strings.NewReader(in))
		if err != nil {
			return
		}
		seen := 0
		for _, x := range h {
			if x.v2 {
				seen++
			} else if len(x.controllers) == 0 {
				t.Errorf("a v1 hierarchy without a controller: %+v", x)
			}
		}
		if seen > 1 {
			t.Errorf("%d v2 hierarchies", seen)
		}
	})
}

func TestDescribe(t *testing.T) {
	s := describe([]int{0, os.Getpid()})
	if !strings.Contains(s, "another pid namespace") || !strings.Contains(s, strconv.Itoa(os.Getpid())+` ("`) {
		t.Error(s)
	}
	if s := describe(make([]int, 20)); !strings.Contains(s, "and 12 more") {
		t.Error(s)
	}
	if s := commandOf(unix.Getpid()); s == "" {
		t.Error("no command")
	}
}

func TestHastenMovesNothing(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	Hasten()
	if after, err := os.ReadFile("/proc/self/cgroup"); err != nil || string(after) != string(before) {
		t.Errorf("%v\n%s\nwas\n%s", err, after, before)
	}
}
