// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
)

// Default directories.
const (
	DefaultRoot  = "/var/lib/ctrd"
	DefaultState = "/run/ctrd"
)

// Config says where the state directory is and how long a lock may be waited for.
type Config struct {
	Root  string        // durable; empty: DefaultRoot
	State string        // this boot; empty: DefaultState
	Wait  time.Duration // see lock.Dir.Wait
	// Waiting, when set, hears of a wait that has lasted two seconds.
	Waiting func(*lock.BusyError)
	// Look makes Open write nothing. Directories that are missing or of another boot are errdefs.ErrNotFound.
	Look bool
	// Warn, when set, hears of what went wrong beside a deed that was done, such as events that are lost.
	Warn func(error)
}

// Dir is an open state directory. It holds no lock, and no file of the directory open unless [Dir.KeepOpen] has asked for that.
type Dir struct {
	root, state string
	locks       lock.Dir
	copies      [2]copies // by side
	groups      [2]group  // by side
	kept        [2]kept   // by side
	patience    event.Patience
	tail        event.Tail
	keeps       atomic.Bool
	warn        func(error)
	trashed     trashed
	gaveUp      [2]atomic.Bool // reserves, by side
}

// Open makes what is missing of the two directories and, in the first command after a boot, throws away
// what the boot before left in the state directory, and makes the two a pair. It touches nothing in them that is
// not ctrd's. On a read-only file system it writes nothing.
//
// Two directories of which one is the other, or lies below one of its names, are errdefs.ErrInvalidArgument. A
// state directory with names as ctrd makes them, but without a stamp, is errdefs.ErrFailedPrecondition, and
// so are two directories of which one is in use with another: a [*PairError].
func Open(c Config) (*Dir, error) {
	d := &Dir{root: c.Root, state: c.State, warn: c.Warn}
	if d.warn == nil {
		d.warn = func(error) {}
	}
	d.patience.Lost = d.warn
	if d.patience.Total = maxPatience; c.Wait >= 0 {
		d.patience.Total = min(max(c.Wait, minPatience), maxPatience)
	}
	if d.root == "" {
		d.root = DefaultRoot
	}
	if d.state == "" {
		d.state = DefaultState
	}
	for _, p := range []*string{&d.root, &d.state} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, fmt.Errorf("state directory %q: %w", *p, err)
		}
		*p = abs
	}
	if r, s := resolve(d.root), resolve(d.state); lies(r, s, slices.Concat(bootNames, []string{"boot", netnsName, pairName, pairingName, "locks", "trash"})) || lies(s, r, rootNames) {
		return nil, fmt.Errorf("root %s and state directory %s: neither can be the other or lie where the other keeps its own: %w", d.root, d.state, errdefs.ErrInvalidArgument)
	}
	d.locks = lock.Dir{Path: filepath.Join(d.state, "locks"), Wait: c.Wait, Waiting: c.Waiting, Room: func() bool { return d.giveUpReserve(false) }}
	if err := d.begin(c.Look); err != nil {
		var apart *PairError
		if errors.As(err, &apart) {
			return nil, apart
		}
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
		}
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return d, nil
}

// resolve follows the symbolic links of what exists of an absolute path.
func resolve(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		return real
	}
	if up := filepath.Dir(path); up != path {
		return filepath.Join(resolve(up), filepath.Base(path))
	}
	return path
}

// lies tells whether path is dir, or lies below one of the names there.
func lies(path, dir string, names []string) bool {
	rest, below := strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	first, _, _ := strings.Cut(rest, "/")
	return path == dir || below && slices.Contains(names, first)
}

// Path joins names below the root, which is durable.
func (d *Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

// Run joins names below the state directory, which lives as long as this boot.
func (d *Dir) Run(elem ...string) string {
	return filepath.Join(append([]string{d.state}, elem...)...)
}

// Locks is the directory of object locks.
func (d *Dir) Locks() lock.Dir { return d.locks }

// Lock takes an object lock; see [lock.Dir.Acquire].
func (d *Dir) Lock(ctx context.Context, outer *lock.Lock, rank lock.Rank, name string, mode lock.Mode) (*lock.Lock, error) {
	l, err := d.locks.Acquire(ctx, outer, rank, name, mode)
	return l, NoRoom(err, d.locks.Path)
}

// Journal is the event journal of this state directory. All appends together wait a second for a lock of
// it that is not had, or as long as Config.Wait says if that is less: an event that comes too late is lost.
func (d *Dir) Journal() event.Journal {
	j := event.Journal{Dir: d.Run("events"), Patience: &d.patience}
	if d.keeps.Load() {
		j.Tail = &d.tail
	}
	return j
}

const (
	maxPatience = time.Second
	minPatience = 100 * time.Millisecond // in which any number of others append
)

// BootID is the kernel's random id of this boot.
var BootID = sync.OnceValues(func() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
})

