// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// where gives the cgroups of a process or thread in the hierarchies of h.
func where(t *testing.T, h tree, proc string) []string {
	t.Helper()
	own, err := os.ReadFile(filepath.Join("/proc", proc, "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, x := range h {
		p, ok := membership(string(own), x.name())
		if !ok {
			t.Fatalf("no %q in\n%s", x.name(), own)
		}
		all = append(all, p)
	}
	return all
}

func wantAll(t *testing.T, what string, got []string, want string) {
	t.Helper()
	for _, g := range got {
		if g != want {
			t.Errorf("%s: %v, want %s everywhere", what, got, want)
			return
		}
	}
}

func helper(t *testing.T, role string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(append(os.Environ(), "CGROUP_TEST_ROLE="+role), env...)
	c.Stderr = os.Stderr
	return c
}

// vanished wants nothing to be left of a cgroup.
func vanished(t *testing.T, h tree, path string) {
	t.Helper()
	for _, dir := range h.dirs(path) {
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
}

func TestStart(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h) + "/sub/own"
		home := where(t, h, "self")
		c := helper(t, "sleep")
		if err := h.start(c, path); err != nil {
			t.Fatal(err)
		}
		wantAll(t, "the process", where(t, h, strconv.Itoa(c.Process.Pid)), path)
		if err := h.removeEmpty(path, time.Second); err != nil {
			t.Error(err)
		}
		wantAll(t, "the process, of whose cgroup somebody tried to get rid", where(t, h, strconv.Itoa(c.Process.Pid)), path)
		c.Process.Kill()
		c.Wait()
		if got := where(t, h, "self"); !slices.Equal(got, home) {
			t.Errorf("this process is in %v, was in %v", got, home)
		}
		if err := h.removeEmpty(path, 5*time.Second); err != nil {
			t.Error(err)
		}
		vanished(t, h, filepath.Dir(path))
		if !h.exists(filepath.Dir(filepath.Dir(path))) {
			t.Error("a cgroup that somebody else had made is gone")
		}
	})
}

// Who is in the root cgroup has nothing to get out of.
func TestConfining(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.type"), []byte("domain\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cpu, memory := hierarchy{dir: "/x/cpu", controllers: []string{"cpu", "cpuacct"}}, hierarchy{dir: "/x/memory", controllers: []string{"memory"}}
	v2, inner := hierarchy{dir: "/x/unified", v2: true}, hierarchy{dir: dir, v2: true}
	for _, c := range []struct {
		own  string
		all  tree
		want tree
	}{
		{"3:memory:/\n2:cpu,cpuacct:/\n0::/\n", tree{cpu, memory, v2}, tree{}},
		{"3:memory:/a\n2:cpu,cpuacct:/\n0::/\n", tree{cpu, memory, v2}, tree{memory}},
		{"3:memory:/\n2:cpu,cpuacct:/b\n0::/c\n", tree{cpu, memory, v2}, tree{cpu, v2}},
		{"2:cpu,cpuacct:/\n", tree{cpu, memory}, tree{memory}},
		{"0::/\n", tree{inner}, tree{inner}},
	} {
		if got := c.all.confining(c.own); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %v, want %v", c.own, got, c.want)
		}
	}
}

// Kernels before 5.7 move the process once it runs.
func TestStartMove(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		if h.v2("/") == "" {
			return
		}
		alone := slices.DeleteFunc(slices.Clone(h), func(x hierarchy) bool { return !x.v2 })
		path := newGroup(t, alone)
		c := helper(t, "sleep")
		if err := alone.startMove(c, path); err != nil {
			t.Fatal(err)
		}
		wantAll(t, "the process", where(t, alone, strconv.Itoa(c.Process.Pid)), path)
		c.Process.Kill()
		c.Wait()
		c = helper(t, "sleep")
		if err := alone.startMove(c, path+"/absent"); err == nil || c.ProcessState == nil {
			t.Errorf("into a cgroup that is not there: %v, %v", err, c.ProcessState)
		}
	})
}

// What kills the cgroup of a starter does not reach what it has started.
func TestStartSurvives(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		unit, own := newGroup(t, h), newGroup(t, h)
		_, done := start(t, h, unit, "starter "+strconv.FormatBool(len(h) == 1)+" "+own)
		pids, err := h.pids(own)
		if err != nil || len(pids) != 1 {
			t.Fatalf("in the cgroup of its own: %v, %v", pids, err)
		}
		if err := h.kill(unit, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		<-done
		if err := unix.Kill(pids[0], 0); err != nil {
			t.Errorf("it died with its starter: %v", err)
		}
		wantAll(t, "it", where(t, h, strconv.Itoa(pids[0])), own)
	})
}

