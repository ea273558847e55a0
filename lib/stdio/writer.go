// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

const (
	stampFormat = "2006-01-02T15:04:05.000000000Z07:00"
	writeBuffer = 16 << 10
)

// Writer writes a log. Its methods may be called concurrently.
type Writer struct {
	log Log

	mu      sync.Mutex
	file    *os.File
	id      fileID // of the file, when others rotate it
	size    int64
	buf     []byte
	heads   int     // length of what begins each record in buf
	open    [2]bool // the stream's last record was partial
	torn    bool    // the last write ended in the middle of a record
	dropped uint64
	failure error
}

// Create opens the log for writing; what it holds stays.
func (l Log) Create() (*Writer, error) {
	f, err := os.OpenFile(l.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, l.mode())
	if err != nil {
		return nil, err
	}
	w := &Writer{log: l}
	if err := w.take(f); err != nil {
		return nil, err
	}
	return w, nil
}

// take makes f the file that is written.
func (w *Writer) take(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	if w.file != nil {
		w.file.Close()
	}
	w.file, w.id, w.size, w.torn = f, idOf(st), st.Size(), false
	var last [1]byte
	if w.size > 0 {
		if _, err := f.ReadAt(last[:], w.size-1); err == nil && last[0] != '\n' {
			w.torn = true
		}
	}
	return nil
}

// Write adds output of a stream, as it came: it need not be whole lines. It keeps nothing back: what it
// was given can be read from the log when it returns. Output that cannot be written is dropped and
// counted, see Dropped; the container is not to stop because a disk is full.
func (w *Writer) Write(s Stream, p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf == nil {
		w.buf = make([]byte, 0, writeBuffer)
	}
	var head [len(stampFormat) + 16]byte
	h := time.Now().UTC().AppendFormat(head[:0], stampFormat)
	h = append(h, ' ')
	h = append(h, s.String()...)
	h = append(h, " F "...)
	w.heads = len(h)
	for len(p) > 0 {
		piece, rest := p, []byte(nil)
		whole := false
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			piece, rest, whole = p[:i], p[i+1:], true
		}
		if most := w.log.line(); len(piece) > most {
			piece, rest, whole = p[:most], p[most:], false
		}
		w.record(s, h, piece, whole)
		p = rest
	}
	w.flush()
}

func (w *Writer) record(s Stream, head, piece []byte, whole bool) {
	need := len(head) + len(piece) + 1
	if len(w.buf)+need > cap(w.buf) {
		w.flush()
	}
	w.rotate(int64(need))
	head[len(head)-2] = 'P'
	if whole {
		head[len(head)-2] = 'F'
	}
	w.buf = append(append(append(w.buf, head...), piece...), '\n')
	w.open[s] = !whole
}

func (w *Writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	w.follow()
	if w.torn {
		if _, err := w.file.Write([]byte{'\n'}); err != nil {
			w.drop(0, err)
			w.buf = w.buf[:0]
			return
		}
		w.torn = false
		w.size++
	}
	n, err := w.file.Write(w.buf)
	w.size += int64(n)
	if err != nil {
		w.torn = n > 0 && w.buf[n-1] != '\n'
		w.drop(n, err)
	}
	w.buf = w.buf[:0]
}

// drop counts the output in buf of which no more than the first n bytes of buf were written.
func (w *Writer) drop(n int, err error) {
	for record := range bytes.Lines(w.buf) {
		output := record[w.heads:]
		if record[w.heads-2] == 'P' {
			output = output[:len(output)-1] // the newline is ours
		}
		w.dropped += uint64(len(output) - min(max(n-w.heads, 0), len(output)))
		n -= len(record)
	}
	w.failure = err
}

// rotate makes room for one more record of the size. It keeps the records of one line in one file unless
// the line alone is larger than a file.
func (w *Writer) rotate(need int64) {
	size := w.size + int64(len(w.buf)) + need
	if w.log.MaxSize <= 0 || size <= w.log.MaxSize || size == need {
		return
	}
	if (w.open[Stdout] || w.open[Stderr]) && size <= 2*w.log.MaxSize {
		return
	}
	w.flush()
	if err := w.shift(); err != nil {
		w.failure = err
		return
	}
	f, err := os.OpenFile(w.log.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, w.log.mode())
	if err != nil {
		// The renamed file is written on; the next record tries again.
		w.failure = err
		return
	}
	if err := w.take(f); err != nil {
		w.failure = err
	}
}

// shift moves every file one number up, the highest first: readers rely on that.
func (w *Writer) shift() error {
	if _, err := os.Lstat(w.log.Path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	last := w.log.files() - 1
	if last == 0 {
		return os.Remove(w.log.Path)
	}
	for i := last - 1; i >= 0; i-- {
		err := os.Rename(w.log.name(i), w.log.name(i+1))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Dropped tells how many bytes of output could not be written so far, and the last reason.
func (w *Writer) Dropped() (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped, w.failure
}

// Close closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.file.Close()
}

// Stream is the writer of one stream. Its Write never fails.
func (w *Writer) Stream(s Stream) io.Writer { return streamWriter{w, s} }

type streamWriter struct {
	w *Writer
	s Stream
}

func (s streamWriter) Write(p []byte) (int, error) {
	s.w.Write(s.s, p)
	return len(p), nil
}