// begin makes sure that the directories are there, of this boot, and a pair. Usually it reads three small
// files to see that. What is wrong is found before anything is written.
func (d *Dir) begin(look bool) error {
	boot, err := BootID()
	if err != nil {
		return err
	}
	stamp, err := d.readStamp()
	if err != nil {
		return err
	}
	p, err := d.readPairs(boot)
	if err != nil || stamp == boot && p.paired() {
		return err
	}
	if look {
		if _, err := os.Stat(d.root); err != nil || stamp != boot {
			return fmt.Errorf("root %s and state directory %s have nothing of this boot: %w", d.root, d.state, errdefs.ErrNotFound)
		}
		return nil
	}
	for _, dir := range []string{d.root, d.state} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if stamp == boot && (readOnly(d.root) || readOnly(d.state)) {
		return nil // nothing can be begun that another root or state directory would be in the way of
	}
	l, err := d.Lock(context.Background(), nil, lock.Database, "boot", lock.Exclusive)
	if err != nil {
		return err
	}
	err = errors.Join(d.beginLocked(boot), l.Release())
	d.EmptyTrash() // what the boot before has left
	return err
}

func (d *Dir) beginLocked(boot string) error {
	if err := d.checkBoot(boot); err != nil {
		return fmt.Errorf("%s: %w", d.state, err)
	}
	// A removal must not need room for a trash.
	for _, bin := range []string{d.bin(true), d.bin(false)} {
		if err := os.Mkdir(bin, 0o700); err != nil && !errors.Is(err, os.ErrExist) && !noRoom(err) && !errors.Is(err, unix.EROFS) {
			return err
		}
	}
	if readOnly(d.root) {
		return nil
	}
	err := d.join(boot)
	if noRoom(err) && d.giveUpReserve(true) {
		err = d.join(boot)
	}
	if noRoom(err) {
		return nil // they stay what they were, so that a removal can make room
	}
	return err
}

// readOnly tells whether a directory is on a read-only file system.
func readOnly(dir string) bool { return unix.Access(dir, unix.W_OK) == unix.EROFS }

// readStamp reads the boot id that the state directory was stamped with; it is empty when there is none.
func (d *Dir) readStamp() (string, error) {
	stamp, _, err := readSmall(d.Run("boot"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return stamp, err
}

// checkBoot compares the stamp in the state directory with this boot. The stamp is there before anything
// else but locks, and is replaced in place when the rest is gone. So what lies beside no stamp is not
// ctrd's, or is of a directory whose stamp somebody removed while containers may run: it is left alone.
func (d *Dir) checkBoot(boot string) error {
	stamp, err := d.readStamp()
	if err != nil || stamp == boot {
		return err
	}
	entries, err := os.ReadDir(d.state)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n := e.Name()
		if temporary := strings.HasPrefix(n, newPrefix); !slices.Contains(bootNames, n) && !(temporary && stamp != "") {
			continue
		}
		if stamp == "" {
			return fmt.Errorf("it has %q but no stamp of a boot: it is not ctrd's, or the file %q was removed: %w", n, "boot", errdefs.ErrFailedPrecondition)
		}
		if err := d.Trash(d.Run(n)); err != nil {
			return err
		}
	}
	// A power cut must not take the stamp and leave what is made after it.
	return WriteFile(d.Run("boot"), []byte(boot), true)
}

// bootNames is what ends with the boot in a state directory, beside the stamp and the temporary names
// of WriteFile.
var bootNames = []string{"run.db", "run.db.new", "leases", "events", "tasks", "pods", "s", "mounts", "seccomp", "uploads", "ipam", "io.containerd.runtime.v2.task", reserveName}

// netnsName is where network namespaces are pinned. It is not in bootNames: a mount cannot be thrown away. A boot leaves
// empty files there, which lib/network removes.
const netnsName = "netns"

// rootNames is what the root has.
var rootNames = []string{"meta.db", "meta.db.new", reserveName, pairName, uuidName, "content", "snapshots", "containers", "networks", "manifests", "locks", "trash"}

// newPrefix begins the temporary names of WriteFile.
const newPrefix = ".new-"

// WriteFile replaces the file at path in one step: no reader sees half of it, no crash leaves half of
// it. With durable it is on the disk when WriteFile returns; without, a power cut may lose it.
func WriteFile(path string, data []byte, durable bool) error {
	return writeFile(path, durable, func(*os.File) ([]byte, error) { return data, nil })
}

// writeFile is WriteFile of what content gives for the new file.
func writeFile(path string, durable bool, content func(*os.File) ([]byte, error)) error {
	f, err := os.CreateTemp(filepath.Dir(path), newPrefix)
	if err != nil {
		return err
	}
	data, err := content(f)
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	if durable {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
