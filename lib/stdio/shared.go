// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileID tells one file from another, as long as it is open.
type fileID struct{ dev, ino uint64 }

func idOf(st os.FileInfo) fileID {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return fileID{uint64(s.Dev), s.Ino}
	}
	return fileID{}
}

// Reopen makes the file of a shared log where there is none, empty. When it returns, everything that the writer is given goes
// to the file at the path.
func (l Log) Reopen() error {
	f, err := os.OpenFile(l.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, l.mode())
	if err != nil {
		return err
	}
	return f.Close()
}

// follow goes on in the file that has the path, if that is another one by now.
func (w *Writer) follow() {
	if !w.log.Shared {
		return
	}
	var st unix.Stat_t
	if err := unix.Lstat(w.log.Path, &st); err != nil || (fileID{uint64(st.Dev), st.Ino}) == w.id {
		return
	}
	f, err := os.OpenFile(w.log.Path, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == nil {
		err = w.take(f)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.failure = err
	}
}

func (l Log) line() int {
	if l.MaxLine > 0 {
		return l.MaxLine
	}
	return DefaultLine
}

// mode is that of a new file. A shared log is for collectors of its group too, as containerd has it.
func (l Log) mode() os.FileMode {
	if l.Shared {
		return 0o640
	}
	return 0o600
}
