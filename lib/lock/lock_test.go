// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

var forever = time.Duration(-1)

func acquire(t *testing.T, d Dir, rank Rank, name string, mode Mode) *Lock {
	t.Helper()
	l, err := d.Acquire(t.Context(), nil, rank, name, mode)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func release(t *testing.T, l interface{ Release() error }) {
	t.Helper()
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// until waits for something that only the kernel's table of locks tells.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// listed gives what All says of one lock.
func listed(t *testing.T, d Dir, name string) State {
	t.Helper()
	all, err := d.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	return State{}
}

func pids(owners []Owner) (all []int) {
	for _, o := range owners {
		all = append(all, o.PID)
	}
	slices.Sort(all)
	return all
}

// Eight processes count in one file, each reading and writing it in two steps: no count is lost.
func TestExclusive(t *testing.T) { testCounting(t, "count", 8, counts) }

// testCounting has processes of a role count in one file, and wants each of them to have counted to each.
func testCounting(t *testing.T, role string, processes, each int) {
	t.Helper()
	dir := t.TempDir()
	counter := filepath.Join(dir, "counter")
	if err := os.WriteFile(counter, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all []*process
	for range processes {
		all = append(all, start(t, dir, role, counter))
	}
	for _, p := range all {
		p.wait(t)
	}
	data, err := os.ReadFile(counter)
	if want := strconv.Itoa(processes * each); err != nil || string(data) != want {
		t.Errorf("counted to %s, %v; want %s", data, err, want)
	}
}

// Shared holders hold together; an exclusive one waits for the last of them, and then keeps them out.
func TestShared(t *testing.T) {
	dir := t.TempDir()
	// P.1 and Q.1 hold it together.
	p, q := start(t, dir, "shared", "x"), start(t, dir, "shared", "x")
	p.line(t)
	q.line(t)
	_, err := Dir{Path: dir}.Acquire(t.Context(), nil, Image, "x", Exclusive)
	var busy *BusyError
	if !errors.As(err, &busy) {
		t.Fatalf("exclusive beside shared: %v", err)
	}
	want := []int{p.pid(), q.pid()}
	slices.Sort(want)
	if !slices.Equal(pids(busy.Owners), want) {
		t.Errorf("owners %v, want %v", busy.Owners, want)
	}
	for _, o := range busy.Owners {
		if o.Command != "exe shared x" || !o.Since.IsZero() {
			t.Errorf("owner %+v", o)
		}
	}
	d := Dir{Path: dir, Wait: forever}
	got := make(chan *Lock)
	go func() {
		l, err := d.Acquire(context.Background(), nil, Image, "x", Exclusive)
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	until(t, "the exclusive lock is waited for", func() bool { return len(listed(t, d, "x").Waiters) == 1 })
	// P.2 lets go: Q still holds.
	p.end(t)
	select {
	case <-got:
		t.Fatal("exclusive while one shares")
	default:
	}
	// Q.2 lets go.
	q.end(t)
	l := <-got
	if _, err := (Dir{Path: dir}).Acquire(t.Context(), nil, Image, "x", Shared); !errdefs.IsAborted(err) {
		t.Errorf("shared beside exclusive: %v", err)
	}
	release(t, l)
	release(t, acquire(t, Dir{Path: dir}, Image, "x", Shared))
}

// A wait that ends at its deadline says who is in the way, and so does one that is not begun.
func TestBusy(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, "exclusive", "default/web")
	p.line(t)
	for _, wait := range []time.Duration{0, 20 * time.Millisecond} {
		_, err := Dir{Path: dir, Wait: wait}.Acquire(t.Context(), nil, Image, "default/web", Exclusive)
		var busy *BusyError
		if !errors.As(err, &busy) || !errdefs.IsAborted(err) {
			t.Fatalf("wait %s: %v, want a BusyError", wait, err)
		}
		if len(busy.Owners) != 1 || busy.Owners[0].PID != p.pid() || busy.Owners[0].Command != "exe exclusive default/web" || busy.Owners[0].Since.IsZero() {
			t.Errorf("wait %s: owners %+v, want pid %d", wait, busy.Owners, p.pid())
		}
		if busy.Rank != Image || busy.Name != "default/web" || busy.Waited < wait {
			t.Errorf("wait %s: %+v", wait, busy)
		}
		if want := `image "default/web" is busy: `; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %q does not begin with %q", err, want)
		}
		if want := fmt.Sprintf("pid %d (exe exclusive default/web)", p.pid()); !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
	p.end(t)
}

// A long wait is told of while it lasts.
func TestWaiting(t *testing.T) {
	t.Parallel()
	d := Dir{Path: t.TempDir(), Wait: forever}
	l := acquire(t, d, Blob, "x", Exclusive)
	ctx, cancel := context.WithCancel(t.Context())
	var told []*BusyError
	d.Waiting = func(e *BusyError) {
		told = append(told, e)
		cancel()
	}
	if _, err := d.Acquire(ctx, nil, Blob, "x", Shared); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(told) != 1 || told[0].Name != "x" || !slices.Equal(pids(told[0].Owners), []int{os.Getpid()}) {
		t.Errorf("told %+v", told)
	}
	release(t, l)
}

// Of those that wait for one lock, one tells of it.
func TestWaitingTogether(t *testing.T) {
	t.Parallel()
	d := Dir{Path: t.TempDir(), Wait: forever}
	l := acquire(t, d, Network, "x", Exclusive)
	told := make(chan *BusyError, 10)
	d.Waiting = func(e *BusyError) { told <- e }
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if l, err := d.Acquire(t.Context(), nil, Network, "x", Exclusive); err != nil {
				t.Error(err)
			} else if err := l.Release(); err != nil {
				t.Error(err)
			}
		})
	}
	<-told
	time.Sleep(noticeAfter / 10) // the others have waited as long
	release(t, l)
	all.Wait()
	if len(told) != 0 {
		t.Errorf("told again: %v", <-told)
	}
}

