// SPDX-License-Identifier: Apache-2.0

package lease_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

// TestMain makes this binary the other process: CTRD_TEST_DIR is its state directory, its first argument
// what it does.
func TestMain(m *testing.M) {
	dir := os.Getenv("CTRD_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	d, err := open(dir)
	must(err)
	switch os.Args[1] {
	case "hold":
		l := take(d)
		must(l.Hold(ctx, nil, lease.Content, os.Args[2:]...))
		fmt.Println("held")
		io.Copy(io.Discard, os.Stdin)
		must(l.Release())
	case "take":
		for i := range 300 {
			l := take(d)
			name := fmt.Sprint(os.Args[2], "-", i)
			must(l.Hold(ctx, nil, lease.Snapshot, name))
			c, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Exclusive)
			must(err)
			held, err := lease.Live(d)
			must(err)
			if !held.Has(lease.Snapshot, name) {
				must(fmt.Errorf("%s is held and not seen", name))
			}
			must(c.Release())
			must(l.Release())
		}
	}
	os.Exit(0)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(dir string) (*state.Dir, error) {
	return state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run"), Wait: -1})
}

func take(d *state.Dir) *lease.Lease {
	l, err := lease.Take(d)
	must(err)
	return l
}

func fresh(t *testing.T) (*state.Dir, string) {
	t.Helper()
	dir := t.TempDir()
	d, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d, dir
}

func start(t *testing.T, dir string, args ...string) (c *exec.Cmd, in io.WriteCloser, out *bufio.Scanner) {
	t.Helper()
	c = exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), "CTRD_TEST_DIR="+dir)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return c, in, bufio.NewScanner(o)
}

