// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// IsTerminal says whether the file is a terminal.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Raw puts the terminal into raw mode; restore puts it back.
func Raw(f *os.File) (restore func() error, err error) {
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return func() error { return term.Restore(int(f.Fd()), old) }, nil
}

// Size is the terminal's size in characters.
func Size(f *os.File) (width, height uint16, err error) {
	w, h, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0, fmt.Errorf("terminal: %w", err)
	}
	return uint16(w), uint16(h), nil
}

// SetSize sets the size of the terminal whose master, or slave, the file is.
func SetSize(f *os.File, width, height uint16) error {
	err := unix.IoctlSetWinsize(int(fd(f)), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	return os.NewSyscallError("set terminal size", err)
}

// WatchSize calls fn with the terminal's size, at once and after each change (SIGWINCH), until ctx ends.
func WatchSize(ctx context.Context, f *os.File, fn func(width, height uint16)) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGWINCH)
	defer signal.Stop(c)
	for {
		if w, h, err := Size(f); err == nil {
			fn(w, h)
		}
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

// DefaultDetachKeys is what ends an attachment when nothing else was asked for.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ParseDetachKeys reads a list of keys separated by commas, each one ASCII character or ctrl- and a
// letter or one of @[\]^_. The empty list detects nothing. Anything else is errdefs.ErrInvalidArgument.
func ParseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for k := range strings.SplitSeq(s, ",") {
		c, ctrl := strings.CutPrefix(k, "ctrl-")
		if len(c) != 1 || c[0] >= 0x80 {
			return nil, fmt.Errorf("%q is no key: want keys such as ctrl-p,ctrl-q,x: %w", k, errdefs.ErrInvalidArgument)
		}
		b := c[0]
		if ctrl {
			if b >= 'a' && b <= 'z' {
				b -= 'a' - 'A'
			}
			if b < '@' || b > '_' {
				return nil, fmt.Errorf("%q is no key: ctrl- goes with a letter or one of @ [ \\ ] ^ _: %w", k, errdefs.ErrInvalidArgument)
			}
			b -= '@'
		}
		keys = append(keys, b)
	}
	return keys, nil
}

// ErrDetached is returned by a DetachReader that has seen its keys.
var ErrDetached = errors.New("detached")

// DetachReader reads a terminal's input up to the detach keys. A beginning of the keys is held back until
// it is clear whether the rest follows.
type DetachReader struct {
	r    io.Reader
	keys []byte
	held int
	in   []byte
	buf  [4096]byte
	err  error
}

// NewDetachReader reads r until the keys come; without keys it only reads.
func NewDetachReader(r io.Reader, keys []byte) *DetachReader { return &DetachReader{r: r, keys: keys} }

// Read implements [io.Reader]. After the keys it returns ErrDetached.
func (d *DetachReader) Read(p []byte) (int, error) {
	if len(d.keys) == 0 {
		return d.r.Read(p)
	}
	// One byte may bring up to all held keys with it.
	if len(p) < len(d.keys) {
		return 0, io.ErrShortBuffer
	}
	for {
		n := 0
		for len(d.in) > 0 && d.err != ErrDetached && n+d.held < len(p) {
			n += d.step(p[n:], d.in[0])
			d.in = d.in[1:]
		}
		if n > 0 {
			return n, nil
		}
		if d.err != nil {
			if d.held > 0 && d.err != ErrDetached {
				n, d.held = copy(p, d.keys[:d.held]), 0
				return n, nil
			}
			return 0, d.err
		}
		if len(d.in) == 0 {
			var m int
			m, d.err = d.r.Read(d.buf[:])
			d.in = d.buf[:m]
		}
	}
}

// step takes one byte and gives what it sets free.
func (d *DetachReader) step(p []byte, b byte) int {
	n := 0
	for {
		if b == d.keys[d.held] {
			d.held++
			if d.held == len(d.keys) {
				d.held, d.err = 0, ErrDetached
			}
			return n
		}
		if d.held == 0 {
			p[n] = b
			return n + 1
		}
		// The held keys do not match any more, but a part of them may begin a match with b.
		p[n] = d.keys[0]
		n++
		held := d.keys[1:d.held]
		for len(held) > 0 && string(held) != string(d.keys[:len(held)]) {
			p[n] = held[0]
			n++
			held = held[1:]
		}
		d.held = len(held)
	}
}