// A wait that is given up leaves nothing behind: when the holder lets go, the lock is free for others
// in this process and in another.
func TestAbandonedWait(t *testing.T) {
	for _, rank := range []Rank{Container, Collect} { // a file that is removed, and one that stays
		t.Run(rank.String(), func(t *testing.T) {
			d := Dir{Path: t.TempDir(), Wait: forever}
			l := acquire(t, d, rank, "x", Exclusive)
			reason := errors.New("changed its mind")
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error)
			go func() {
				_, err := d.Acquire(ctx, nil, rank, "x", Exclusive)
				done <- err
			}()
			until(t, "one waits", func() bool { return len(listed(t, d, "x").Waiters) == 1 })
			cancel(reason)
			err := <-done
			var busy *BusyError
			if !errors.Is(err, reason) || !errors.As(err, &busy) || !slices.Equal(pids(busy.Owners), []int{os.Getpid()}) {
				t.Errorf("cancelled wait: %v", err)
			}
			release(t, l)
			release(t, acquire(t, d, rank, "x", Exclusive))
			p := start(t, d.Path, "once", rank.String(), "x")
			p.wait(t)
			until(t, "nobody holds it or waits for it", func() bool {
				s := listed(t, d, "x")
				return len(s.Owners)+len(s.Waiters) == 0
			})
		})
	}
}

// The order of ranks is checked for every pair.
func TestRankOrder(t *testing.T) {
	order := []Rank{Pod, Container, Image, Snapshot, Blob, Collect, Database}
	d := Dir{Path: t.TempDir()}
	for i, outer := range order {
		for k, inner := range order {
			func() {
				o := acquire(t, d, outer, "o", Shared)
				defer release(t, o)
				defer func() {
					if r := recover(); (r != nil) != (k <= i) {
						t.Errorf("%s within %s: panic %v", inner, outer, r)
					}
				}()
				l, err := d.Acquire(t.Context(), o, inner, "i", Exclusive)
				if err != nil {
					t.Error(err)
					return
				}
				release(t, l)
			}()
		}
	}
}

// A mistake in the program kills it, and its last words say which lock it was.
func TestMistakes(t *testing.T) {
	for role, want := range map[string]string{"twice": "released twice", "lost": "became unreachable while held"} {
		p := start(t, t.TempDir(), role)
		err := p.cmd.Wait()
		if p.cmd.ProcessState.ExitCode() != 2 || !bytes.Contains(p.errs.Bytes(), []byte(want)) || !bytes.Contains(p.errs.Bytes(), []byte("image/x")) {
			t.Errorf("%s: %v, said %s", role, err, p.errs.Bytes())
		}
	}
}

func TestFileIsRemovedAtRelease(t *testing.T) {
	d := Dir{Path: t.TempDir()}
	exists := func(rank Rank) bool {
		_, err := os.Stat(filepath.Join(d.Path, rank.String(), "x"))
		return err == nil
	}
	for rank := Pod; rank <= Database; rank++ {
		stays := rank >= Collect
		release(t, acquire(t, d, rank, "x", Exclusive))
		if exists(rank) != stays {
			t.Errorf("%s: after an exclusive lock the file is there: %v", rank, exists(rank))
		}
		a, b := acquire(t, d, rank, "x", Shared), acquire(t, d, rank, "x", Shared)
		release(t, a)
		if !exists(rank) {
			t.Errorf("%s: the file is gone while one shares", rank)
		}
		release(t, b)
		if exists(rank) != stays {
			t.Errorf("%s: after shared locks the file is there: %v", rank, exists(rank))
		}
	}
}

// Whoever waited has the file that bears the name, not the one that the holder removed.
func TestFileIsCheckedAfterAWait(t *testing.T) {
	d := Dir{Path: t.TempDir(), Wait: forever}
	l := acquire(t, d, Container, "x", Exclusive)
	p := start(t, d.Path, "exclusive-container", "x")
	until(t, "P waits", func() bool { return slices.Equal(pids(listed(t, d, "x").Waiters), []int{p.pid()}) })
	release(t, l)
	p.line(t)
	_, err := Dir{Path: d.Path}.Acquire(t.Context(), nil, Container, "x", Exclusive)
	var busy *BusyError
	if !errors.As(err, &busy) || !slices.Equal(pids(busy.Owners), []int{p.pid()}) {
		t.Errorf("while P holds it: %v", err)
	}
	p.end(t)
}

