// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const many = 1000

// threadsNow counts the threads of this process.
func threadsNow(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func queued() (n int) {
	queues.Lock()
	defer queues.Unlock()
	for _, q := range queues.of {
		n += q.callers
	}
	return n
}

// A thousand callers of one process wait for the locks of a thousand containers, and as many for one
// more, that another process holds: they share a few threads, each ends at its deadline, nothing stays
// behind, and when the holder lets go each lock can be had.
func TestManyWaiters(t *testing.T) {
	dir := t.TempDir()
	before := threadsNow(t)
	p := start(t, dir, "many")
	p.line(t)
	d := Dir{Path: dir, Wait: 6 * time.Second}
	done := make(chan error, 2*many)
	for i := range many {
		for _, name := range []string{fmt.Sprint(i), "0"} {
			go func() {
				_, err := d.Acquire(context.Background(), nil, Container, name, Exclusive)
				done <- err
			}()
		}
	}
	until(t, "all wait", func() bool { return queued() == 2*many })
	t.Logf("%d threads for %d waits, %d before", threadsNow(t), 2*many, before)
	if n := threadsNow(t); n > before+many/10 { // on a busy host an open(2) that is short of time takes one, too
		t.Errorf("%d threads, %d before", n, before)
	}
	for range 2 * many {
		var busy *BusyError
		if err := <-done; !errors.As(err, &busy) || busy.Waited < d.Wait {
			t.Fatalf("ended with %v", err)
		}
	}
	if n := queued(); n != 0 {
		t.Errorf("%d callers are still queued", n)
	}
	// Who comes when every thread waits in vain gets its lock all the same, and the abandoned waits go with
	// the holder.
	got := make(chan *Lock)
	d.Wait = forever
	for i := range many {
		go func() {
			l, err := d.Acquire(context.Background(), nil, Container, fmt.Sprint(i), Exclusive)
			if err != nil {
				t.Error(err)
			}
			got <- l
		}()
	}
	until(t, "all wait again", func() bool { return queued() == many })
	p.end(t)
	for range many {
		release(t, <-got)
	}
	until(t, "nothing is left", func() bool {
		queues.Lock()
		defer queues.Unlock()
		return len(queues.of) == 0 && len(threads) == 0
	})
}

// Callers of one process get a lock in the order in which they came, also when the one before gave up.
func TestOrderOfCallers(t *testing.T) {
	for _, rank := range []Rank{Container, Database} {
		d := Dir{Path: t.TempDir(), Wait: forever}
		l := acquire(t, d, rank, "x", Exclusive)
		got := make(chan int, 20)
		var cancels []context.CancelFunc
		for i := range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			cancels = append(cancels, cancel)
			go func() {
				l, err := d.Acquire(ctx, nil, rank, "x", Exclusive)
				if err != nil {
					got <- -1
					return
				}
				got <- i
				release(t, l)
			}()
			until(t, "it is queued", func() bool { return queued() == i+1 })
		}
		for _, i := range []int{0, 7} {
			cancels[i]()
			if n := <-got; n != -1 {
				t.Errorf("%s: caller %d got it", rank, n)
			}
		}
		release(t, l)
		var order []int
		for range 18 {
			order = append(order, <-got)
		}
		if !slices.IsSorted(order) || order[0] != 1 {
			t.Errorf("%s: order %v", rank, order)
		}
		for _, cancel := range cancels {
			cancel()
		}
	}
}

// Goroutines of several processes count in one file, some giving up now and then: no count is lost.
func TestManyCallersExclude(t *testing.T) { testCounting(t, "callers", 3, callers*callerCounts) }

// The files of killed holders go, those of live ones, of young ones and of hot locks stay.
func TestSweep(t *testing.T) {
	d := Dir{Path: filepath.Join(t.TempDir(), "locks"), Wait: forever}
	if n, err := d.Sweep(); n != 0 || err != nil {
		t.Errorf("missing directory: %d, %v", n, err)
	}
	path := func(rank Rank, name string) string { return filepath.Join(d.Path, rank.String(), name) }
	age := func(p string) {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"killed", "young"} {
		p := start(t, d.Path, "exclusive-container", name)
		p.line(t)
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
	release(t, acquire(t, d, Collect, "hot", Exclusive))
	held, shared := acquire(t, d, Container, "held", Exclusive), acquire(t, d, Image, "shared", Shared)
	for _, p := range []string{path(Container, "killed"), path(Container, "held"), path(Image, "shared"), path(Collect, "hot")} {
		age(p)
	}
	if n, err := d.Sweep(); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	for p, there := range map[string]bool{path(Container, "killed"): false, path(Container, "young"): true, path(Container, "held"): true,
		path(Image, "shared"): true, path(Collect, "hot"): true} {
		if _, err := os.Stat(p); (err == nil) != there {
			t.Errorf("%s: %v", p, err)
		}
	}
	release(t, held)
	release(t, shared)
}

// Locks exclude each other while their files are swept away.
func TestSweepWhileTaken(t *testing.T) {
	dir := t.TempDir()
	var all []*process
	for range 4 {
		all = append(all, start(t, dir, "churn", filepath.Join(dir, "inside")))
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, p := range all {
			p.wait(t)
		}
	}()
	x := filepath.Join(dir, "image", "x")
	for {
		select {
		case <-ended:
			return
		default:
			os.Chtimes(x, time.Unix(1, 0), time.Unix(1, 0))
			if _, err := sweep(x); err != nil {
				t.Error(err)
			}
		}
	}
}
