// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
)

// Schema is the major version of the records. A program refuses a database with a larger one; within a
// version, fields are only ever added.
const Schema = 1

var (
	rootBucket = []byte("ctrd")
	schemaKey  = []byte("schema")
)

// View calls fn with a consistent view of both databases. It takes no lock and waits for nobody. The
// views of the two begin with their first use, at different moments.
//
// fn is called again, from its beginning, when a database has changed before fn has read all that it wants. The last
// call counts: fn sets what it gives out, and adds to nothing that it did not begin itself.
func (d *Dir) View(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	moved, err := d.view(fn, false)
	if moved {
		_, err = d.view(fn, true)
	}
	return err
}

// view calls fn once, and tells whether it must be called again. With whole, it need not.
func (d *Dir) view(fn func(*Tx) error, whole bool) (moved bool, err error) {
	tx := &Tx{d: d, whole: whole}
	defer tx.close()
	twice := false
	if !whole {
		twice, tx.early = interrupt()
	}
	err = fn(tx)
	return twice || tx.moved(), err
}

// Update calls fn with a transaction that writes the durable database, and commits it when fn returns
// nil. outer is the innermost lock the caller holds, or nil. fn may be called again, as by [Dir.View]; what an
// earlier call has written is undone. Updates that this process makes at the same time share a commit: fn sees what
// those before it have written, which is committed with its own or not at all, and is undone where they fail.
func (d *Dir) Update(ctx context.Context, outer *lock.Lock, fn func(*Tx) error) error {
	return d.change(ctx, outer, true, fn)
}

// UpdateRun is Update for the database of this boot. It costs no fsync.
func (d *Dir) UpdateRun(ctx context.Context, outer *lock.Lock, fn func(*Tx) error) error {
	return d.change(ctx, outer, false, fn)
}

func (d *Dir) dbPath(durable bool) string {
	if durable {
		return d.Path("meta.db")
	}
	return d.Run("run.db")
}

// lockName is what the lock of a database is called.
func lockName(durable bool) string {
	if durable {
		return "meta"
	}
	return "run"
}

// side is an index: 1 for the root, 0 for the state directory.
func side(durable bool) int {
	if durable {
		return 1
	}
	return 0
}

// newPageSize is the page size of a new database, in bytes, on every machine: with the 64 KiB of some, a database of a few
// records would have half a megabyte. One that is there keeps its own.
const newPageSize = 4 << 10

// openWrite opens a database for writing, under our lock, and gives the file that bbolt has opened, too. A missing one is made whole
// beside its name first, so that no reader meets half of it.
func openWrite(path string, durable bool) (db *bolt.DB, _ *os.File, err error) {
	var opened opener
	defer func() {
		if db == nil && opened.file != nil { // bbolt has closed it, unless it has met a damaged page and panics
			_ = unlock(opened.file)
		}
	}()
	o := &bolt.Options{NoSync: !durable, NoGrowSync: !durable, FreelistType: bolt.FreelistMapType, PageSize: newPageSize, OpenFile: opened.open}
	switch st, err := os.Stat(path); {
	case err == nil && st.Size() == 0:
		return nil, nil, damaged(path, fmt.Errorf("it has %d bytes", st.Size())) // bbolt would start it anew
	case errors.Is(err, os.ErrNotExist):
		fresh := path + ".new"
		os.Remove(fresh)
		db, err := bolt.Open(fresh, 0o600, o)
		if err != nil {
			return nil, nil, fmt.Errorf("database %s: %w", path, err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(rootBucket)
			if err != nil {
				return err
			}
			return b.Put(schemaKey, []byte(strconv.Itoa(Schema)))
		})
		if err = errors.Join(err, db.Close()); err != nil {
			return nil, nil, fmt.Errorf("database %s: %w", path, err)
		}
		if err := os.Rename(fresh, path); err != nil {
			return nil, nil, err
		}
		if durable {
			if err := SyncDir(filepath.Dir(path)); err != nil {
				return nil, nil, fmt.Errorf("database %s: %w", path, err)
			}
		}
	}
	if db, err = bolt.Open(path, 0o600, o); err != nil {
		return nil, nil, damaged(path, err)
	}
	return db, opened.file, nil
}

// checkWritable refuses to write a database of a newer program.
func checkWritable(tx *bolt.Tx, path string) error {
	b := tx.Bucket(rootBucket)
	if b == nil {
		return checkSchema(false, nil, path)
	}
	return checkSchema(true, b.Get(schemaKey), path)
}

// checkSchema judges the schema number of a database, if it has any.
func checkSchema(named bool, text []byte, path string) error {
	if !named {
		return damaged(path, errors.New("it names no schema"))
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return damaged(path, fmt.Errorf("its schema is %q", text))
	}
	if n > Schema {
		return fmt.Errorf("database %s has schema %d, written by a newer ctrd; this one knows up to %d: %w", path, n, Schema, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// DamagedError says that a database cannot be used. Its kind is errdefs.ErrDataLoss.
type DamagedError struct {
	Path string
	Err  error
}

// damaged is the error for a database that cannot be used. What the kernel refuses, such as a write to a
// read-only file system, is no damage.
func damaged(path string, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("database %s: %w", path, err)
	}
	return &DamagedError{path, err}
}

// Error names the database and what is wrong with it.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("database %s is damaged: %v", e.Path, e.Err)
}

// Unwrap gives the kind and the cause.
func (e *DamagedError) Unwrap() []error { return []error{errdefs.ErrDataLoss, e.Err} }

// Hint names the next step.
func (e *DamagedError) Hint() string {
	return "nothing was changed; ctrd fsck shows what can still be read"
}

// guard turns a panic inside bbolt, which is how it meets a damaged page, into an error, and a memory
// fault wherever it is: bbolt hands out slices that are as wrong as the page, and who reads them faults.
// Any other panic goes on.
func guard(path string, fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		// The runtime gives a fault an address only from the second page on: below that it is a nil
		// pointer (the compiler checks before larger offsets), a bug, and has none. Elsewhere only memory
		// that is not Go's can fault, and the databases are all of that kind that there is.
		_, fault := r.(interface {
			runtime.Error
			Addr() uintptr
		})
		if !fault && !strings.Contains(panicOrigin(), "go.etcd.io/bbolt") {
			panic(r)
		}
		err = damaged(path, fmt.Errorf("%v", r))
	}()
	return fn()
}

// panicOrigin is the first function below the panic that is not the Go runtime's.
func panicOrigin() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for seen := false; ; {
		f, more := frames.Next()
		if seen && !strings.HasPrefix(f.Function, "runtime.") {
			return f.Function
		}
		seen = seen || f.Function == "runtime.gopanic"
		if !more {
			return ""
		}
	}
}