func live(t *testing.T, d *state.Dir) lease.Held {
	t.Helper()
	held, err := lease.Live(d)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// files counts the leases on the disk.
func files(t *testing.T, d *state.Dir) int {
	t.Helper()
	entries, err := os.ReadDir(d.Run("leases"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestHold(t *testing.T) {
	d, _ := fresh(t)
	if held := live(t, d); len(held) != 0 {
		t.Errorf("before the first: %v", held)
	}
	a, b := take(d), take(d)
	if err := a.Hold(ctx, nil, lease.Content, "sha256:a", "sha256:b"); err != nil {
		t.Fatal(err)
	}
	if err := a.Hold(ctx, nil, lease.Snapshot, "default/a key with blanks"); err != nil {
		t.Fatal(err)
	}
	if err := b.Hold(ctx, nil, lease.Content, "sha256:b"); err != nil {
		t.Fatal(err)
	}
	held := live(t, d)
	for _, c := range []struct {
		kind lease.Kind
		name string
		want bool
	}{
		{lease.Content, "sha256:a", true},
		{lease.Content, "sha256:b", true},
		{lease.Content, "sha256:c", false},
		{lease.Content, "sha256:", false},
		{lease.Content, "", false},
		{lease.Snapshot, "default/a key with blanks", true},
		{lease.Snapshot, "sha256:a", false},
	} {
		if held.Has(c.kind, c.name) != c.want {
			t.Errorf("%s %q held: %v", c.kind, c.name, !c.want)
		}
	}
	if err := a.Release(); err != nil {
		t.Error(err)
	}
	if held := live(t, d); held.Has(lease.Content, "sha256:a") || held.Has(lease.Snapshot, "default/a key with blanks") || !held.Has(lease.Content, "sha256:b") {
		t.Errorf("after the first has ended: %v", held)
	}
	if err := b.Release(); err != nil {
		t.Error(err)
	}
	if n := files(t, d); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

// No name can stand for another one's line.
func TestHoldRefusesLines(t *testing.T) {
	d, _ := fresh(t)
	l := take(d)
	defer l.Release()
	if err := l.Hold(ctx, nil, lease.Snapshot, "a", "b\nsnapshot c"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name of two lines: %v", err)
	}
	if held := live(t, d); held.Has(lease.Snapshot, "c") || held.Has(lease.Snapshot, "b") {
		t.Errorf("held: %v", held)
	}
}

// The lease of another process is seen while it lives, and is gone with its file once it is killed.
func TestKilled(t *testing.T) {
	d, dir := fresh(t)
	p, _, out := start(t, dir, "hold", "sha256:p")
	q, in, qout := start(t, dir, "hold", "sha256:q")
	out.Scan()
	qout.Scan()
	if held := live(t, d); !held.Has(lease.Content, "sha256:p") || !held.Has(lease.Content, "sha256:q") {
		t.Errorf("of live processes: %v", held)
	}
	p.Process.Kill()
	p.Wait()
	if n := files(t, d); n != 2 {
		t.Errorf("%d files before the next look, want 2", n)
	}
	if held := live(t, d); held.Has(lease.Content, "sha256:p") || !held.Has(lease.Content, "sha256:q") {
		t.Errorf("after P was killed: %v", held)
	}
	if n := files(t, d); n != 1 {
		t.Errorf("%d files, want Q's alone", n)
	}
	in.Close()
	if err := q.Wait(); err != nil {
		t.Error(err)
	}
	if n := files(t, d); n != 0 {
		t.Errorf("%d files after Q has ended", n)
	}
}

// What is named before a collection begins is seen by it; what is named while it goes on waits for its end.
func TestHoldWaitsForCollection(t *testing.T) {
	d, dir := fresh(t)
	l := take(d)
	defer l.Release()
	if err := l.Hold(ctx, nil, lease.Content, "before"); err != nil {
		t.Fatal(err)
	}
	c, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	// P.1 comes too late.
	p, in, out := start(t, dir, "hold", "after")
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		all, err := d.Locks().All()
		if err != nil || time.Now().After(end) {
			t.Fatal("P does not wait", err)
		}
		if len(all) == 1 && len(all[0].Waiters) == 1 && all[0].Waiters[0].PID == p.Process.Pid {
			break
		}
	}
	if held := live(t, d); !held.Has(lease.Content, "before") || held.Has(lease.Content, "after") {
		t.Errorf("during the collection: %v", held)
	}
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	// P.2 holds it now.
	out.Scan()
	if held := live(t, d); !held.Has(lease.Content, "after") {
		t.Errorf("after the collection: %v", held)
	}
	in.Close()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// A collection that is not waited for leaves nothing held.
func TestHoldGivesUp(t *testing.T) {
	d, _ := fresh(t)
	impatient, err := state.Open(state.Config{Root: d.Path(), State: d.Run()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	l := take(impatient)
	defer l.Release()
	if err := l.Hold(ctx, nil, lease.Content, "x"); !errdefs.IsAborted(err) {
		t.Errorf("during a collection: %v", err)
	}
	if live(t, d).Has(lease.Content, "x") {
		t.Error("held although Hold failed")
	}
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	// Those who hold things are not in each other's way.
	other, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Shared)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	if err := l.Hold(ctx, nil, lease.Content, "x"); err != nil {
		t.Errorf("beside another one: %v", err)
	}
}

// Leases come and go while others look: none that is just being taken is mistaken for a dead one, none
// is lost.
func TestLiveWhileTaken(t *testing.T) {
	d, dir := fresh(t)
	stop := make(chan struct{})
	var lookers sync.WaitGroup
	for range 2 {
		lookers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := lease.Live(d); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var all []*exec.Cmd
	for p := range 4 {
		c, _, _ := start(t, dir, "take", strconv.Itoa(p))
		all = append(all, c)
	}
	for _, c := range all {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	lookers.Wait()
	live(t, d)
	if n := files(t, d); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

// Goroutines of one piece of work name things at once.
func TestHoldAtOnce(t *testing.T) {
	d, _ := fresh(t)
	l := take(d)
	defer l.Release()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			if err := l.Hold(ctx, nil, lease.Content, fmt.Sprint(i, "a"), fmt.Sprint(i, "b")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	held := live(t, d)
	for i := range 100 {
		if !held.Has(lease.Content, fmt.Sprint(i, "a")) || !held.Has(lease.Content, fmt.Sprint(i, "b")) {
			t.Errorf("%d is not held", i)
		}
	}
}