// Processes take and release one name, exclusively and shared, while its file comes and goes.
func TestChurn(t *testing.T) {
	dir := t.TempDir()
	var all []*process
	for range 6 {
		all = append(all, start(t, dir, "churn", filepath.Join(dir, "inside")))
	}
	for _, p := range all {
		p.wait(t)
	}
	left, err := os.ReadDir(filepath.Join(dir, "image"))
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestKilledHolder(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, "exclusive", "x")
	p.line(t)
	p.cmd.Process.Kill()
	p.cmd.Wait()
	l := acquire(t, Dir{Path: dir}, Image, "x", Exclusive)
	if s := listed(t, Dir{Path: dir}, "x"); len(s.Owners) != 1 || s.Owners[0].PID != os.Getpid() {
		t.Errorf("taken over: %+v", s)
	}
	release(t, l)
}

// Any name is one file, below the directory, and no two names are one.
func TestNames(t *testing.T) {
	names := []string{"a", "A", "a/b", "a%2Fb", "a%252Fb", "/", "//", ".", "..", "...", "../..", "%2E", "%2E.", "%", "%25", "\x00", "%00", "a\x00b",
		"sha256:0123", " ", "\n", strings.Repeat("x", 300), strings.Repeat("x", 299) + "y", strings.Repeat("/", 300), strings.Repeat("\x00", 300), strings.Repeat("x", 240), strings.Repeat("x", 241)}
	d := Dir{Path: filepath.Join(t.TempDir(), "locks")}
	for _, n := range names {
		l, err := d.Acquire(t.Context(), nil, Image, n, Exclusive)
		if err != nil {
			t.Fatal(err)
		}
		defer release(t, l)
	}
	if up, err := os.ReadDir(filepath.Dir(d.Path)); err != nil || len(up) != 1 {
		t.Errorf("beside the directory: %v, %v", up, err)
	}
	all, err := d.All()
	if err != nil || len(all) != len(names) {
		t.Fatalf("%d locks are listed, %v; want %d", len(all), err, len(names))
	}
	for _, n := range names {
		found := slices.ContainsFunc(all, func(s State) bool { return s.Name == n && s.Rank == "image" })
		if long := len(escaper.Replace(n)) > 240; !found && !long {
			t.Errorf("%q is not listed", n)
		}
	}
}

// All names holders and waiters of every process, of object locks and of liveness locks.
func TestAll(t *testing.T) {
	d := Dir{Path: t.TempDir(), Wait: forever}
	if all, err := (Dir{Path: filepath.Join(d.Path, "none")}).All(); err != nil || len(all) != 0 {
		t.Errorf("missing directory: %v, %v", all, err)
	}
	if err := os.MkdirAll(filepath.Join(d.Path, "leases"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, d.Path, "exclusive", "x")
	p.line(t)
	q := start(t, d.Path, "exclusive", "x")
	h := start(t, d.Path, "live", filepath.Join(d.Path, "leases", "work"))
	h.line(t)
	if err := os.WriteFile(filepath.Join(d.Path, "image", "free"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "Q waits", func() bool { return len(listed(t, d, "x").Waiters) == 1 })
	all, err := d.All()
	if err != nil || len(all) != 2 {
		t.Fatalf("listed %+v, %v", all, err)
	}
	x, work := all[0], all[1]
	if x.Rank != "image" || x.Name != "x" || !slices.Equal(pids(x.Owners), []int{p.pid()}) || !slices.Equal(pids(x.Waiters), []int{q.pid()}) {
		t.Errorf("%+v, want held by %d, waited for by %d", x, p.pid(), q.pid())
	}
	if x.Owners[0].Command != "exe exclusive x" || x.Waiters[0].Command != "exe exclusive x" {
		t.Errorf("commands of %+v", x)
	}
	if work.Rank != "leases" || work.Name != "work" || !slices.Equal(pids(work.Owners), []int{h.pid()}) {
		t.Errorf("%+v, want held by %d", work, h.pid())
	}
	p.end(t)
	q.line(t)
	q.end(t)
	h.end(t)
	if all, err := d.All(); err != nil || len(all) != 0 {
		t.Errorf("afterwards %+v, %v", all, err)
	}
}

// What an exclusive holder wrote into a file that stays is not said of the shared holder that it is later.
func TestSharedHolderHasNoSignature(t *testing.T) {
	d := Dir{Path: t.TempDir()}
	release(t, acquire(t, d, Collect, "x", Exclusive))
	l := acquire(t, d, Collect, "x", Shared)
	defer release(t, l)
	s := listed(t, d, "x")
	if len(s.Owners) != 1 || s.Owners[0].PID != os.Getpid() || !s.Owners[0].Since.IsZero() {
		t.Errorf("shared holder: %+v", s)
	}
}
