// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
)

// life is all that a supervisor does for one container: it returns the first failure.
func (k *task) life() error {
	if err := k.tryServe(); err != nil {
		return err
	}
	var s struct{ Address string }
	k.readJSON("shim.json", &s)
	var err error
	if k.client, err = taskapi.Dial(k.Context(), s.Address); err != nil {
		return err
	}
	if _, err := k.client.Create(k.Context(), k.request()); err != nil {
		return err
	}
	if _, err := k.client.Start(k.Context(), &taskapi.StartRequest{ID: k.id}); err != nil {
		return err
	}
	if k.byEngine {
		k.closeEntry()
	}
	e := k.exec("x", false, false, "sleep", "1000")
	defer e.stdout.Close()
	defer e.stderr.Close()
	if err := e.start(); err != nil {
		return err
	}
	if err := k.client.Kill(k.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}); err != nil {
		return err
	}
	_, err = k.client.Wait(k.Context(), &taskapi.WaitRequest{ID: k.id})
	<-k.gone
	return err
}

// afterCrash is what the next command does, from the task directory and the cgroup's name alone; then
// nothing may be left, and the same container must start again.
func (k *task) afterCrash() {
	k.Helper()
	<-k.gone
	if k.client != nil {
		k.client.Close()
	}
	// A child that the supervisor was about to start has the lock, too, until it starts or finds its parent dead.
	k.until("the end of shim.lock", func() bool {
		held, err := lock.IsHeld(filepath.Join(k.dir, "shim.lock"))
		must(k, err)
		return !held
	})
	k.until("the end of what the supervisor began", func() bool {
		held, err := lock.IsHeld(filepath.Join(k.dir, "engine.lock"))
		must(k, err)
		return !held
	})
	var record exitRecord
	_, err := os.Stat(filepath.Join(k.dir, "exit.json"))
	if recorded := err == nil; recorded {
		k.readJSON("exit.json", &record)
		if left := cgroupDirs(k.spec.Linux.CgroupsPath); len(left) > 0 {
			k.Errorf("the exit is recorded and %v are left", left)
		}
	}
	must(k, errors.Join(cgroup.Kill(k.spec.Linux.CgroupsPath), cgroup.Remove(k.spec.Linux.CgroupsPath)))
	// What the supervisor's death ends takes a moment to end.
	k.until("the end of what the supervisor began", func() bool { return len(processesOf(k.id)) == 0 })
	must(k, k.starts.Release())
	entries, err := os.ReadDir(k.dir)
	must(k, err)
	for _, e := range entries {
		if e.Name() != "rootfs" {
			must(k, os.RemoveAll(filepath.Join(k.dir, e.Name())))
		}
	}
	k.env = nil
	k.start()
	must(k, k.client.Kill(k.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.wait()
	k.nothingLeft()
}

var points = []string{
	"shim.listening", "engine.create.rootfs", "engine.create.state", "engine.create.started", "shim.created", "shim.init-recorded",
	"shim.started", "shim.exec-spawned", "shim.exec-forked", "shim.exec-entered", "engine.exec.started", "shim.exec-started", "shim.exited", "shim.drained", "shim.cleaned", "shim.exit-recorded",
}

func TestKilledAtEachPoint(t *testing.T) {
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			k := newTask(t, "sleep", "1000")
			k.env = []string{"CTRD_CRASH=" + point}
			k.byEngine = strings.HasPrefix(point, "engine.exec")
			err := k.life()
			if strings.HasPrefix(point, "engine.create") {
				// The engine dies, the supervisor cleans up.
				<-k.gone
				k.nothingLeft()
			}
			if strings.HasPrefix(point, "engine.exec") {
				if err == nil || !strings.Contains(err.Error(), "engine died") {
					t.Fatalf("the engine was killed: %v", err)
				}
				must(t, k.shim.Process.Kill())
			}
			t.Logf("killed: %v", err)
			k.afterCrash()
		})
	}
}

func TestKilledAtAnyMoment(t *testing.T) {
	for range 12 {
		k := newTask(t, "sleep", "1000")
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
			for _, pid := range supervisors(k.id) {
				unix.Kill(pid, unix.SIGKILL)
			}
		}()
		t.Log(k.life())
		<-killed
		for _, pid := range supervisors(k.id) {
			unix.Kill(pid, unix.SIGKILL)
		}
		k.afterCrash()
	}
}

func supervisors(id string) (pids []int) {
	for _, p := range processesOf(id) {
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d/cmdline", &pid); err == nil && strings.Contains(p, " serve ") {
			pids = append(pids, pid)
		}
	}
	return pids
}
