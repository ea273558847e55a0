// SPDX-License-Identifier: Apache-2.0

// Package tail waits for files that other processes write: for one to appear, and for one to grow.
//
// A wait holds no thread, and a process has at most one inotify(7) instance, however many waits it has.
// Instances are scarce: Linux gives a user 128 by default, for all programs together. So a wait looks again
// and again where that is enough:
//
//   - for its first tenth of a second. Closing an inotify instance, or exiting with one open, costs
//     some ten milliseconds (the kernel waits for a grace period), more than all else that a short
//     command does.
//   - when it also waits for the end of a process, which the kernel tells by a pidfd. A process with
//     more than a few such waits uses inotify for all of them.
//   - when the processes that use this package have a quarter of the user's instances, or the kernel has
//     none left. That is no error.
package tail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

const (
	lookFor   = 100 * time.Millisecond // how long inotify is put off
	lookEvery = 300 * time.Microsecond // the first pause; the pauses grow with the time that has passed

	maxPause   = 250 * time.Millisecond // between two looks without inotify, when nothing has changed for long
	joinEvery  = 10 * time.Second       // how often inotify is tried again after it was refused
	fewPatient = 4                      // as many patient watchers do without inotify
)

// Watcher tells that something may have changed in a directory. It is for one goroutine.
type Watcher struct {
	dir     string
	since   time.Time
	changes time.Time // when the last change was seen
	patient bool      // something else tells of most changes
	counted bool      // in patientWatchers
	tryNext time.Time // when inotify may be tried again
	changed chan struct{}
	joined  bool // the hub tells changed
	gone    atomic.Bool
}

// patientWatchers counts the patient watchers that have outlived lookFor.
var patientWatchers atomic.Int64

// Watch begins to watch a directory and the files in it. What changes after Watch has returned is seen by
// the next Wait. A missing directory is os.ErrNotExist.
func Watch(dir string) (*Watcher, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	now := time.Now()
	return &Watcher{dir: dir, since: now, changes: now}, nil
}

// Saw says that the caller has found a change: more may follow soon. A nil Watcher may be told.
func (w *Watcher) Saw() {
	if w != nil && !w.joined {
		w.changes = time.Now()
	}
}

// Wait returns nil once something has changed since the last Wait that returned nil (at first: since
// Watch). One return may stand for many changes, or for none: look. It returns the context's error when
// ctx ends first, and os.ErrNotExist when the directory has gone.
func (w *Watcher) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !w.joined && w.join() {
		return w.there() // what changed before is not reported: the caller looks once more
	}
	if w.joined {
		select {
		case <-w.changed:
			return w.there()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	t := time.NewTimer(w.pause())
	defer t.Stop()
	select {
	case <-t.C:
		return w.there()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// there fails when the directory has gone.
func (w *Watcher) there() error {
	if w.gone.Load() {
		return fmt.Errorf("watch %s: %w", w.dir, os.ErrNotExist)
	}
	if _, err := os.Stat(w.dir); errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// pause is how long to wait before the next look.
func (w *Watcher) pause() time.Duration {
	return min(max(lookEvery, time.Since(w.changes)/8), maxPause)
}

// join changes over to inotify when it is time to, and tells whether it did.
func (w *Watcher) join() bool {
	if now := time.Now(); now.Sub(w.since) <= lookFor || now.Before(w.tryNext) {
		return false
	} else {
		w.tryNext = now.Add(joinEvery)
	}
	if w.patient {
		if !w.counted {
			w.counted = true
			patientWatchers.Add(1)
		}
		if patientWatchers.Load() <= fewPatient && !theHub.open() {
			w.tryNext = time.Time{}
			return false
		}
	}
	w.joined = theHub.add(w)
	return w.joined
}

// Close ends the watching. A nil Watcher may be closed.
func (w *Watcher) Close() error {
	if w == nil {
		return nil
	}
	if w.counted {
		w.counted = false
		patientWatchers.Add(-1)
	}
	if w.joined {
		w.joined = false
		theHub.remove(w)
	}
	return nil
}
