// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
)

// Updates that callers of one process want to make of one database at the same time share a commit, and so its fsync.
//
// The first of them leads: it takes the database lock, makes its change, lets those that came meanwhile make theirs in
// the same transaction, one after the other, each in its own goroutine, and commits. None waits for others to come. An
// update whose function gives an error undoes what it wrote; the others are committed. What ends the transaction as a
// whole, such as a damaged page or a full disk, has each of them tried again alone.
const (
	// maxShared and shareFor bound how many updates share a commit, and for how long others are let in.
	maxShared = 256
	shareFor  = 10 * time.Millisecond
)

// group is the updates of one database that this process wants to make. They have one leader at a time.
type group struct {
	mu      sync.Mutex
	led     bool
	waiting []*update
}

// update is one call of [Dir.Update] or [Dir.UpdateRun].
type update struct {
	d       *Dir
	durable bool
	fn      func(*Tx) error
	turn    chan *shared // a transaction to join; nil: the lead
}

// shared is a transaction of several updates. One of them has it at a time.
type shared struct {
	tx     *bolt.Tx
	size   int  // how many are in it, and will be committed
	closed bool // no other may join
	broken bool // it cannot be committed
	// dirty says that there is something to commit, written that it is not removals alone.
	dirty, written bool
	events         []event.Entry
	next           chan struct{} // the one that was let in is done
	done           chan struct{} // closed at the end; then err is set
	err            error
}

// errAlone tells an update to try again, in a transaction of its own.
var errAlone = errors.New("shared transaction is off")

func (d *Dir) change(ctx context.Context, outer *lock.Lock, durable bool, fn func(*Tx) error) error {
	u := &update{d: d, durable: durable, fn: fn, turn: make(chan *shared, 1)}
	err := u.join(ctx, outer)
	if errors.Is(err, errAlone) {
		err = u.lead(ctx, outer, d.locks, true)
	}
	if errors.Is(err, errReserve) && d.giveUpReserve(durable) {
		err = u.lead(ctx, outer, d.locks, true)
	}
	return err
}

func (u *update) group() *group { return &u.d.groups[side(u.durable)] }

// join makes the change in the next commit of this process, or leads it.
func (u *update) join(ctx context.Context, outer *lock.Lock) error {
	g := u.group()
	if outer.Rank() >= lock.Database || u.d.locks.Wait == 0 {
		return u.lead(ctx, outer, u.d.locks, true) // and hears there what is wrong, or who is in the way
	}
	g.mu.Lock()
	if !g.led {
		g.led = true
		g.mu.Unlock()
		return u.lead(ctx, outer, u.d.locks, false)
	}
	g.waiting = append(g.waiting, u)
	g.mu.Unlock()

	began := time.Now()
	var late <-chan time.Time
	if u.d.locks.Wait > 0 {
		t := time.NewTimer(u.d.locks.Wait)
		defer t.Stop()
		late = t.C
	}
	locks := u.d.locks
	select {
	case s := <-u.turn:
		return u.take(ctx, outer, s, began)
	case <-ctx.Done():
		if s, given := g.leave(u); given {
			return u.take(ctx, outer, s, began)
		}
		return fmt.Errorf("lock %s %q: %w", lock.Database, lockName(u.durable), context.Cause(ctx))
	case <-late:
		if s, given := g.leave(u); given {
			return u.take(ctx, outer, s, began)
		}
		locks.Wait = 0
		return waited(u.lead(ctx, outer, locks, true), began)
	}
}

// leave takes an update out of the queue. One that has been given its turn meanwhile is told of it.
func (g *group) leave(u *update) (*shared, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, u); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
		return nil, false
	}
	return <-u.turn, true
}

// take uses the turn that an update was given.
func (u *update) take(ctx context.Context, outer *lock.Lock, s *shared, began time.Time) error {
	if s == nil {
		locks := u.d.locks
		if locks.Wait > 0 {
			locks.Wait = max(0, locks.Wait-time.Since(began))
		}
		return waited(u.lead(ctx, outer, locks, false), began)
	}
	if err := u.enter(s); err != nil {
		return err
	}
	<-s.done
	return s.err
}

// waited lets the error of a lock say how long it was waited for since began.
func waited(err error, began time.Time) error {
	var busy *lock.BusyError
	if errors.As(err, &busy) {
		busy.Waited = time.Since(began)
	}
	return err
}

// enter makes the change in a transaction that another one leads, and gives that back.
func (u *update) enter(s *shared) error {
	fine := false
	defer func() {
		s.broken = s.broken || !fine // a panic goes on in here
		s.next <- struct{}{}
	}()
	err := u.run(s)
	fine = true
	return err
}

