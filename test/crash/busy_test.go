// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// TestManyAtOnce starts 50 containers at once while ctr-task ls, which is told not to wait for any lock,
// never fails.
func TestManyAtOnce(t *testing.T) {
	const many = 50
	w := world.New(t, bin)
	pull(small)(t, w)
	ended := make(chan struct{})
	var listings sync.WaitGroup
	listings.Go(func() {
		n, longest := 0, time.Duration(0)
		for ; ; n++ {
			select {
			case <-ended:
				t.Logf("%d listings, the longest took %s", n, longest.Round(time.Millisecond))
				return
			default:
			}
			r := w.Run(t, nil, "ctr-task", "ls", "--wait", "0")
			longest = max(longest, r.Took)
			if r.Status != 0 || r.Stderr != "" {
				t.Errorf("it waits or fails: %s", r)
			}
		}
	})
	var runs sync.WaitGroup
	for i := range many {
		runs.Go(func() {
			r := w.Run(t, nil, "ctr-task", "run", "--rm", small, "sh", "-c", fmt.Sprintf("echo %d; exit 7", i))
			if r.Status != 7 || r.Stdout != fmt.Sprintln(i) {
				t.Errorf("want status 7 and %d: %s", i, r)
			}
		})
	}
	runs.Wait()
	close(ended)
	listings.Wait()
	if left := w.Fields(t, "ctr-task", "ls", "-q"); len(left) > 0 {
		t.Errorf("there still are %v", left)
	}
	w.Settle(t)
	w.Empty(t)
}

// A holder is a command that is stopped (SIGSTOP) while it holds a lock.
type holder struct {
	name    string
	before  string // a command that makes what it needs, if any
	point   string
	command string
	writers map[string]int // command -> status of those who need the lock
	others  []string       // writers who do not need it
	again   []string       // what succeeds when the holder has gone on
}

func holders() []holder {
	create := "ctr-task create " + small
	return []holder{
		{
			name: "container", point: "task.recorded", command: "ctr-task create --name h " + small + " sleep 1000",
			writers: map[string]int{"ctr-task start h": 5, "ctr-task rm h": 5, "ctr-task rm -f h": 5, "ctr-task run --name h " + small: 125},
			others:  []string{create, "ctr-task run --rm " + small + " true", "ctr-image tag " + small + " other:1", "ctr-task exec c true"},
			again:   []string{"ctr-task start h", "ctr-task exec h true", "ctr-task rm -f h"},
		},
		{
			name: "database", point: "state.before-commit", command: "ctr-task create --name h " + small + " sleep 1000",
			writers: map[string]int{
				create: 5, "ctr-task run -d " + small: 125, "ctr-task rm -f d": 5, "ctr-image tag " + small + " other:1": 5,
				"ctr-image rm " + small: 5, "ctr-snap prepare s": 5, "ctr-snap rm n": 5, "ctr-pull -q " + second: 5,
			},
			others: []string{"ctr-task run --rm " + small + " true", "ctr-task exec c true"},
			again:  []string{"ctr-task start h", "ctr-snap rm n", "ctr-task rm -f d"},
		},
		{
			name: "database of this boot", point: "state.before-commit", command: "ctr-task run --rm -d --name h " + small + " sleep 1000",
			writers: map[string]int{"ctr-task run --rm " + small + " true": 125},
			others:  []string{create, "ctr-image tag " + small + " other:1", "ctr-snap prepare s", "ctr-task exec c true"},
			again:   []string{"ctr-task exec h true", "ctr-task run --rm " + small + " true"},
		},
		{
			name: "collect", before: "ctr-pull -q " + second, point: "gc.trashed-blob@2", command: "ctr-image rm " + second,
			writers: map[string]int{create: 5, "ctr-task run " + small: 125, "ctr-image rm -f none": 5, "ctr-pull -q " + second: 5},
			others:  []string{"ctr-task exec c true", "ctr-task stop -t 0 c", "ctr-image tag " + small + " other:1"},
			again:   []string{create, "ctr-image rm -f none", "ctr-pull -q " + second},
		},
		{
			name: "blob", point: "content.after-data@2", command: "ctr-pull -q " + large,
			writers: map[string]int{"ctr-pull -q " + large: 5},
			others:  []string{create, "ctr-pull -q " + second, "ctr-image rm -f none", "ctr-task run --rm " + small + " true"},
			again:   []string{"ctr-pull -q " + large, "ctrd fsck --deep"},
		},
	}
}

// TestStoppedHolder stops a command that holds a lock. Every reader answers without waiting, every writer
// that needs the lock gives up in time and names the holder, the others do their work; and when the
// holder goes on, all is well.
func TestStoppedHolder(t *testing.T) {
	for _, h := range holders() {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			h.test(t)
		})
	}
}

// readers answer whoever holds whatever. Container c runs, d runs too, the supervisor of e was killed.
func readers() []string {
	return []string{
		"ctr-task ls", "ctr-task ls --json", "ctr-task inspect c", "ctr-task logs c", "ctr-task top c", "ctr-task stats --interval 10ms c",
		"ctr-image ls", "ctr-image inspect " + small, "ctr-snap ls", "ctr-snap tree", "ctr-snap info n", "ctrd locks", "ctrd fsck", "ctrd status", "ctrd du", "ctrd events",
	}
}

func (h holder) test(t *testing.T) {
	w := world.New(t, bin)
	for _, s := range []step{
		pull(small), do("ctr-task run -d --name c " + small + " sleep 1000"), do("ctr-task run -d --name d " + small + " sleep 1000"),
		do("ctr-snap prepare s0"), do("ctr-snap commit n s0"),
	} {
		s(t, w)
	}
	if h.before != "" {
		w.Must(t, words(h.before)...)
	}
	cmd := h.stop(t, w)
	who := fmt.Sprintf("pid %d (", cmd.Process.Pid)

	orphan(t, w, "d") // dead, with a lock that may be wanted to say so
	for _, line := range readers() {
		w.Must(t, append(words(line), "--wait", "0")...)
	}
	if locks := w.Must(t, "ctrd", "locks"); !strings.Contains(locks, who) {
		t.Errorf("ctrd locks does not name process %d:\n%s", cmd.Process.Pid, locks)
	}
	for line, status := range h.writers {
		args := words(line)
		r := w.Run(t, nil, slices.Concat(args[:1], []string{"--wait", "1s"}, args[1:])...)
		if r.Status != status || !strings.Contains(r.Stderr, who) || !strings.Contains(r.Stderr, "busy") {
			t.Errorf("want status %d and the name of process %d: %s", status, cmd.Process.Pid, r)
		}
	}
	for _, line := range h.others {
		w.Must(t, words(line)...)
	}
	w.Whole(t)

	cmd.Process.Signal(syscall.SIGCONT)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the holder, when it goes on: %v", err)
	}
	for _, line := range h.again {
		w.Must(t, words(line)...)
	}
	w.Whole(t)
	w.Empty(t)
}

// stop starts the holder and waits until it is stopped at its point.
func (h holder) stop(t *testing.T, w *world.World) *exec.Cmd {
	cmd := w.Command(context.Background(), []string{"CTRD_STOP=" + h.point}, words(h.command)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if strings.Contains(string(stat), ") T ") {
			return cmd
		}
		if err != nil || time.Now().After(deadline) || strings.Contains(string(stat), ") Z ") {
			t.Fatalf("%s does not stop at %s", h.command, h.point)
		}
	}
}
