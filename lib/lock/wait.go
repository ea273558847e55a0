// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A wait for a lock costs a thread where the kernel does the waiting: flock(2) blocks, and nothing ends it
// but its grant. So the callers of this process that want one lock queue here, first come first served,
// and only the first of them waits in the kernel, beside the other processes. The locks of single
// objects are many, so they share maxThreads such threads; who gets none asks again and again.
//
// A caller that gives up leaves its wait in the kernel to the next caller that wants the same. When there
// is none, the lock is let go as soon as it is granted.
const (
	maxThreads = 8
	minPause   = time.Millisecond
	maxPause   = 50 * time.Millisecond
)

// threads has an element for each thread that waits for the lock of a single object.
var threads = make(chan struct{}, maxThreads)

// queues has the lock files that callers of this process wait for.
var queues = struct {
	sync.Mutex
	of map[string]*queue
}{of: map[string]*queue{}}

// queue is the callers of this process that wait for one lock file.
type queue struct {
	path    string
	callers int
	taken   bool            // one of them may ask the kernel
	waiting []chan struct{} // of the others, in their order; closed when it is their turn
	pending *kernelWait     // at most one
}

// kernelWait is a wait in the kernel. Its fields are guarded by queues.
type kernelWait struct {
	file   *os.File
	mode   Mode
	wanted bool          // a caller waits for done
	done   chan struct{} // closed at the end
	err    error         // after done
}

// isQueued tells whether callers of this process wait for a lock file.
func isQueued(path string) bool {
	queues.Lock()
	defer queues.Unlock()
	q := queues.of[path]
	return q != nil && q.callers > 0
}

// enter puts a caller at the end of the queue. Its turn has come when the channel is closed.
func enter(path string) (*queue, chan struct{}) {
	queues.Lock()
	defer queues.Unlock()
	q := queues.of[path]
	if q == nil {
		q = &queue{path: path}
		queues.of[path] = q
	}
	q.callers++
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	if !q.taken {
		q.next()
	}
	return q, turn
}

// next lets the first that waits have its turn, if any does. queues is locked.
func (q *queue) next() {
	if q.taken = len(q.waiting) > 0; q.taken {
		close(q.waiting[0])
		q.waiting = q.waiting[1:]
	}
}

// pass ends the turn of a caller, which may have given up before it came.
func (q *queue) pass(turn chan struct{}) {
	queues.Lock()
	defer queues.Unlock()
	if i := slices.Index(q.waiting, turn); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	} else {
		q.next()
	}
}

func (q *queue) leave() {
	queues.Lock()
	defer queues.Unlock()
	q.callers--
	q.drop()
}

// drop forgets a queue that nobody needs. queues is locked.
func (q *queue) drop() {
	if q.callers == 0 && q.pending == nil {
		delete(queues.of, q.path)
	}
}

// await waits for a lock file that was busy, and returns it locked.
func (d Dir) await(ctx context.Context, rank Rank, path string, mode Mode, busy func() *BusyError) (*os.File, error) {
	c := caller{ctx: ctx, busy: busy, waiting: d.Waiting}
	if d.Wait > 0 {
		t := time.NewTimer(d.Wait)
		defer t.Stop()
		c.deadline = t.C
	}
	q, turn := enter(path)
	defer q.leave()
	defer q.pass(turn)
	if err := c.wait(turn, 0); err != nil {
		return nil, err
	}
	notice := time.NewTimer(noticeAfter)
	defer notice.Stop()
	c.notice = notice.C
	for pause := minPause; ; {
		f, err := d.try(path, mode)
		if f != nil || err != nil {
			return f, err
		}
		k, err := d.ask(q, rank, mode)
		if err != nil {
			return nil, err
		}
		if k == nil {
			if err := c.wait(nil, pause); err != nil {
				return nil, err
			}
			pause = min(2*pause, maxPause)
			continue
		}
		err = c.wait(k.done, 0)
		if f, kerr := k.end(err == nil); kerr != nil {
			return nil, kerr
		} else if f != nil && sameFile(f, path) {
			return f, nil
		} else if f != nil {
			unlock(f)
		}
		if err != nil {
			return nil, err
		}
	}
}

// ask begins a wait in the kernel, or takes over the one that is there. It returns nil when there is no
// thread for one, or one of another mode is there.
func (d Dir) ask(q *queue, rank Rank, mode Mode) (*kernelWait, error) {
	queues.Lock()
	defer queues.Unlock()
	if k := q.pending; k != nil {
		if k.mode != mode {
			return nil, nil
		}
		k.wanted = true
		return k, nil
	}
	counted := rank < Collect
	if counted {
		select {
		case threads <- struct{}{}:
		default:
			return nil, nil
		}
	}
	f, err := d.open(q.path)
	if err != nil {
		if counted {
			<-threads
		}
		return nil, err
	}
	k := &kernelWait{file: f, mode: mode, wanted: true, done: make(chan struct{})}
	q.pending = k
	go func() {
		err := flockRetry(f, how(mode))
		queues.Lock()
		defer queues.Unlock()
		if counted {
			<-threads
		}
		q.pending = nil
		q.drop()
		if err != nil {
			k.err = &os.PathError{Op: "flock", Path: f.Name(), Err: err}
			f.Close()
		} else if !k.wanted {
			unlock(f)
		}
		close(k.done)
	}()
	return k, nil
}

// end gives the file of a wait that has been granted, if it is still wanted, and leaves one that is not
// over to others: then it gives nil.
func (k *kernelWait) end(wanted bool) (*os.File, error) {
	queues.Lock()
	defer queues.Unlock()
	select {
	case <-k.done:
	default:
		k.wanted = false
		return nil, nil
	}
	if k.err == nil && !wanted {
		unlock(k.file)
		return nil, nil
	}
	if k.err != nil {
		return nil, k.err
	}
	return k.file, nil
}

// caller is one call of Acquire that waits.
type caller struct {
	ctx      context.Context
	deadline <-chan time.Time // nil: none
	notice   <-chan time.Time // nil: none
	waiting  func(*BusyError)
	busy     func() *BusyError
}

// wait returns nil when ready is, or after the pause unless that is zero.
func (c *caller) wait(ready <-chan struct{}, pause time.Duration) error {
	var after <-chan time.Time
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		after = t.C
	}
	for {
		select {
		case <-ready:
			return nil
		case <-after:
			return nil
		case <-c.notice:
			if c.waiting != nil {
				c.waiting(c.busy())
			}
		case <-c.deadline:
			return c.busy()
		case <-c.ctx.Done():
			return fmt.Errorf("%w: %w", c.busy(), context.Cause(c.ctx))
		}
	}
}

// try takes a lock file if it is free, and returns nil if it is busy.
func (d Dir) try(path string, mode Mode) (*os.File, error) {
	for {
		f, err := d.open(path)
		if err != nil {
			return nil, err
		}
		err = flockRetry(f, how(mode)|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, nil
		}
		if err != nil {
			f.Close()
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		if sameFile(f, path) {
			return f, nil
		}
		unlock(f)
	}
}

func how(mode Mode) int {
	if mode == Exclusive {
		return unix.LOCK_EX
	}
	return unix.LOCK_SH
}
