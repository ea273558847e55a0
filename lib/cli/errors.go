// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// The exit statuses that all commands share.
const (
	ExitOther    = 1
	ExitUsage    = 2
	ExitNotFound = 3
	ExitExists   = 4
	ExitBusy     = 5
	ExitRegistry = 6
	ExitSome     = 7
	ExitCorrupt  = 8
	ExitTimeout  = 124
)

// meanings is the common part of EXIT STATUS.
var meanings = map[int]string{
	0:            "done",
	ExitOther:    "another failure",
	ExitUsage:    "wrong usage: an option or operand that makes no sense",
	ExitNotFound: "something named does not exist",
	ExitExists:   "something to be made exists already",
	ExitBusy:     "busy: a lock was not had in time, or the thing is in use",
	ExitRegistry: "the registry or the network",
	ExitSome:     "some operands failed, for different reasons or while others were done",
	ExitCorrupt:  "the state directory is damaged",
	ExitTimeout:  "timed out",
}

// Status is the exit status for an error: of one made by [Exit] or [WithStatus] its own, of others that of
// their errdefs kind; 0 for nil.
func Status(err error) int {
	if err == nil {
		return 0
	}
	var own *statusError
	if errors.As(err, &own) {
		return own.status
	}
	switch {
	case errdefs.IsDataLoss(err):
		return ExitCorrupt
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err):
		return ExitUsage
	case errdefs.IsNotFound(err):
		return ExitNotFound
	case errdefs.IsAlreadyExists(err):
		return ExitExists
	case errdefs.IsFailedPrecondition(err), errdefs.IsConflict(err), errdefs.IsAborted(err):
		return ExitBusy
	case errdefs.IsDeadlineExceeded(err):
		return ExitTimeout
	case errors.Is(err, os.ErrPermission): // a file's, where errdefs means a registry's
		return ExitOther
	case errdefs.IsUnavailable(err), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err), errdefs.IsResourceExhausted(err):
		return ExitRegistry
	}
	return ExitOther
}

type statusError struct {
	status int
	err    error // nil: nothing to say
	kind   bool  // the status follows from kinds, so About.Failure goes before it
}

// Error is the text of what went wrong, or the status where nothing is to be said.
func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

// Unwrap gives what went wrong.
func (e *statusError) Unwrap() error { return e.err }

// Exit ends the command with a status and without a message; nil for 0.
func Exit(status int) error {
	if status == 0 {
		return nil
	}
	return &statusError{status: status}
}

// WithStatus gives an error a status that its kind does not say, such as 127 for a program not found.
func WithStatus(err error, status int) error {
	if err == nil {
		return nil
	}
	return &statusError{status: status, err: err}
}

// HasStatus tells whether an error was given its status by [Exit] or [WithStatus].
func HasStatus(err error) bool {
	var own *statusError
	return errors.As(err, &own)
}

type hintError struct {
	error
	hint string
}

// Unwrap gives the error that the hint is about.
func (e *hintError) Unwrap() error { return e.error }

// Hint is what to do next.
func (e *hintError) Hint() string { return e.hint }

// Hint adds to an error what to do next; it is printed as a line of its own. Any error that has a method
// Hint() string is printed so.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// Usagef makes an error of wrong usage, which ends with a pointer to --help.
func Usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

type usageError struct{ error }

// Unwrap gives the error and its kind.
func (e *usageError) Unwrap() []error { return []error{e.error, errdefs.ErrInvalidArgument} }

// Say prints a line on stderr, after the name of the command and above whatever progress is drawn there. Control characters are made visible.
func Say(format string, args ...any) {
	var b strings.Builder
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			fmt.Fprintf(&b, "%s: %s\n", current.name(), visible(shorten(line)))
		}
	}
	toStderr(b.String())
}

// Warn prints an error, and its hints, as the end of the command would, and goes on.
func Warn(err error) {
	if err == nil || silent(err) {
		return
	}
	Say("%v", err)
	for _, h := range hints(err, nil) {
		toStderr(fmt.Sprintf("hint: %s\n", visible(shorten(h))))
	}
}

// silent tells whether there is nothing to print for err: its status says all.
func silent(err error) bool {
	var own *statusError
	return errors.As(err, &own) && own.err == nil
}

// hints collects the hints of an error and of all it wraps, the outermost first, each once.
func hints(err error, found []string) []string {
	if err == nil {
		return found
	}
	if h, ok := err.(interface{ Hint() string }); ok && h.Hint() != "" {
		seen := false
		for _, f := range found {
			seen = seen || f == h.Hint()
		}
		if !seen {
			found = append(found, h.Hint())
		}
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		found = hints(u.Unwrap(), found)
	case interface{ Unwrap() []error }:
		for _, e := range u.Unwrap() {
			found = hints(e, found)
		}
	}
	return found
}

// longestWord is the longest word of a message that is printed whole, in bytes.
const longestWord = 512

// shorten takes out the middle of words that nobody can read, such as a name of thousands of characters.
func shorten(s string) string {
	if len(s) <= longestWord {
		return s
	}
	const end = longestWord / 4
	words := strings.Split(s, " ")
	for i, w := range words {
		if len(w) > longestWord {
			words[i] = strings.ToValidUTF8(w[:end], "") + "..." + strings.ToValidUTF8(w[len(w)-end:], "")
		}
	}
	return strings.Join(words, " ")
}

// visible replaces what would move a terminal's cursor or change its state.
func visible(s string) string {
	clean := 0
	for clean < len(s) && ' ' <= s[clean] && s[clean] <= '~' {
		clean++
	}
	if clean == len(s) {
		return s
	}
	var b strings.Builder
	b.WriteString(s[:clean])
	for i, r := range s[clean:] {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[clean+i:], string(r)): // a byte that is no UTF-8
			fmt.Fprintf(&b, `\x%02x`, s[clean+i])
		case r == '\t', unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// canceled tells whether an error is the end of a cancelled context.
func canceled(err error) bool { return errors.Is(err, context.Canceled) }
