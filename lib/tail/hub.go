// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const watchMask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_ATTRIB

// hub shares one inotify instance among the watchers of a process. It is opened by the first that needs
// it, and stays open: to close it costs more than to keep it.
type hub struct {
	mu       sync.Mutex
	file     *os.File // nil: not open
	watchers map[int32]map[*Watcher]bool
	of       map[*Watcher]int32
	share    int // what takeShare gave
}

var theHub = hub{watchers: map[int32]map[*Watcher]bool{}, of: map[*Watcher]int32{}, share: -1}

// shareProbes is how many of the shares are tried.
const shareProbes = 8

// takeShare gives the right to an inotify instance: one of as many as a quarter of the instances that a
// user may have, so that our processes leave the rest to other programs. A share is a socket with a name
// of its own in the abstract namespace, see unix(7): it ends with its process. It returns the socket, or -1.
func takeShare() int {
	limit := 128
	if text, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			limit = n
		}
	}
	shares := max(1, limit/4)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	first := rand.IntN(shares)
	for i := range min(shares, shareProbes) {
		if unix.Bind(fd, &unix.SockaddrUnix{Name: shareName((first + i) % shares)}) == nil {
			return fd
		}
	}
	unix.Close(fd)
	return -1
}

func shareName(i int) string { return fmt.Sprintf("@ctrd/inotify/%d/%d", os.Geteuid(), i) }

func (h *hub) open() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.file != nil
}

// add lets the hub tell w of changes in its directory. It reports false when the kernel refuses: it has no
// instance or watch left for this user, or no inotify. So it is when this process gets no share.
func (h *hub) add(w *Watcher) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		if h.share < 0 {
			h.share = takeShare()
		}
		if h.share < 0 {
			return false
		}
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return false
		}
		h.file = os.NewFile(uintptr(fd), "inotify")
		go h.read(h.file)
	}
	conn, err := h.file.SyscallConn()
	if err != nil {
		return false
	}
	wd, failed := 0, error(nil)
	// The kernel gives one number to all watches of one directory.
	err = conn.Control(func(fd uintptr) { wd, failed = unix.InotifyAddWatch(int(fd), w.dir, watchMask) })
	if failed == unix.ENOENT {
		w.gone.Store(true)
		return false
	}
	if err != nil || failed != nil {
		return false
	}
	w.changed = make(chan struct{}, 1)
	id := int32(wd)
	if h.watchers[id] == nil {
		h.watchers[id] = map[*Watcher]bool{}
	}
	h.watchers[id][w] = true
	h.of[w] = id
	return true
}

// remove ends what add began.
func (h *hub) remove(w *Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, ok := h.of[w]
	if !ok {
		return
	}
	delete(h.of, w)
	delete(h.watchers[id], w)
	if len(h.watchers[id]) > 0 {
		return
	}
	delete(h.watchers, id)
	if conn, err := h.file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(id)) }) // it may have gone with its directory
	}
}

// read hands the kernel's events to the watchers, for as long as the process lives.
func (h *hub) read(f *os.File) {
	buf := make([]byte, 16<<10)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		h.mu.Lock()
		for c := range Changes(buf[:n]) {
			h.tell(c.WD, c.Mask)
		}
		h.mu.Unlock()
	}
}

// tell wakes the watchers that an event is for. h.mu is held.
func (h *hub) tell(id int32, mask uint32) {
	if mask&unix.IN_Q_OVERFLOW != 0 { // events were dropped, nobody knows whose
		for w := range h.of {
			w.wake()
		}
		return
	}
	for w := range h.watchers[id] {
		if mask&(unix.IN_IGNORED|unix.IN_UNMOUNT) != 0 {
			w.gone.Store(true)
			delete(h.of, w)
		}
		w.wake()
	}
	if mask&unix.IN_IGNORED != 0 {
		delete(h.watchers, id)
	}
}

// wake lets the next Wait return, or the one that waits.
func (w *Watcher) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}
