// SPDX-License-Identifier: Apache-2.0

package native

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/tail"
	"ctrd.dev/ctrd/lib/taskdir"
)

// shimLogs brings what the shims of tasks that clients have made write to their logs into the server's own, as containerd does: line by
// line, and what was written while no server ran too. How far a log has been told is kept beside it, so that the next server goes on
// there. A line may be told again after a server was killed.
//
// One goroutine waits for inotify(7), and does nothing as long as no task is made and no shim writes.
type shimLogs struct {
	d       *state.Dir
	log     *slog.Logger
	inotify *os.File // nil: nothing is followed
	ended   chan struct{}
	watched map[int32]watchedLog
}

// watchedLog is what one watch is for: the directory of all namespaces, that of one, or the log of a shim.
type watchedLog struct {
	namespace string
	id        string // empty: a directory
	path      string // of the log
	task      string // directory of the task
	told      int64  // bytes
}

const (
	// maxShimLine is where a longer line is cut, in bytes.
	maxShimLine = 4 << 10
	dirMask     = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ONLYDIR
)

// start tells what the shims have written until now, and goes on until stop.
func (l *shimLogs) start() error {
	if err := os.MkdirAll(l.d.Run(taskdir.Bundles), 0o711); err != nil {
		return err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	l.inotify, l.ended, l.watched = os.NewFile(uintptr(fd), "inotify"), make(chan struct{}), map[int32]watchedLog{}
	l.follow("", "")
	go l.run()
	return nil
}

// stop ends what start has begun.
func (l *shimLogs) stop() {
	if l.inotify == nil {
		return
	}
	l.inotify.Close()
	<-l.ended
}

// run takes what the kernel tells.
func (l *shimLogs) run() {
	defer close(l.ended)
	buf := make([]byte, 4<<10)
	for {
		n, err := l.inotify.Read(buf)
		if err != nil {
			return
		}
		for c := range tail.Changes(buf[:n]) {
			l.changed(c.WD, c.Mask, string(c.Name))
		}
	}
}

func (l *shimLogs) changed(wd int32, mask uint32, name string) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		l.follow("", "") // all that there is
		return
	}
	w, known := l.watched[wd]
	switch {
	case !known:
	case mask&unix.IN_IGNORED != 0:
		delete(l.watched, wd)
	case mask&unix.IN_MODIFY != 0:
		l.tell(wd)
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) == 0:
	case w.namespace == "":
		l.follow(name, "")
	default:
		l.follow(w.namespace, name)
	}
}

// follow watches the log of the shim of a task, or all those of a namespace (id empty), or all.
func (l *shimLogs) follow(ns, id string) {
	dir := l.d.Run(taskdir.Bundles, ns)
	w, path, mask := watchedLog{namespace: ns, id: id}, dir, uint32(dirMask)
	if id != "" {
		var ok bool
		if w.path, w.task, ok = shimLog(filepath.Join(dir, id)); !ok {
			return
		}
		path, mask = w.path, unix.IN_MODIFY
	}
	wd, err := l.watch(path, mask)
	if err != nil {
		if !errors.Is(err, unix.ENOENT) { // else it has gone meanwhile
			l.log.Warn("what a shim writes to its log is not told here", "namespace", ns, "container", id, "log", path, "error", err)
		}
		return
	}
	if id != "" {
		if _, known := l.watched[wd]; !known {
			var told taskdir.Logged
			_, _ = taskdir.Read(w.task, taskdir.Told, &told) // else it is told again
			w.told = told.Bytes
			l.watched[wd] = w
		}
		l.tell(wd)
		return
	}
	l.watched[wd] = w
	entries, err := os.ReadDir(dir) // what comes after this is told by the watch
	if err != nil {
		return
	}
	for _, e := range entries {
		if ns == "" {
			l.follow(e.Name(), "")
		} else {
			l.follow(ns, e.Name())
		}
	}
}

func (l *shimLogs) watch(path string, mask uint32) (int32, error) {
	conn, err := l.inotify.SyscallConn()
	if err != nil {
		return 0, err
	}
	wd, failed := 0, error(nil)
	err = conn.Control(func(fd uintptr) { wd, failed = unix.InotifyAddWatch(int(fd), path, mask) })
	return int32(wd), errors.Join(err, failed)
}

// shimLog finds the log of the shim of the task that has a link, and the task's directory.
func shimLog(link string) (path, dir string, ok bool) {
	bundle, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", "", false
	}
	path, dir = filepath.Join(bundle, taskdir.BundleLog), filepath.Dir(bundle)
	switch st, err := os.Lstat(path); {
	case err == nil && st.Mode().IsRegular(): // a foreign shim's
		return path, dir, true
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", "", false
	}
	return filepath.Join(dir, taskdir.ShimLog), dir, true
}

// tell logs the lines of a shim's log that have not been told.
func (l *shimLogs) tell(wd int32) {
	w := l.watched[wd]
	f, err := os.Open(w.path)
	if err != nil {
		return // the task has gone
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == w.told {
		return
	}
	began := w.told
	if st.Size() < w.told {
		w.told = 0 // it has been begun anew
	}
	buf := make([]byte, maxShimLine)
	for {
		n, err := f.ReadAt(buf, w.told)
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			break
		}
		line, _, whole := bytes.Cut(buf[:n], []byte("\n"))
		if !whole && n < len(buf) {
			break // the rest is still to come
		}
		w.told += int64(len(line))
		if whole {
			w.told++
		}
		if len(bytes.TrimSpace(line)) > 0 {
			l.log.Info("a shim says", "namespace", w.namespace, "container", w.id, "text", string(line))
		}
	}
	l.watched[wd] = w
	if w.told != began {
		_ = taskdir.Write(w.task, taskdir.Told, taskdir.Logged{Bytes: w.told}) // else the next server tells it again
	}
}