// Starts and removals of one cgroup, side by side: no start fails, and nothing is left.
func TestStartRemove(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h) + "/parent/own"
		var work sync.WaitGroup
		for range 4 {
			work.Go(func() {
				for range 20 {
					c := exec.Command("/bin/true")
					if err := h.start(c, path); err != nil {
						t.Error(err)
						return
					}
					if err := c.Wait(); err != nil {
						t.Error(err)
					}
					if err := h.removeEmpty(path, time.Second); err != nil {
						t.Error(err)
					}
				}
			})
		}
		work.Wait()
		if err := h.removeEmpty(path, 5*time.Second); err != nil {
			t.Error(err)
		}
		vanished(t, h, filepath.Dir(path))
	})
}

func TestPlace(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		pid, done := start(t, h, path, "sleep")
		if err := h.place(pid, path+"/other"); err != nil {
			t.Fatal(err)
		}
		wantAll(t, "the process", where(t, h, strconv.Itoa(pid)), path+"/other")
		unix.Kill(pid, unix.SIGKILL)
		<-done
		if err := h.place(pid, path+"/other"); err == nil {
			t.Error("a process that is gone was moved")
		}
	})
}

// What a process starts above its own cgroup can remove that one.
func TestStartAbove(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		c := helper(t, "above "+strconv.FormatBool(len(h) == 1))
		if err := h.start(c, path+"/own"); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		pids, err := h.pids(path)
		if err != nil || len(pids) != 1 {
			t.Fatalf("%v, %v", pids, err)
		}
		wantAll(t, "the process", where(t, h, strconv.Itoa(pids[0])), path)
		if err := h.removeEmpty(path+"/own", time.Second); err != nil {
			t.Error(err)
		}
		vanished(t, h, path+"/own")
	})
}

// Whichever of those that share a cgroup ends last removes it, or whoever looks later: two that leave at one moment may
// each see the other.
func TestLeave(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		for range 5 {
			var work sync.WaitGroup
			for range 4 {
				work.Go(func() {
					c := helper(t, "leaver "+strconv.FormatBool(len(h) == 1))
					if err := h.start(c, path+"/own"); err != nil {
						t.Error(err)
					} else if err := c.Wait(); err != nil {
						t.Error(err)
					}
				})
			}
			work.Wait()
			if err := h.removeEmpty(path+"/own", time.Second); err != nil {
				t.Error(err)
			}
			vanished(t, h, path+"/own")
		}
		home := where(t, h, "self")
		if err := h.leave(); err != nil {
			t.Error(err)
		}
		if got := where(t, h, "self"); !slices.Equal(got, home) {
			t.Errorf("a process that has no cgroup of its own left %v for %v", home, got)
		}
	})
}

// A thread that is given back would keep what was done to it, and the first thread never ends.
func TestOnThread(t *testing.T) {
	var work sync.WaitGroup
	for range 50 {
		work.Go(func() {
			err := onThread(func() error {
				if unix.Gettid() == unix.Getpid() {
					return fmt.Errorf("on the first thread")
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
}

func TestMake(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		for _, p := range []string{"/a/b/c", "/a/b/c", "/a/d"} {
			if err := h.make(path + p); err != nil {
				t.Fatal(err)
			}
		}
		_, done := start(t, h, path+"/a/b/c", "spin") // ready for processes, in a cpuset, too
		<-done
		if err := h.remove(path+"/a/b/c", 5*time.Second); err != nil {
			t.Fatal(err)
		}
		vanished(t, h, path+"/a/b")
		if !h.exists(path + "/a/d") {
			t.Error("a cgroup beside it is gone")
		}
		if err := h.remove(path+"/a/d", 5*time.Second); err != nil {
			t.Fatal(err)
		}
		vanished(t, h, path+"/a")
		if !h.exists(path) {
			t.Error("a cgroup that Make has not made is gone")
		}
	})
}

// Two containers of one parent come and go: no start finds its parent gone.
func TestMakeRemove(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		var work sync.WaitGroup
		for i := range 4 {
			work.Go(func() {
				own := fmt.Sprintf("%s/parent/of/%d", path, i)
				for range 25 {
					if err := h.make(own); err != nil {
						t.Error(err)
						return
					}
					if err := h.remove(own, 5*time.Second); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		work.Wait()
		vanished(t, h, path+"/parent")
	})
}

// TestHastenBesideStart: the thread of a start is not moved back by a Hasten of its process.
func TestHastenBesideStart(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		over := make(chan struct{})
		var hastens sync.WaitGroup
		for range 2 {
			hastens.Go(func() {
				for {
					select {
					case <-over:
						return
					default:
						Hasten()
					}
				}
			})
		}
		defer hastens.Wait()
		defer close(over)
		for range 50 {
			c := helper(t, "sleep")
			if err := h.start(c, path); err != nil {
				t.Fatal(err)
			}
			at := where(t, h, strconv.Itoa(c.Process.Pid))
			c.Process.Kill()
			c.Wait()
			wantAll(t, "a process that was started beside a Hasten", at, path)
		}
	})
}
