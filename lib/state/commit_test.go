// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// generation is the number of the last commit.
func generation(t testing.TB, d *state.Dir, durable bool) (n int) {
	t.Helper()
	err := d.View(context.Background(), func(tx *state.Tx) (err error) {
		n, err = tx.Generation(durable)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// 64 goroutines write both databases, some of them in vain: each is told the truth of its own update, what failed
// leaves nothing, and the commits are fewer than the updates. The journal has the events of what was committed alone.
func TestSharedCommits(t *testing.T) {
	d := fresh(t)
	if err := d.Update(t.Context(), nil, func(tx *state.Tx) error { return bump(tx, "first") }); err != nil {
		t.Fatal(err)
	}
	const callers, rounds = 64, 20
	before := generation(t, d, true)
	wrong := errors.New("wrong on purpose")
	var all sync.WaitGroup
	for n := range callers {
		all.Go(func() {
			for round := range rounds {
				update := d.Update
				if n%2 == 1 {
					update = d.UpdateRun
				}
				fails := round%4 == 3
				err := update(t.Context(), nil, func(tx *state.Tx) error {
					err := errors.Join(bump(tx, fmt.Sprint("counter", n%2)), bump(tx, fmt.Sprint("own", n)))
					if fails {
						// One that is new, one that goes, and one that moves.
						err = errors.Join(err, things.Put(tx, "vain", fmt.Sprint(n), thing{n}), things.Delete(tx, "default", fmt.Sprint("counter", n%2)),
							things.Move(tx, "default", fmt.Sprint("own", n), fmt.Sprint("vain", n), thing{1}), wrong)
					}
					return err
				})
				if fails && !errors.Is(err, wrong) || !fails && err != nil {
					t.Errorf("%d: %v", n, err)
				}
			}
		})
	}
	all.Wait()
	const good = rounds * 3 / 4
	for n := range 2 {
		if got := get(t, d, fmt.Sprint("counter", n)); got != callers/2*good {
			t.Errorf("counter%d is %d, want %d", n, got, callers/2*good)
		}
	}
	for n := range callers {
		if got := get(t, d, fmt.Sprint("own", n)); got != good {
			t.Errorf("own%d is %d, want %d", n, got, good)
		}
		if got := get(t, d, fmt.Sprint("vain", n)); got != 0 {
			t.Errorf("vain%d is %d", n, got)
		}
	}
	err := d.View(t.Context(), func(tx *state.Tx) error {
		if names, err := things.Namespaces(tx); err != nil || len(names) != 1 {
			t.Errorf("namespaces %q, %v", names, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if commits := generation(t, d, true) - before; commits >= callers/2*good {
		t.Errorf("%d commits for %d updates", commits, callers/2*good)
	}
	events := 0
	for _, err := range d.Journal().Read(t.Context(), 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		events++
	}
	if want := 1 + 2*callers*good; events != want {
		t.Errorf("%d events, want %d", events, want)
	}
}

// together makes updates that are in one transaction: the first holds it until all others wait.
func together(t *testing.T, d *state.Dir, first func(*state.Tx) error, others ...func(*state.Tx) error) []error {
	t.Helper()
	errs := make([]error, 1+len(others))
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		errs[0] = d.Update(t.Context(), nil, func(tx *state.Tx) error {
			begun <- struct{}{}
			<-goOn
			return first(tx)
		})
	})
	<-begun
	for i, fn := range others {
		all.Go(func() { errs[i+1] = d.Update(t.Context(), nil, fn) })
	}
	await(t, d, len(others))
	close(goOn)
	all.Wait()
	return errs
}

// An update that asks which commit it sees shares it with no other, so that its plan is true of what it sees.
func TestGenerationAlone(t *testing.T) {
	d := fresh(t)
	put := func(key string) func(*state.Tx) error {
		return func(tx *state.Tx) error { return things.Put(tx, "default", key, thing{1}) }
	}
	if err := d.Update(t.Context(), nil, put("x")); err != nil {
		t.Fatal(err)
	}
	was := generation(t, d, true)
	var saw, others int
	errs := together(t, d, put("a"), func(tx *state.Tx) (err error) {
		if saw, err = tx.Generation(true); err != nil {
			return err
		}
		others = 0
		for range things.All(tx, "default") {
			others++
		}
		return things.Put(tx, "default", "b", thing{1})
	}, put("c"))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	now := generation(t, d, true)
	if now-was != 2 && now-was != 3 || saw <= was || others != 1+saw-was && others != 3 {
		t.Errorf("commit %d saw %d others, between %d and %d", saw, others, was, now)
	}
}

// An update whose function panics takes none of the others with it.
func TestPanicBesideOthers(t *testing.T) {
	d := fresh(t)
	put := func(key string) func(*state.Tx) error {
		return func(tx *state.Tx) error { return things.Put(tx, "default", key, thing{1}) }
	}
	begun, goOn := make(chan struct{}, 2), make(chan struct{})
	var all sync.WaitGroup
	var first, last error
	var panicked any
	all.Go(func() {
		first = d.Update(t.Context(), nil, func(tx *state.Tx) error {
			begun <- struct{}{}
			<-goOn
			return put("a")(tx)
		})
	})
	<-begun
	all.Go(func() {
		defer func() { panicked = recover() }()
		_ = d.Update(t.Context(), nil, func(tx *state.Tx) error {
			if err := put("b")(tx); err != nil {
				return err
			}
			panic("bug")
		})
	})
	all.Go(func() { last = d.Update(t.Context(), nil, put("c")) })
	await(t, d, 2)
	close(goOn)
	all.Wait()
	if first != nil || last != nil || panicked != "bug" {
		t.Error(first, last, panicked)
	}
	if get(t, d, "a") != 1 || get(t, d, "b") != 0 || get(t, d, "c") != 1 {
		t.Error("not as they were told")
	}
}

// await returns when so many updates wait to share a commit.
func await(t *testing.T, d *state.Dir, n int) {
	t.Helper()
	for state.Waiting(d, true) < n {
		if t.Context().Err() != nil {
			t.Fatal("they do not wait")
		}
		runtime.Gosched()
	}
}

// Who waits for others of its own process gives up as it is told to: when its context ends, or in its time.
func TestWaitForOwnProcess(t *testing.T) {
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir(), Wait: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	hold, held := make(chan struct{}), make(chan struct{}, 2)
	done := make(chan error)
	go func() {
		done <- d.Update(context.Background(), nil, func(tx *state.Tx) error {
			held <- struct{}{}
			<-hold
			return bump(tx, "x")
		})
	}()
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { gone <- d.Update(ctx, nil, func(tx *state.Tx) error { return bump(tx, "x") }) }()
	await(t, d, 1)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	err = d.Update(t.Context(), nil, func(tx *state.Tx) error { return bump(tx, "x") })
	var busy *lock.BusyError
	if !errors.As(err, &busy) || len(busy.Owners) != 1 || busy.Waited < 300*time.Millisecond {
		t.Errorf("%v", err)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := get(t, d, "x"); n != 1 {
		t.Errorf("x is %d", n)
	}
}

// BenchmarkUpdates makes small updates by 50 goroutines.
func BenchmarkUpdates(b *testing.B) {
	for _, durable := range []bool{true, false} {
		b.Run(fmt.Sprint("durable=", durable), func(b *testing.B) {
			d := fresh(b)
			update := d.UpdateRun
			if durable {
				update = d.Update
			}
			b.SetParallelism(25) // times 2 processors
			var count atomic.Int64
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					n := int(count.Add(1))
					key := fmt.Sprint(n % 1000)
					err := update(context.Background(), nil, func(tx *state.Tx) error {
						tx.Emit("default", event.ImageUpdate{Name: key})
						return things.Put(tx, "default", key, thing{n})
					})
					if err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
