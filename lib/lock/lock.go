// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/smallfile"
)

// Rank places a lock in the one order in which locks nest. A larger rank is taken later.
type Rank int

// The ranks, outermost first.
const (
	Pod Rank = iota + 1
	Container
	Network
	Image
	Snapshot
	Blob
	Collect  // shared: a reference is being taken; exclusive: a collection decides and removes
	Database // innermost and shortest
)

var rankNames = [...]string{Pod: "pod", Container: "container", Network: "network", Image: "image", Snapshot: "snapshot", Blob: "blob", Collect: "collect", Database: "database"}

// String is the rank's name, which is also the name of its folder.
func (r Rank) String() string {
	if r < Pod || r > Database {
		return fmt.Sprintf("rank(%d)", int(r))
	}
	return rankNames[r]
}

// Mode says whether others may hold the lock at the same time.
type Mode int

// Shared holders exclude exclusive ones only.
const (
	Shared Mode = iota
	Exclusive
)

// Dir is a directory of object locks.
type Dir struct {
	Path string
	// Wait bounds how long Acquire waits: negative without bound, zero not at all.
	Wait time.Duration
	// Waiting, when set, is told once about a wait that has lasted two seconds. Of the callers of one process that wait for
	// the same lock that is the first alone: a queue that moves is nothing to tell, and finding out who is in the way is work.
	Waiting func(*BusyError)
	// Room, when set, is called when the file system has no room for a lock file. It tells whether it made some.
	Room func() bool
}

// noticeAfter is how long a wait may last before Dir.Waiting hears of it.
const noticeAfter = 2 * time.Second

// A Lock is an object lock that is held. It must be released; one that is lost panics.
type Lock struct {
	rank    Rank
	path    string
	mode    Mode
	file    *os.File
	cleanup runtime.Cleanup
}

// Acquire takes the lock called name in the given mode. outer is the innermost lock that this flow of
// control holds, or nil; a rank that is not above outer's is a mistake in the program and panics. When
// the lock stays busy for d.Wait the error is a [*BusyError]; when ctx ends first, ctx's error. Callers
// of one process get a lock in the order in which they came; between processes the kernel decides. Any
// number of calls may wait: they share a few threads.
func (d Dir) Acquire(ctx context.Context, outer *Lock, rank Rank, name string, mode Mode) (*Lock, error) {
	if outer != nil && rank <= outer.rank {
		panic(fmt.Sprintf("lock: %s %q taken while %s is held: the order is pod < container < network < image < snapshot < blob < collect < database", rank, name, outer.path))
	}
	path := filepath.Join(d.Path, rank.String(), fileName(name))
	start := time.Now()
	busy := func() *BusyError { return newBusy(rank, name, path, time.Since(start)) }
	var f *os.File
	var err error
	if d.Wait == 0 || !isQueued(path) { // who waits already comes first
		f, err = d.try(path, mode)
	}
	switch {
	case f == nil && err == nil && d.Wait == 0:
		return nil, busy()
	case f == nil && err == nil:
		f, err = d.await(ctx, rank, path, mode, busy)
	}
	var waited *BusyError
	if errors.As(err, &waited) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s %q: %w", rank, name, err)
	}
	if mode == Exclusive {
		writeOwner(f)
	}
	l := &Lock{rank: rank, path: path, mode: mode, file: f}
	l.cleanup = runtime.AddCleanup(l, func(p string) { panic("lock: " + p + " became unreachable while held") }, path)
	return l, nil
}

// File is the open lock file. A child that inherits it keeps the lock when this process is killed; Release lets go for
// both.
func (l *Lock) File() *os.File { return l.file }

// Rank is the lock's place in the order; that of no lock is 0.
func (l *Lock) Rank() Rank {
	if l == nil {
		return 0
	}
	return l.rank
}

// Release gives the lock back. It may be called once.
func (l *Lock) Release() error {
	l.cleanup.Stop()
	f := l.file
	if f == nil {
		panic("lock: " + l.path + " released twice")
	}
	l.file = nil
	// The database and collect locks are few and hot: their files stay, and so keep their queue.
	if l.rank < Collect && (l.mode == Exclusive || flockRetry(f, unix.LOCK_EX|unix.LOCK_NB) == nil) && sameFile(f, l.path) {
		os.Remove(l.path)
	}
	return unlock(f)
}

// open opens or makes a lock file, and the folder of its rank when that is missing.
func (d Dir) open(path string) (*os.File, error) {
	for attempt := 0; ; attempt++ {
		f, err := smallfile.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			err = os.MkdirAll(filepath.Dir(path), 0o700)
			if err == nil && attempt < 3 {
				continue
			}
		}
		if errors.Is(err, unix.ENOSPC) && d.Room != nil && d.Room() {
			continue
		}
		return f, err
	}
}

// unlock lets go before it closes: a child that is between fork and exec has a copy of the descriptor,
// which would keep the lock for that moment.
func unlock(f *os.File) error {
	return errors.Join(flockRetry(f, unix.LOCK_UN), f.Close())
}

func flockRetry(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// sameFile tells whether path still names the file that f has open.
func sameFile(f *os.File, path string) bool {
	var a, b unix.Stat_t
	if unix.Fstat(int(f.Fd()), &a) != nil || unix.Stat(path, &b) != nil {
		return false
	}
	return a.Ino == b.Ino && a.Dev == b.Dev
}

var escaper = strings.NewReplacer("%", "%25", "/", "%2F", "\x00", "%00")

// fileName turns an object's name into one path element.
func fileName(name string) string {
	switch s := escaper.Replace(name); {
	case s == "." || s == "..":
		return "%2E" + s[1:]
	case len(s) > 240:
		return s[:170] + "%" + hash(s)
	default:
		return s
	}
}

var unescaper = strings.NewReplacer("%2F", "/", "%2E", ".", "%00", "\x00", "%25", "%")
