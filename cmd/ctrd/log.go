// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// newLogger logs what is at least of a level: to the journal, a field for each attribute, if stderr is the journal; else as text
// with times.
func newLogger(level slog.Leveler) *slog.Logger {
	if yes, err := journal.StderrIsJournalStream(); err == nil && yes {
		return slog.New(newJournal(journal.Send, os.Stderr, level))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// journalPrefix is how a field of the journal begins that is an attribute: CTRD_METHOD, CTRD_NAMESPACE.
const journalPrefix = "CTRD_"

// toJournal writes records by the journal's native protocol. The message is the text of the record, without time and level, which
// the journal knows itself. While journald does not take it, the text goes to stderr behind its priority (sd-daemon(3)).
type toJournal struct {
	slog.Handler // writes to line
	line         *line
	group        string            // how the names of further attributes begin
	fields       map[string]string // of all records
}

// line is what a text handler has made of one record, under a lock that all handlers of a logger share.
type line struct {
	mu     sync.Mutex
	text   bytes.Buffer
	send   func(message string, p journal.Priority, fields map[string]string) error
	stderr io.Writer
}

func newJournal(send func(string, journal.Priority, map[string]string) error, stderr io.Writer, level slog.Leveler) slog.Handler {
	known := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	l := &line{send: send, stderr: stderr}
	text := slog.NewTextHandler(&l.text, &slog.HandlerOptions{Level: level, ReplaceAttr: known})
	return toJournal{Handler: text, line: l, fields: map[string]string{"SYSLOG_IDENTIFIER": "ctrd"}}
}

// Handle implements slog.Handler.
func (j toJournal) Handle(ctx context.Context, r slog.Record) error {
	fields := maps.Clone(j.fields)
	r.Attrs(func(a slog.Attr) bool { addField(fields, j.group, a); return true })
	l := j.line
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
	if err := j.Handler.Handle(ctx, r); err != nil {
		return err
	}
	p := priority(r.Level)
	if l.send(strings.TrimSuffix(l.text.String(), "\n"), p, fields) == nil {
		return nil
	}
	_, err := fmt.Fprintf(l.stderr, "<%d>%s", p, l.text.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (j toJournal) WithAttrs(attrs []slog.Attr) slog.Handler {
	j.Handler, j.fields = j.Handler.WithAttrs(attrs), maps.Clone(j.fields)
	for _, a := range attrs {
		addField(j.fields, j.group, a)
	}
	return j
}

// WithGroup implements slog.Handler.
func (j toJournal) WithGroup(name string) slog.Handler {
	if name != "" {
		j.Handler, j.group = j.Handler.WithGroup(name), j.group+name+"_"
	}
	return j
}

// addField adds an attribute. One that says nothing, as the error of a call that went well, is left out.
func addField(fields map[string]string, group string, a slog.Attr) {
	switch v := a.Value.Resolve(); {
	case v.Kind() == slog.KindGroup:
		if a.Key != "" {
			group += a.Key + "_"
		}
		for _, one := range v.Group() {
			addField(fields, group, one)
		}
	case v.Any() != nil && a.Key != "":
		if text := v.String(); text != "" {
			fields[fieldName(group+a.Key)] = text
		}
	}
}

// fieldName makes of an attribute's name one that journald takes: of upper case letters, digits and underscores, 64 at most.
func fieldName(key string) string {
	name := journalPrefix + strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), 64)]
}

// priority is the level of syslog(3).
func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
