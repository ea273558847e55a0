// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// try runs a command in a world and gives what it printed and its exit status, or -1 when a signal ended it.
func (w *world) try(env []string, args ...string) (stdout, stderr string, status int) {
	cmd := exec.Command(filepath.Join(bin, args[0]), args[1:]...)
	cmd.Env = w.environ(env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs a command that succeeds, in a time within which nothing that waits for the dead would end.
func (w *world) must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, status := w.try(nil, args...)
	if status != 0 {
		t.Fatalf("%s: status %d: %s", strings.Join(args, " "), status, errs)
	}
	return out
}

// settle waits until nothing of the world is left.
func (w *world) settle(t *testing.T) {
	t.Helper()
	var left []string
	for range 500 {
		if left = w.leaks(); len(left) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("left behind: %s", strings.Join(left, "; "))
}

func (w *world) close(t *testing.T) {
	t.Cleanup(func() {
		if err := w.clean(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// supervisor finds the ctr-shim of a container, or 0.
func (w *world) supervisor(id string) int {
	dir := filepath.Join(w.state, "tasks", "default", id)
	names, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, n := range names {
		if cwd, _ := os.Readlink(n); cwd == dir {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(n)))
			if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); filepath.Base(exe) == "ctr-shim" {
				return pid
			}
		}
	}
	return 0
}

// TestKill kills the client, the supervisor or both at random moments of a container's life. The next
// command sees the truth and cleans up.
func TestKill(t *testing.T) {
	times := 200
	if testing.Short() {
		times = 30
	}
	if n, err := strconv.Atoi(os.Getenv("CTRD_E2E_KILLS")); err == nil {
		times = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorld()
	w.close(t)
	img := registry + "/busybox:1"
	w.must(t, "ctr-pull", "-q", img)
	for i := range times {
		id := fmt.Sprintf("k%d", i)
		args := []string{"run", "--name", id}
		if r.IntN(2) == 0 {
			args = append(args, "--rm")
		}
		if r.IntN(2) == 0 {
			args = append(args, "-d")
		}
		cmd := exec.Command(filepath.Join(bin, "ctr-task"), append(args, img, "sleep", "0.05")...)
		cmd.Env = w.environ()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(150_000)) * time.Microsecond)
		what := []string{"client", "supervisor", "both"}[r.IntN(3)]
		if what != "supervisor" {
			cmd.Process.Kill()
		}
		if pid := w.supervisor(id); pid != 0 && what != "client" {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		cmd.Wait()
		told := fmt.Sprintf("%d: %s killed in ctr-task %s", i, what, strings.Join(args, " "))
		began := time.Now()
		list := w.must(t, "ctr-task", "ls", "-o", "id,status")
		for line := range strings.Lines(list) {
			if !strings.HasPrefix(line, id+"\t") {
				t.Fatalf("%s: ls shows %q", told, line)
			}
		}
		if _, errs, status := w.try(nil, "ctr-task", "rm", "-f", id); status != 0 {
			t.Fatalf("%s: rm -f: status %d: %s", told, status, errs)
		}
		if out := w.must(t, "ctr-task", "ls", "-q"); out != "" {
			t.Fatalf("%s: after rm -f there is %q", told, out)
		}
		removed := time.Since(began)
		left := w.leaks()
		w.settle(t)
		if took := time.Since(began); took > time.Second {
			t.Logf("%s: ls and rm -f took %s, until nothing was left %s; at first there was %q", told, removed, took, left)
		}
	}
	w.must(t, "ctrd", "fsck")
	w.must(t, "ctr-task", "run", "--rm", img, "true")
	w.settle(t)
}
