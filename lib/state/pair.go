// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
)

// A root and a state directory belong together for as long as a boot lasts: the locks and tasks of the one
// are about the records and files of the other. The first command of a boot gives both a random id, in a
// file named pair. A root or a state directory that has an id of this boot opens with its own alone.
//
// The file is two lines: the boot id, the id and the inode of the file itself, by which a copy is known;
// and the path at which the other directory was, for messages. Nothing is looked up by that path but
// what a message says: both directories can be moved.
const (
	pairName = "pair"
	// The state's file has this name until the root has its own.
	pairingName = "pairing"
)

// pair is what one directory says of the other.
type pair struct {
	id     string // empty: none of this boot
	other  string // where the other directory was
	copied bool   // the file is a copy
}

// readPair reads what the file at path says in this boot.
func readPair(path, boot string) (pair, error) {
	text, st, err := readSmall(path)
	if errors.Is(err, os.ErrNotExist) {
		return pair{}, nil
	}
	if err != nil {
		return pair{}, err
	}
	return parsePair(text, boot, st.Ino), nil
}

// parsePair reads the text of a pair file that has an inode. What it does not understand, as after a power
// cut, is of no boot.
func parsePair(text, boot string, inode uint64) pair {
	first, other, _ := strings.Cut(text, "\n")
	f := strings.Fields(first)
	if len(f) != 3 || f[0] != boot || !isTrash(f[1]) {
		return pair{}
	}
	made, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil {
		return pair{}
	}
	return pair{id: f[1], other: strings.TrimSuffix(other, "\n"), copied: made != 0 && made != inode}
}

// fuseMagic is the type of a FUSE file system, see statfs(2). Its inode numbers may change.
const fuseMagic = 0x65735546

// writePair makes the file name in dir.
func writePair(dir, name, boot, id, other string) error {
	return writeFile(filepath.Join(dir, name), false, func(f *os.File) ([]byte, error) {
		var st unix.Stat_t
		var fs unix.Statfs_t
		if err := errors.Join(unix.Fstat(int(f.Fd()), &st), unix.Fstatfs(int(f.Fd()), &fs)); err != nil {
			return nil, err
		}
		if int64(fs.Type) == fuseMagic {
			st.Ino = 0
		}
		return fmt.Appendf(nil, "%s %s %d\n%s\n", boot, id, st.Ino, other), nil
	})
}

// pairState is how far two directories are paired.
type pairState struct {
	root, state pair
	pairing     bool // a killed command had begun, and the root has the id
}

// paired tells whether the directories belong together.
func (p pairState) paired() bool { return p.root.id != "" && p.root.id == p.state.id }

// readPairs reads both sides. Two directories that do not belong together are a [*PairError].
func (d *Dir) readPairs(boot string) (p pairState, err error) {
	if p.state, err = readPair(d.Run(pairName), boot); err != nil {
		return p, err
	}
	if p.root, err = readPair(d.Path(pairName), boot); err != nil {
		return p, err
	}
	if p.root.id != "" && p.state.id == "" {
		begun, err := readPair(d.Run(pairingName), boot)
		if err != nil {
			return p, err
		}
		p.pairing = begun.id == p.root.id
		if begun.id == "" { // perhaps it has just got its name
			if p.state, err = readPair(d.Run(pairName), boot); err != nil {
				return p, err
			}
		}
	}
	return p, d.checkPair(p, boot)
}

// checkPair finds what is wrong with a pair.
func (d *Dir) checkPair(p pairState, boot string) error {
	switch {
	case p.root.copied:
		return d.pairError("the root is a copy of one that is in use in this boot",
			"to make it a root of its own, remove %s", d.Path(pairName))
	case p.state.copied:
		return d.pairError("the state directory is a copy of one that is in use in this boot",
			"name the original with --state; a copy is of no use")
	case p.root.id == p.state.id, p.pairing:
		return nil
	case p.root.id == "":
		if there, _ := readPair(filepath.Join(p.state.other, pairName), boot); there.id == p.state.id {
			return d.pairError("the state directory is in use with the root "+p.state.other, "use --root %s", p.state.other)
		}
		return d.pairError("the state directory is in use with another root, which was at "+p.state.other,
			"name that root with --root; if it is gone and nothing of it runs (pgrep ctr-shim), remove %s", d.Run(pairName))
	}
	there, _ := readPair(filepath.Join(p.root.other, pairName), boot)
	switch {
	case there.id == p.root.id:
		return d.pairError("the root is in use with the state directory "+p.root.other, "use --state %s", p.root.other)
	case p.state.id != "":
		return d.pairError("each is in use with another one: the root with a state directory that was at "+p.root.other+
			", the state directory with a root that was at "+p.state.other, "use --root %s, or name the state directory of this root with --state", p.state.other)
	}
	return d.pairError("the root is in use with another state directory, which was at "+p.root.other,
		"name that directory with --state; if it is gone and nothing of it runs (pgrep ctr-shim), remove %s", d.Path(pairName))
}

// PairError says that a root and a state directory do not belong together. Its kind is
// errdefs.ErrFailedPrecondition.
type PairError struct {
	Root, State string
	why, hint   string
}

func (d *Dir) pairError(why, hint string, args ...any) error {
	return &PairError{d.root, d.state, why, fmt.Sprintf(hint, args...)}
}

// Error names both directories and what is wrong with them.
func (e *PairError) Error() string {
	return fmt.Sprintf("root %s and state directory %s do not belong together: %s", e.Root, e.State, e.why)
}

// Unwrap gives the error its kind.
func (e *PairError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *PairError) Hint() string { return e.hint }

// join makes the two directories a pair. The caller has the state directory's boot lock, so that only
// another state directory can want the same root: the root's own lock keeps it away.
func (d *Dir) join(boot string) error {
	locks := lock.Dir{Path: d.Path("locks"), Wait: d.locks.Wait, Waiting: d.locks.Waiting}
	l, err := locks.Acquire(context.Background(), nil, lock.Database, pairName, lock.Exclusive)
	if err != nil {
		return err
	}
	return errors.Join(d.joinLocked(boot), l.Release())
}

func (d *Dir) joinLocked(boot string) error {
	p, err := d.readPairs(boot)
	if err != nil || p.paired() {
		return err
	}
	if !p.pairing {
		id := rand.Text()
		if err := writePair(d.state, pairingName, boot, id, d.root); err != nil {
			return err
		}
		crash.Point("state.pairing")
		if err := writePair(d.root, pairName, boot, id, d.state); err != nil {
			return err
		}
	}
	crash.Point("state.root-paired")
	return os.Rename(d.Run(pairingName), d.Run(pairName))
}

// readSmall reads a file of at most a few hundred bytes, with as few system calls as it takes: each command
// begins with some.
func readSmall(path string) (text string, st unix.Stat_t, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", st, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 8<<10)
	n, err := unix.Read(fd, buf)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return "", st, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return string(buf[:n]), st, nil
}
