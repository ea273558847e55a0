// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Owner is a process that holds a lock.
type Owner struct {
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Since   time.Time `json:"since,omitzero"` // zero for a shared holder: only exclusive ones sign
}

// String reads like `pid 12 (ctr-pull redis:7) since 3s`.
func (o Owner) String() string {
	s := fmt.Sprintf("pid %d (%s)", o.PID, o.Command)
	if !o.Since.IsZero() {
		s += " for " + time.Since(o.Since).Round(100*time.Millisecond).String()
	}
	return s
}

// BusyError says that a lock was not had in time, and who held it. Its kind is errdefs.ErrAborted.
type BusyError struct {
	Rank   Rank
	Name   string
	Owners []Owner
	Waited time.Duration
}

func newBusy(rank Rank, name, path string, waited time.Duration) *BusyError {
	owners, _ := holders(path)
	return &BusyError{Rank: rank, Name: name, Owners: owners, Waited: waited}
}

// Error names the lock, the wait and the holders.
func (e *BusyError) Error() string {
	who := "somebody who has just let go"
	if len(e.Owners) > 0 {
		var s []string
		for _, o := range e.Owners {
			s = append(s, o.String())
		}
		who = strings.Join(s, ", ")
	}
	return fmt.Sprintf("%s %q is busy: waited %s for %s", e.Rank, e.Name, e.Waited.Round(time.Millisecond), who)
}

// Unwrap gives the error its kind.
func (e *BusyError) Unwrap() error { return errdefs.ErrAborted }

// State is one lock that is held, as [Dir.All] lists it.
type State struct {
	Rank    string  `json:"rank"`
	Name    string  `json:"name"`
	Owners  []Owner `json:"owners"`
	Waiters []Owner `json:"waiters,omitempty"`
}

// All lists the locks that are held at this moment. It reads the kernel's table and takes no lock.
func (d Dir) All() ([]State, error) {
	table, err := kernelLocks()
	if err != nil {
		return nil, err
	}
	var all []State
	err = filepath.WalkDir(d.Path, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		k, ok := table[inode(path)]
		if !ok {
			return nil
		}
		s := State{Rank: filepath.Base(filepath.Dir(path)), Name: unescaper.Replace(filepath.Base(path))}
		s.Owners = k.owners(path)
		s.Waiters = describe("", k.waiters)
		all = append(all, s)
		return nil
	})
	return all, err
}

// holders names who holds the lock file at path. It is asked after the kernel has said that somebody does, so it
// looks again before it answers nobody.
func holders(path string) (all []Owner, err error) {
	for range 5 {
		table, err := kernelLocks()
		if err != nil {
			return nil, err
		}
		if all = table[inode(path)].owners(path); len(all) > 0 {
			break
		}
	}
	return all, nil
}

// owners describes the holders of the lock file at path. A signature in it is of an exclusive holder,
// perhaps of one that was before those who share it now.
func (k kernelLock) owners(path string) []Owner {
	if k.shared {
		path = ""
	}
	return describe(path, k.holders)
}

// describe turns pids into owners, with what the lock file says of the one that signed it.
func describe(path string, pids []int) []Owner {
	var signed Owner
	if path != "" {
		signed = readOwner(path)
	}
	var all []Owner
	for _, pid := range pids {
		o := Owner{PID: pid}
		switch {
		case pid == signed.PID, pid < 0: // an OFD lock has no pid in the kernel's table
			o = signed
		default:
			o.Command = commandLine(pid)
		}
		all = append(all, o)
	}
	return all
}

type fileID struct {
	major, minor uint32
	ino          uint64
}

type kernelLock struct {
	holders, waiters []int // pids
	shared           bool  // the holders share it
}

// kernelLocks reads /proc/locks (proc(5)): `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`, where
// `->` after the number marks one that waits. A table that changes while it is read may show a lock twice.
// It may leave one out too: the kernel gives a page at a time and goes on at a number, which shifts when a lock
// before it is let go. So a table of more than a page is read three times, and what any of them shows is told.
func kernelLocks() (map[fileID]kernelLock, error) {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []byte
	for range 3 {
		data, pieces, err := readPieces(f)
		if err != nil {
			return nil, err
		}
		all = append(all, data...)
		if pieces <= 1 {
			break
		}
	}
	return parseLocks(all), nil
}

