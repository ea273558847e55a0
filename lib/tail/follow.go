// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"context"
	"io"
	"os"
	"strconv"
	"sync"
)

// Reader reads a file that another process appends to.
type Reader struct {
	ctx   context.Context
	file  *os.File
	watch *Watcher
	off   int64
	ended context.Context
	end   context.CancelFunc
	close func() error
	once  sync.Once
}

// Follow reads the file at path from the offset on. See [FollowFile].
func Follow(ctx context.Context, path string, from int64) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := FollowFile(ctx, f, from)
	if err != nil {
		f.Close()
		return nil, err
	}
	r.close = f.Close
	return r, nil
}

// FollowFile reads f from the offset on; at the end it waits for more. It follows the open file, under
// whatever name. Reads return the context's error once ctx has ended, and io.EOF at the end of the file
// after End. f stays the caller's.
func FollowFile(ctx context.Context, f *os.File, from int64) (*Reader, error) {
	w, err := Watch("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return nil, err
	}
	r := &Reader{ctx: ctx, file: f, watch: w, off: from}
	r.ended, r.end = context.WithCancel(ctx)
	return r, nil
}

// End says that the writer is done: what the file holds is still read, then comes io.EOF.
// It may be called from any goroutine.
func (r *Reader) End() { r.end() }

// Offset is the position of the next byte in the file.
func (r *Reader) Offset() int64 { return r.off }

// Read implements [io.Reader].
func (r *Reader) Read(p []byte) (int, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		// Asked before the read: what was written before End is then found by it.
		ended := r.ended.Err() != nil
		n, err := r.file.ReadAt(p, r.off)
		if n > 0 {
			r.off += int64(n)
			return n, nil
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		if len(p) == 0 {
			return 0, nil
		}
		if ended {
			return 0, io.EOF
		}
		if err := r.watch.Wait(r.ended); err != nil && r.ended.Err() == nil {
			return 0, err
		}
	}
}

// Close ends the following.
func (r *Reader) Close() error {
	var err error
	r.once.Do(func() {
		r.end()
		err = r.watch.Close()
		if r.close != nil {
			if cerr := r.close(); err == nil {
				err = cerr
			}
		}
	})
	return err
}