// lead makes a commit, with other updates of this process unless alone.
func (u *update) lead(ctx context.Context, outer *lock.Lock, locks lock.Dir, alone bool) (err error) {
	if !alone {
		defer u.group().handOn()
	}
	l, err := locks.Acquire(ctx, outer, lock.Database, lockName(u.durable), lock.Exclusive)
	if err != nil {
		return err
	}
	s := &shared{closed: alone, next: make(chan struct{}), done: make(chan struct{}), err: errAlone}
	defer func() {
		// The place in the journal is taken before the next commit can be made, and used after.
		var publish func()
		if s.err == nil {
			publish = u.d.publisher(s.events)
		}
		released := l.Release()
		if s.err == nil {
			s.err = released
		}
		err = errors.Join(err, released)
		if publish != nil {
			publish()
		}
		close(s.done)
	}()
	return guard(u.d.dbPath(u.durable), func() error { return u.commit(s) })
}

// handOn gives the lead to the update that has waited longest.
func (g *group) handOn() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.led = len(g.waiting) > 0; g.led {
		g.waiting[0].turn <- nil
		g.waiting = g.waiting[1:]
	}
}

// pop takes the update that has waited longest out of the queue; nil when there is none.
func (g *group) pop() *update {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		return nil
	}
	u := g.waiting[0]
	g.waiting = g.waiting[1:]
	return u
}

// commit changes the database, whose lock is held, and sets what the others hear.
func (u *update) commit(s *shared) (err error) {
	path := u.d.dbPath(u.durable)
	k := &u.d.kept[side(u.durable)]
	db, err := k.begin(path, u.durable)
	if err != nil {
		return NoRoom(err, path)
	}
	committed := false
	defer func() { err = errors.Join(err, k.end(committed && u.d.keeps.Load())) }()
	if s.tx, err = db.Begin(true); err != nil {
		return fmt.Errorf("database %s: %w", path, err)
	}
	defer s.tx.Rollback()
	if err := checkWritable(s.tx, path); err != nil {
		return err
	}
	own := u.run(s) // first, as it has the lock
	for began := time.Now(); !s.broken && !s.closed && s.size < maxShared && time.Since(began) < shareFor; {
		other := u.group().pop()
		if other == nil {
			break
		}
		other.turn <- s
		<-s.next
	}
	if s.broken {
		return cmp.Or(own, errAlone)
	}
	if !s.dirty {
		s.err = nil
		return own
	}
	crash.Point("state.before-commit")
	if err := s.tx.Commit(); err != nil {
		err = NoRoom(fmt.Errorf("database %s: commit: %w", path, err), path)
		switch {
		case s.size > 1:
		case noRoom(err) && !s.written:
			s.err = fmt.Errorf("%w: %w", errReserve, err)
		default:
			s.err = err
		}
		return cmp.Or(own, s.err)
	}
	committed = true
	crash.Point("state.after-commit")
	if u.durable {
		u.d.keepReserve(true)
	}
	u.d.keepReserve(false) // whatever is removed takes locks there
	s.err = nil
	return own
}

// run calls the function of an update with the transaction. What it has written is undone when it fails, or must be
// called again because the other database has changed while it was read.
func (u *update) run(s *shared) (err error) {
	for _, whole := range []bool{false, true} {
		tx := &Tx{d: u.d, write: s.tx, durable: u.durable, whole: whole, shared: s.dirty}
		again, err := u.call(s, tx)
		if s.broken || err == nil && !again {
			return err
		}
		if uerr := tx.undo(); uerr != nil {
			s.broken = true
			return errors.Join(err, uerr)
		}
		if !again {
			return err
		}
	}
	return nil
}

// call calls the function once, and tells whether it must be called again.
func (u *update) call(s *shared, tx *Tx) (again bool, err error) {
	defer tx.close()
	ended := false
	twice, _ := interrupt()
	err = guard(u.d.dbPath(u.durable), func() error {
		err := u.fn(tx)
		ended = true
		return err
	})
	switch {
	case !ended: // in a damaged page: nobody knows what was done
		s.broken = true
	case tx.alone && s.dirty:
		return false, errAlone
	case tx.moved() || twice && !tx.whole:
		return true, err
	case err == nil:
		s.size++
		s.closed = s.closed || tx.alone
		s.dirty = s.dirty || tx.writes > 0 || tx.removes > 0
		s.written = s.written || tx.writes > 0
		s.events = append(s.events, tx.events...)
	}
	return false, err
}

// publisher takes the next place in the journal, and returns what appends the events there. They tell of a
// change that is committed, so one that cannot be appended must not make the change look undone: see the
// crash rules of lib/event.
func (d *Dir) publisher(events []event.Entry) func() {
	if len(events) == 0 {
		return func() {}
	}
	turn := d.Journal().Turn()
	return func() {
		_ = turn.Append(events...) // Config.Warn is told
	}
}
