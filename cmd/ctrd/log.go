// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// newLogger logs what is at least of a level: to the journal with its priorities if f is the journal, else as text with times.
func newLogger(f *os.File, level slog.Leveler) *slog.Logger {
	if isJournal(f, os.Getenv("JOURNAL_STREAM")) {
		return slog.New(newJournal(f, level))
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: level}))
}

// isJournal tells whether a file is the stream that JOURNAL_STREAM names by device and inode (systemd.exec(5)).
func isJournal(f *os.File, stream string) bool {
	st, err := f.Stat()
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", sys.Dev, sys.Ino)
}

// journal writes records as lines that begin with a priority (sd-daemon(3)). The journal knows time and priority itself.
type journal struct {
	slog.Handler
	out *prefixed
}

func newJournal(w io.Writer, level slog.Leveler) slog.Handler {
	out := &prefixed{w: w}
	known := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	return journal{slog.NewTextHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: known}), out}
}

// Handle implements slog.Handler.
func (j journal) Handle(ctx context.Context, r slog.Record) error {
	j.out.mu.Lock()
	defer j.out.mu.Unlock()
	j.out.prefix = fmt.Sprintf("<%d>", priority(r.Level))
	return j.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (j journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	return journal{j.Handler.WithAttrs(attrs), j.out}
}

// WithGroup implements slog.Handler.
func (j journal) WithGroup(name string) slog.Handler {
	return journal{j.Handler.WithGroup(name), j.out}
}

// prefixed puts a prefix before what is written to w. A text handler writes each record at once, as one line.
type prefixed struct {
	mu     sync.Mutex
	w      io.Writer
	prefix string
}

// Write implements io.Writer.
func (p *prefixed) Write(b []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// priority is the level of syslog(3).
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}
