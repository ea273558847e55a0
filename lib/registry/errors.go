// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Error is a request that a registry did not fulfil. errors.Is finds its kind: Unauthenticated,
// PermissionDenied, NotFound, ResourceExhausted (rate limit), Unavailable (network, TLS, 5xx).
type Error struct {
	Registry, Repository string
	Host                 string // that was asked in the registry's place, or empty
	What                 string // what was asked for: `manifest "latest"`
	Err                  error
	Next                 string  // what the user may do about it, or empty
	Before               []error // of the hosts that were asked before, each an *Error
}

// Error is one line, without the hint.
func (e *Error) Error() string {
	at := ""
	if e.Host != "" {
		at = fmt.Sprintf(" at %q", e.Host)
	}
	text := fmt.Sprintf("registry %q%s, repository %q: %s: %v", e.Registry, at, e.Repository, e.What, e.Err)
	for _, err := range e.Before {
		var b *Error
		if errors.As(err, &b) {
			text += fmt.Sprintf("; before it %q: %v", cmp.Or(b.Host, b.Registry), b.Err)
		}
	}
	return text
}

// Hint is what the user may do about it, or empty.
func (e *Error) Hint() string { return e.Next }

// Unwrap gives the cause, which wraps a kind.
func (e *Error) Unwrap() error { return e.Err }

const (
	hintLogin  = "the repository is private or does not exist; put credentials into ~/.docker/config.json or name a file with --authfile"
	hintDenied = "the credentials in use do not allow this; check those in ~/.docker/config.json"
	hintPlain  = "if the registry speaks no TLS, use --plain-http"
	hintCA     = "name the registry's certificate authority with --ca-file, or do without verification with --tls-verify=false"
	hintLimit  = "the registry limits requests; try later, or log in for a higher limit"
)

// fail makes an Error of what a request to a host ended with; without one, it is about the repository.
func (r *Repository) fail(at *endpoint, what string, err error) error {
	var already *Error
	if errors.As(err, &already) {
		return err
	}
	e := &Error{Registry: r.Host(), Repository: r.Name(), What: what}
	if at != nil && at.isProxy() {
		e.Host = at.host
	}
	e.Next, e.Err = classify(err)
	return e
}

func classify(err error) (next string, kind error) {
	var (
		status  *transport.Error
		cert    *tls.CertificateVerificationError
		ue      *url.Error
		plainly *plainError
	)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "", err
	case errors.As(err, &cert): // before what HTTP on the same port was answered
		return hintCA, fmt.Errorf("%w: %w", cert, errdefs.ErrUnavailable)
	case errors.As(err, &status):
		return fromStatus(err, status)
	}
	plain := errors.Is(err, errPlainHTTP) || errors.Is(err, http.ErrSchemeMismatch)
	switch {
	case errors.As(err, &plainly): // of a registry that may speak either it was the last attempt
		err, plain = plainly, false
	case errors.As(err, &ue):
		err = ue
	}
	switch {
	case plain:
		return hintPlain, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	case hasKind(err):
		return "", err
	}
	return "", fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}

func hasKind(err error) bool { return errdefs.Resolve(err) != errdefs.ErrUnknown }

// fromStatus turns an answer's status into a kind, and says what the registry said about it.
func fromStatus(err error, e *transport.Error) (next string, _ error) {
	text := fmt.Sprintf("HTTP %d %s", e.StatusCode, strings.ToLower(http.StatusText(e.StatusCode)))
	for _, d := range e.Errors {
		text += ": " + oneLine(string(d.Code)+" "+d.Message)
	}
	var issuer *tokenServerError
	if errors.As(err, &issuer) {
		text = fmt.Sprintf("token server %q: %s", issuer.host, text)
	}
	var later *laterError
	if errors.As(err, &later) {
		text += fmt.Sprintf(" (retry after %s)", later.after)
	}
	var kind error = errdefs.ErrUnknown
	hint := ""
	switch c := e.StatusCode; {
	case c == http.StatusUnauthorized:
		kind, hint = errdefs.ErrUnauthenticated, hintLogin
	case c == http.StatusForbidden:
		kind, hint = errdefs.ErrPermissionDenied, hintDenied
	case c == http.StatusNotFound:
		kind = errdefs.ErrNotFound
	case c == http.StatusTooManyRequests:
		kind, hint = errdefs.ErrResourceExhausted, hintLimit
	case c == http.StatusPreconditionFailed:
		kind = errdefs.ErrAborted
	case c == http.StatusRequestedRangeNotSatisfiable:
		kind = errdefs.ErrOutOfRange
	case c >= 500, c == http.StatusRequestTimeout:
		kind = errdefs.ErrUnavailable
	}
	return hint, &statusError{e.StatusCode, text, kind}
}

// statusError is an HTTP status with a kind.
type statusError struct {
	code int
	text string
	kind error
}

func (e *statusError) Error() string { return e.text }
func (e *statusError) Unwrap() error { return e.kind }

// oneLine makes outside text fit for an error message.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return strings.TrimSpace(s)
}
