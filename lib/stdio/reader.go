// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/tail"
)

const (
	readBuffer = 64 << 10
	maxLine    = 1 << 20 // longer lines are not ours and are left out
)

// ReadOptions says which part of a log to read.
type ReadOptions struct {
	Since  time.Time // leaves out what is older; zero is the beginning
	Tail   int       // only the last so many lines; negative is all
	Follow bool      // at the end, wait for more
}

// Reader reads a log over all its files, the oldest first, and keeps up with rotation: no record is lost
// or read twice unless the file that holds it was removed before it was read.
type Reader struct {
	log    Log
	opt    ReadOptions
	ctx    context.Context
	ended  context.Context
	end    context.CancelFunc
	watch  *tail.Watcher
	file   *os.File
	next   *os.File // the successor, once it is known that the file is complete
	off    int64
	buf    []byte
	r, w   int
	skip   bool // in a line that is too long
	onIdle func() error
}

// Open begins to read the log. A log of which no file exists is os.ErrNotExist.
func (l Log) Open(ctx context.Context, opt ReadOptions) (*Reader, error) {
	r := &Reader{log: l, opt: opt, ctx: ctx, buf: make([]byte, readBuffer)}
	if opt.Follow {
		w, err := tail.Watch(filepath.Dir(l.Path))
		if err != nil {
			return nil, err
		}
		r.watch = w
	}
	var err error
	if opt.Tail >= 0 {
		r.file, r.off, err = l.lastLines(opt.Tail)
	} else {
		r.file, err = l.oldest()
	}
	if err != nil {
		r.watch.Close()
		return nil, err
	}
	r.ended, r.end = context.WithCancel(ctx)
	return r, nil
}

// End says that the writer is done: Next gives what the log still holds, then io.EOF. It may be called
// from any goroutine.
func (r *Reader) End() { r.end() }

// Close ends the reading.
func (r *Reader) Close() error {
	r.end()
	if r.next != nil {
		r.next.Close()
	}
	return errors.Join(r.file.Close(), r.watch.Close())
}

// Next gives the next record, whose slices hold until the next call. At the end of the log it returns
// io.EOF, or, following, waits; after its context has ended it returns that error. Lines that are not
// records are left out.
func (r *Reader) Next() (Record, error) {
	for {
		line, err := r.line()
		if err != nil {
			return Record{}, err
		}
		rec, err := ParseRecord(line)
		if err != nil {
			continue
		}
		if !r.opt.Since.IsZero() {
			if t, err := rec.Time(); err != nil || t.Before(r.opt.Since) {
				continue
			}
			// Records are in order of time.
			r.opt.Since = time.Time{}
		}
		return rec, nil
	}
}

func (r *Reader) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(r.buf[r.r:r.w], '\n'); i >= 0 {
			line := r.buf[r.r : r.r+i]
			r.r += i + 1
			if r.skip {
				r.skip = false
				continue
			}
			return line, nil
		}
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
		if r.w == len(r.buf) {
			if len(r.buf) >= maxLine {
				r.w, r.skip = 0, true
			} else {
				r.buf = append(r.buf, make([]byte, len(r.buf))...)
			}
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more into the buffer, or fails. It may also return having changed to the next file.
func (r *Reader) fill() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	// Asked before the read: what was written before End is then found by it.
	ended := r.ended.Err() != nil
	n, err := r.file.ReadAt(r.buf[r.w:], r.off)
	if n > 0 {
		r.watch.Saw()
		r.w += n
		r.off += int64(n)
		return nil
	}
	if err != nil && err != io.EOF {
		return err
	}
	if r.next != nil {
		r.file.Close()
		r.file, r.next, r.off, r.w, r.skip = r.next, nil, 0, 0, false
		return nil
	}
	if r.next, err = r.log.successor(r.file); err != nil {
		return err
	}
	if r.next != nil {
		// The writer may have added to the file after we came to its end and before it was renamed: read
		// there once more before leaving it.
		return nil
	}
	if r.onIdle != nil {
		if err := r.onIdle(); err != nil {
			return err
		}
	}
	if !r.opt.Follow || ended {
		return io.EOF
	}
	return r.wait()
}

// wait returns when there may be more to read.
func (r *Reader) wait() error {
	ctx := r.ended
	if unlinked(r.file) {
		// Either a new file is about to be made or the directory is going. inotify does not tell of the
		// latter while a file of the directory is open.
		if _, err := os.Lstat(filepath.Dir(r.log.Path)); errors.Is(err, os.ErrNotExist) {
			r.end()
			return nil
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
	}
	err := r.watch.Wait(ctx)
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		r.end()
		return nil
	}
	return err
}

func unlinked(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(fd(f)), &st) == nil && st.Nlink == 0
}

// Copy writes the output to stdout and stderr as the process wrote it, until Next ends; io.EOF is no
// error. With stamps each line begins with its time and a space.
func (r *Reader) Copy(stdout, stderr io.Writer, stamps bool) error {
	out := [2]*chunk{{w: stdout}, {w: stderr}}
	r.onIdle = func() error { return errors.Join(out[0].flush(), out[1].flush()) }
	defer func() { r.onIdle = nil }()
	for {
		rec, err := r.Next()
		if err != nil {
			ferr := r.onIdle()
			if err == io.EOF {
				err = nil
			}
			return errors.Join(err, ferr)
		}
		if err := out[rec.Stream].add(rec, stamps); err != nil {
			return err
		}
		// Where both go to one terminal, their order shows.
		if o := out[1-rec.Stream]; len(o.buf) > 0 {
			if err := o.flush(); err != nil {
				return err
			}
		}
	}
}

// chunk collects output so that lines do not become writes.
type chunk struct {
	w    io.Writer
	buf  []byte
	open bool // in the middle of a line
}

func (c *chunk) add(rec Record, stamps bool) error {
	if stamps && !c.open {
		c.buf = append(append(c.buf, rec.Stamp...), ' ')
	}
	c.buf = append(c.buf, rec.Data...)
	if !rec.Partial {
		c.buf = append(c.buf, '\n')
	}
	c.open = rec.Partial
	if len(c.buf) >= readBuffer {
		return c.flush()
	}
	return nil
}

func (c *chunk) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}
