// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
)

// status is google.rpc.Status without its details.
type status struct {
	code int32
	text string
}

func (m *status) fields(c *codec) {
	c.int32(1, &m.code)
	c.string(2, &m.text)
}

// The numbers of google.rpc.Code.
const (
	codeOK      = 0
	codeUnknown = 2
	codeFailed  = 9 // FAILED_PRECONDITION
)

// maxText bounds the text of an error: one that fits in no message would leave
// the caller without an answer.
const maxText = 64 << 10

// kinds has the error kind of each code; containerd pairs them in the same way.
var kinds = [...]error{
	1:           context.Canceled,
	codeUnknown: errdefs.ErrUnknown,
	3:           errdefs.ErrInvalidArgument,
	4:           context.DeadlineExceeded,
	5:           errdefs.ErrNotFound,
	6:           errdefs.ErrAlreadyExists,
	7:           errdefs.ErrPermissionDenied,
	8:           errdefs.ErrResourceExhausted,
	codeFailed:  errdefs.ErrFailedPrecondition,
	10:          errdefs.ErrAborted,
	11:          errdefs.ErrOutOfRange,
	12:          errdefs.ErrNotImplemented,
	13:          errdefs.ErrInternal,
	14:          errdefs.ErrUnavailable,
	15:          errdefs.ErrDataLoss,
	16:          errdefs.ErrUnauthenticated,
}

// statusOf is the status by which err travels; nil is OK.
func statusOf(err error) status {
	if err == nil {
		return status{}
	}
	s := status{code: codeUnknown, text: strings.ToValidUTF8(err.Error(), "\uFFFD")}
	if len(s.text) > maxText {
		s.text = strings.ToValidUTF8(s.text[:maxText], "")
	}
	kind := errdefs.Resolve(err)
	if kind == errdefs.ErrConflict || kind == errdefs.ErrNotModified {
		s.code = codeFailed
		return s
	}
	for code, k := range kinds {
		if k == kind {
			s.code = int32(code)
		}
	}
	return s
}

// err is the error that s tells of; nil when it is OK.
func (s status) err() error {
	if s.code == codeOK {
		return nil
	}
	e := &remoteError{text: s.text, kind: errdefs.ErrUnknown}
	if s.code > 0 && int(s.code) < len(kinds) {
		e.kind = kinds[s.code]
	}
	// These two have no code of their own; their text tells them apart.
	if s.code == codeFailed {
		for _, kind := range []error{errdefs.ErrConflict, errdefs.ErrNotModified} {
			if s.text == kind.Error() || strings.HasSuffix(s.text, ": "+kind.Error()) {
				e.kind = kind
			}
		}
	}
	if e.text == "" {
		e.text = e.kind.Error()
	}
	return e
}

// remoteError is an error of the server: its text, and its kind to errors.Is.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }
