// SPDX-License-Identifier: Apache-2.0

package taskdir

import (
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/tail"
)

// Watch numbers what directories have said, so that a server which lists the same tasks every second reads only those again that have
// changed. It asks inotify(7), which tells of every file that is made, written, renamed or removed, and of the end of a process
// that had a lock file open. Nothing runs between two calls of Update. The zero value is ready for use; nil gives no number that may be kept.
//
// A directory that cannot be watched, because the user's watches are used up, has no number that may be kept.
type Watch struct {
	mu   sync.Mutex
	open bool
	fd   int // of inotify
	dirs map[string]*watched
	byWD map[int32]*watched
	last uint64
	told time.Time // when the kernel last told of a change, or a watch began
	aged time.Time // when all numbers were renewed
}

// watched is a directory.
type watched struct {
	path   string
	wd     int32
	number uint64
	told   time.Time // when the kernel last told of a change, or the watch began
}

const (
	watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_CLOSE_WRITE |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	// settled is how long a directory must have been left alone: the kernel tells of the end of a process just before it drops the
	// locks of that process.
	settled = 100 * time.Millisecond
	// renewAfter bounds the life of a number, for a machine that stands still at that moment for longer.
	renewAfter = 10 * time.Second
)

// Update takes notice of all changes until now.
func (w *Watch) Update() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.open {
		return
	}
	if now := time.Now(); now.Sub(w.aged) >= renewAfter {
		for _, d := range w.dirs {
			w.renew(d)
		}
		w.aged = now
	}
	var buf [16 << 10]byte
	for {
		n, err := unix.Read(w.fd, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n < unix.SizeofInotifyEvent {
			return // EAGAIN: there are no more
		}
		now := time.Now()
		for c := range tail.Changes(buf[:n]) {
			w.tell(c.WD, c.Mask, now)
		}
	}
}

// tell takes notice of one event.
func (w *Watch) tell(wd int32, mask uint32, now time.Time) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		for _, d := range w.dirs { // what was dropped may be the end of its watch
			w.drop(d)
		}
		w.told = now
		return
	}
	d := w.byWD[wd]
	if d == nil {
		return
	}
	if mask&unix.IN_MOVE_SELF != 0 {
		// What is in it has other paths too, and is not told of that.
		for path, below := range w.dirs {
			if strings.HasPrefix(path, d.path+"/") {
				w.drop(below)
			}
		}
	}
	if mask&(unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0 {
		w.drop(d)
		return
	}
	w.renew(d)
	d.told, w.told = now, now
}

func (w *Watch) renew(d *watched) {
	w.last++
	d.number = w.last
}

func (w *Watch) drop(d *watched) {
	w.last++
	_, _ = unix.InotifyRmWatch(w.fd, uint32(d.wd)) // it may have gone with its directory
	delete(w.dirs, d.path)
	delete(w.byWD, d.wd)
}

// Number gives the number of a directory as of the last Update: what was read of its files and locks while it had the same number holds.
// With keep, what is read from now on may be kept under it; without, it is about to change. No two directories share a number.
func (w *Watch) Number(dir string) (number uint64, keep bool) {
	if w == nil {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	d := w.dirs[dir]
	if d == nil {
		if d = w.add(dir, now); d == nil {
			return 0, false
		}
	}
	return d.number, now.Sub(d.told) >= settled
}

// All is [Watch.Number] for all directories that have a number: it changes whenever one of theirs does, one gets its first, or loses it.
// A list that was made of directories whose numbers may all be kept may be kept as a whole under it, when the list has given no directory
// its first number.
func (w *Watch) All() (number uint64, keep bool) {
	if w == nil {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, w.open && time.Since(w.told) >= settled
}

// add begins to watch a directory. It gives nil when that cannot be watched, or is not there.
func (w *Watch) add(dir string, now time.Time) *watched {
	if !w.open {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil
		}
		w.open, w.fd, w.dirs, w.byWD, w.aged = true, fd, map[string]*watched{}, map[int32]*watched{}, now
	}
	wd, err := unix.InotifyAddWatch(w.fd, dir, watchMask)
	if err != nil {
		return nil
	}
	if old := w.byWD[int32(wd)]; old != nil { // it has got another path, and the event is on its way
		delete(w.dirs, old.path)
	}
	d := &watched{path: dir, wd: int32(wd), told: now}
	w.told = now
	w.renew(d)
	w.dirs[dir], w.byWD[d.wd] = d, d
	return d
}

// Close forgets all numbers and lets inotify go. The watch may be used again.
func (w *Watch) Close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open {
		unix.Close(w.fd)
	}
	w.open, w.dirs, w.byWD = false, nil, nil
	w.last++
}