// readPieces reads f from its start to its end, and counts the pieces in which it came.
func readPieces(f *os.File) (data []byte, pieces int, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, 0, err
	}
	for buf := make([]byte, 64<<10); ; pieces++ {
		n, err := f.Read(buf)
		if err == io.EOF {
			return data, pieces, nil
		}
		if err != nil {
			return nil, 0, err
		}
		data = append(data, buf[:n]...)
	}
}

func parseLocks(data []byte) map[fileID]kernelLock {
	table := map[fileID]kernelLock{}
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		f := strings.Fields(sc.Text())
		waits := len(f) > 1 && f[1] == "->"
		if waits {
			f = append(f[:1], f[2:]...)
		}
		if len(f) < 6 || f[1] != "FLOCK" && f[1] != "OFDLCK" {
			continue
		}
		pid, err := strconv.Atoi(f[4])
		id, ok := parseFileID(f[5])
		if err != nil || !ok {
			continue
		}
		k := table[id]
		if waits {
			k.waiters = appendNew(k.waiters, pid)
		} else {
			k.holders = appendNew(k.holders, pid)
			k.shared = f[3] == "READ"
		}
		table[id] = k
	}
	return table
}

func appendNew(pids []int, pid int) []int {
	if slices.Contains(pids, pid) {
		return pids
	}
	return append(pids, pid)
}

func parseFileID(s string) (fileID, bool) {
	p := strings.Split(s, ":")
	if len(p) != 3 {
		return fileID{}, false
	}
	major, err1 := strconv.ParseUint(p[0], 16, 32)
	minor, err2 := strconv.ParseUint(p[1], 16, 32)
	ino, err3 := strconv.ParseUint(p[2], 10, 64)
	return fileID{uint32(major), uint32(minor), ino}, err1 == nil && err2 == nil && err3 == nil
}

func inode(path string) fileID {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return fileID{}
	}
	return fileID{unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino}
}

// writeOwner signs a lock file: pid, time and command, TAB separated. Nothing depends on the signature
// but messages, so a failure to write it is no failure to lock.
func writeOwner(f *os.File) {
	line := fmt.Sprintf("%d\t%s\t%s\n", os.Getpid(), time.Now().UTC().Format(signedAt), ownCommand())
	// A process that takes a lock again and again writes lines of one length: to cut a file costs several times a write.
	st, err := f.Stat()
	if err == nil && st.Size() > int64(len(line)) {
		err = f.Truncate(int64(len(line)))
	}
	if err == nil {
		f.WriteAt([]byte(line), 0)
	}
}

// ownCommand is the command of this process.
var ownCommand = sync.OnceValue(func() string { return commandLine(0) })

// signedAt is time.RFC3339Nano, of one length.
const signedAt = "2006-01-02T15:04:05.000000000Z07:00"

func readOwner(path string) Owner {
	data, err := os.ReadFile(path)
	if err != nil {
		return Owner{}
	}
	line, _, _ := strings.Cut(string(data), "\n") // what follows is the holder's own
	f := strings.SplitN(line, "\t", 3)
	if len(f) != 3 {
		return Owner{}
	}
	pid, _ := strconv.Atoi(f[0])
	since, _ := time.Parse(time.RFC3339Nano, f[1])
	return Owner{PID: pid, Since: since, Command: f[2]}
}

// commandLine is the command of a process (0: of this one), cut to a length that fits a message.
func commandLine(pid int) string {
	var args []string
	if pid == 0 {
		args = append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...)
	} else {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(data) == 0 {
			return "?"
		}
		args = strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		args[0] = filepath.Base(args[0])
	}
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.Join(args, " "))
	if len(s) > 120 {
		s = s[:117] + "..."
	}
	return s
}

func hash(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:16])
}
