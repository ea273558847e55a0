// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var errTold = errors.New("told to end")

// ended gives a context that ends when the function is called.
func ended(t *testing.T) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(t.Context())
	return ctx, func() { cancel(errTold) }
}

// The open of a FIFO that nobody has at the other end, a read of one that nobody writes to and a write to one that nobody
// reads end with the context.
func TestUntil(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, end := ended(t)
	end()
	if _, err := Open(ctx, fifo); !errors.Is(err, errTold) {
		t.Errorf("Open: %v", err)
	}
	if _, err := ReadFile(ctx, fifo, 10); !errors.Is(err, errTold) {
		t.Errorf("ReadFile: %v", err)
	}
	// What waits in these gets the other end.
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	ctx, end = ended(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	read := make(chan error)
	go func() {
		_, err := Reader(ctx, r).Read(make([]byte, 1))
		read <- err
	}()
	end()
	if err := <-read; !errors.Is(err, errTold) {
		t.Errorf("Read: %v", err)
	}

	ctx, end = ended(t)
	r2, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	defer w2.Close()
	wrote := make(chan error)
	go func() {
		_, err := Writer(ctx, w2).Write(make([]byte, 10<<20))
		wrote <- err
	}()
	end()
	if err := <-wrote; !errors.Is(err, errTold) {
		t.Errorf("Write: %v", err)
	}
}

// What is read and written is what the reader has and the writer is given, and no byte more is read than was asked for.
func TestReaderAndWriter(t *testing.T) {
	text := strings.Repeat("some text\n", 1000)
	from := strings.NewReader(text)
	r := Reader(t.Context(), from)
	if n, err := io.ReadFull(r, make([]byte, 3)); n != 3 || err != nil || from.Len() != len(text)-3 {
		t.Errorf("%d bytes, %v; %d are left", n, err, from.Len())
	}
	var to bytes.Buffer
	to.WriteString(text[:3])
	if _, err := io.Copy(Writer(t.Context(), &to), r); err != nil || to.String() != text {
		t.Errorf("%d bytes, %v", to.Len(), err)
	}
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(t.Context(), name, int64(len(text))); err != nil || string(b) != text {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := ReadFile(t.Context(), name, int64(len(text))-1); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a file that is too large: %v", err)
	}
	f, err := Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if Reader(t.Context(), f) != io.Reader(f) {
		t.Error("a regular file is not read as it is")
	}
	if _, err := Open(t.Context(), name+"x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
