// SPDX-License-Identifier: Apache-2.0

package snapshotapi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/unixsocket"
)

const (
	service = "/containerd.services.snapshots.v1.Snapshots/"
	// maxMessage bounds a message of an answer, in bytes: as much as gRPC takes where nobody says otherwise.
	maxMessage = 4 << 20
	// maxAnswer bounds all messages of an answer.
	maxAnswer = 8 << 20
)

// Client is a snapshotter of a server. It keeps nothing but what is here; any number of goroutines may use it.
type Client struct {
	Address     string        // the path of the server's unix socket
	Snapshotter string        // the name that the server has for it
	Namespace   string        // in which all snapshots are
	Timeout     time.Duration // of one call; 0: none
}

// Error is what a server answered. Its kind is that of errdefs which the code of gRPC stands for.
type Error struct {
	Call    string
	Code    int // of gRPC
	Message string
}

// Error gives the server's words.
func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%s: code %d", e.Call, e.Code)
	}
	return e.Call + ": " + e.Message
}

// Unwrap gives the kind.
func (e *Error) Unwrap() error {
	if kind, ok := kinds[e.Code]; ok {
		return kind
	}
	return errdefs.ErrUnknown
}

var kinds = map[int]error{
	1: context.Canceled, 3: errdefs.ErrInvalidArgument, 4: context.DeadlineExceeded, 5: errdefs.ErrNotFound, 6: errdefs.ErrAlreadyExists,
	7: errdefs.ErrPermissionDenied, 8: errdefs.ErrResourceExhausted, 9: errdefs.ErrFailedPrecondition, 10: errdefs.ErrAborted,
	11: errdefs.ErrOutOfRange, 12: errdefs.ErrNotImplemented, 13: errdefs.ErrInternal, 14: errdefs.ErrUnavailable, 15: errdefs.ErrDataLoss,
	16: errdefs.ErrUnauthenticated,
}

// ServerError says that a server could not be asked, or answered nothing that is an answer. Its kind is
// errdefs.ErrUnavailable.
type ServerError struct {
	Address, Call string
	Err           error
}

// Error names the socket.
func (e *ServerError) Error() string { return fmt.Sprintf("%s at %s: %v", e.Call, e.Address, e.Err) }

// Unwrap gives the kind and the cause.
func (e *ServerError) Unwrap() []error { return []error{errdefs.ErrUnavailable, e.Err} }

// call sends one message, and gives each of the answer to each.
func (c *Client) call(ctx context.Context, method string, request []byte, each func([]byte) error) error {
	outer := ctx
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	answer, err := c.exchange(ctx, method, request, each)
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		return &ServerError{c.Address, method, refused.error}
	case outer.Err() != nil:
		return fmt.Errorf("%s at %s: %w", method, c.Address, context.Cause(outer))
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return &ServerError{c.Address, method, fmt.Errorf("no answer after %s", c.Timeout)}
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return &ServerError{c.Address, method, errors.New("it closed the connection before it had answered")}
	case err != nil:
		return &ServerError{c.Address, method, err}
	}
	return answer
}

// refusal is an error of who takes the messages.
type refusal struct{ error }

// exchange makes one call. The first error is what comes of it, nil for OK, and the second says that there was no answer.
func (c *Client) exchange(ctx context.Context, method string, request []byte, each func([]byte) error) (answer, err error) {
	headers := [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", service + method}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "ctrd"}, {"containerd-namespace", c.Namespace},
	}
	if end, ok := ctx.Deadline(); ok { // a second later, so that it is this side that ends the call
		headers = append(headers, [2]string{"grpc-timeout", strconv.FormatInt(max(time.Until(end).Milliseconds(), 0)+1000, 10) + "m"})
	}
	out, err := encode(headers, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...))
	if err != nil {
		return fmt.Errorf("%s: %w", method, err), nil
	}
	conn, err := unixsocket.Connect(c.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// An end of the context ends reads and writes, and with it the stream.
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	m := &messages{each: each}
	x := &exchange{conn: conn, data: m.add}
	_, sent := conn.Write(out)
	// A server may refuse a call before it has read all of it; then it has said why.
	if err := x.receive(); err != nil {
		if sent != nil {
			err = sent
		}
		return nil, err
	}
	if status := x.fields[":status"]; status != "200" {
		return nil, protocolError("the status %q of HTTP", status)
	}
	code, err := strconv.Atoi(x.fields["grpc-status"])
	if err != nil {
		return nil, protocolError("the status %q of gRPC", x.fields["grpc-status"])
	}
	if code != 0 {
		return &Error{method, code, text(x.fields["grpc-message"])}, nil
	}
	if len(m.part) > 0 {
		return nil, protocolError("a message that ends too early")
	}
	return nil, nil
}

// text decodes a message of gRPC, which is percent-encoded, and bounds it.
func text(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		s = plain
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 1000 {
		s = s[:1000] + " ..."
	}
	return s
}

// messages puts the messages of an answer together.
type messages struct {
	part  []byte // of one that has not ended, its head included
	total int
	each  func([]byte) error
}

func (m *messages) add(data []byte) error {
	if m.total += len(data); m.total > maxAnswer {
		return protocolError("an answer of more than %d bytes", maxAnswer)
	}
	m.part = append(m.part, data...)
	for len(m.part) >= 5 {
		if m.part[0] != 0 {
			return protocolError("a message that is compressed")
		}
		n := binary.BigEndian.Uint32(m.part[1:])
		if n > maxMessage {
			return protocolError("a message of %d bytes", n)
		}
		if len(m.part) < 5+int(n) {
			return nil
		}
		if err := m.each(m.part[5 : 5+n]); err != nil {
			return &refusal{err}
		}
		m.part = m.part[5+n:]
	}
	return nil
}
