// SPDX-License-Identifier: Apache-2.0

package e2e

import (
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

	"ctrd.dev/ctrd/test/world"
)

// supervisor finds the ctr-shim of a container, or 0.
func supervisor(w *world.World, id string) int {
	dir := filepath.Join(w.State, "tasks", "default", id)
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
	w := world.New(t, bin)
	img := registry + "/busybox:1"
	w.Must(t, "ctr-pull", "-q", img)
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
		cmd.Env = w.Environ()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(150_000)) * time.Microsecond)
		what := []string{"client", "supervisor", "both"}[r.IntN(3)]
		if what != "supervisor" {
			cmd.Process.Kill()
		}
		if pid := supervisor(w, id); pid != 0 && what != "client" {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		cmd.Wait()
		told := fmt.Sprintf("%d: %s killed in ctr-task %s", i, what, strings.Join(args, " "))
		began := time.Now()
		list := w.Must(t, "ctr-task", "ls", "-o", "id,status")
		for line := range strings.Lines(list) {
			if !strings.HasPrefix(line, id+"\t") {
				t.Fatalf("%s: ls shows %q", told, line)
			}
		}
		if r := w.Run(t, nil, "ctr-task", "rm", "-f", id); r.Status != 0 {
			t.Fatalf("%s: %s", told, r)
		}
		if out := w.Must(t, "ctr-task", "ls", "-q"); out != "" {
			t.Fatalf("%s: after rm -f there is %q", told, out)
		}
		removed := time.Since(began)
		left := w.Leaks()
		w.Settle(t)
		if took := time.Since(began); took > time.Second {
			t.Logf("%s: ls and rm -f took %s, until nothing was left %s; at first there was %q", told, removed, took, left)
		}
	}
	w.Whole(t)
	w.Must(t, "ctr-task", "run", "--rm", img, "true")
	w.Settle(t)
}
