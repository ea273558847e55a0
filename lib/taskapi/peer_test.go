// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// badPeer serves one connection by fn, which has the first request's stream.
// The connection is closed when fn returns.
func badPeer(t *testing.T, fn func(c net.Conn, stream uint32)) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var buf [headerSize]byte
		h, err := readHeader(c, &buf)
		if err == nil {
			_, err = readBody(c, h.length)
		}
		if err != nil {
			t.Error(err)
			return
		}
		fn(c, h.stream)
	}()
	c := dial(t, "unix://"+path)
	t.Cleanup(func() {
		c.Close()
		l.Close()
		<-done
	})
	return c
}

// raw is a frame whose header may lie.
func raw(length, stream uint32, kind byte, body []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(body))
	binary.BigEndian.PutUint32(b, length)
	binary.BigEndian.PutUint32(b[4:], stream)
	b[8] = kind
	return append(b, body...)
}

func whole(stream uint32, kind byte, body []byte) []byte {
	return raw(uint32(len(body)), stream, kind, body)
}

// silence keeps the connection until the client leaves.
func silence(c net.Conn) { io.Copy(io.Discard, c) }

// TestBadPeers: a call ends soon, or with its context, whatever the peer sends
// instead of an answer, and the error says what that was.
func TestBadPeers(t *testing.T) {
	ok := encode(nil, &response{payload: encode(nil, &WaitResponse{ExitStatus: 3})})
	for name, test := range map[string]struct {
		send func(c net.Conn, stream uint32)
		kind error // nil: an answer
		text string
	}{
		"hangs":                {func(c net.Conn, _ uint32) { silence(c) }, context.DeadlineExceeded, ""},
		"closes":               {func(net.Conn, uint32) {}, errdefs.ErrUnavailable, "closed by the server"},
		"half a header":        {func(c net.Conn, s uint32) { c.Write(whole(s, kindResponse, ok)[:7]) }, errdefs.ErrUnavailable, "unexpected EOF"},
		"half a header, hangs": {func(c net.Conn, s uint32) { c.Write(whole(s, kindResponse, ok)[:7]); silence(c) }, context.DeadlineExceeded, ""},
		"half a body":          {func(c net.Conn, s uint32) { c.Write(whole(s, kindResponse, ok)[:12]) }, errdefs.ErrUnavailable, "unexpected EOF"},
		"half a body, hangs":   {func(c net.Conn, s uint32) { c.Write(whole(s, kindResponse, ok)[:12]); silence(c) }, context.DeadlineExceeded, ""},
		"text":                 {func(c net.Conn, _ uint32) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); silence(c) }, errdefs.ErrUnavailable, "does not speak ttrpc"},
		"huge for nobody":      {func(c net.Conn, _ uint32) { c.Write(raw(1<<32-1, 99, kindResponse, nil)); silence(c) }, errdefs.ErrUnavailable, "does not speak ttrpc"},
		"huge, hangs":          {func(c net.Conn, s uint32) { c.Write(raw(1<<32-1, s, kindResponse, nil)); silence(c) }, context.DeadlineExceeded, ""},
		"huge, closes":         {func(c net.Conn, s uint32) { c.Write(raw(1<<32-1, s, kindResponse, ok)) }, errdefs.ErrResourceExhausted, "4294967295 bytes"},
		"too long":             {func(c net.Conn, s uint32) { c.Write(whole(s, kindResponse, make([]byte, maxMessage+1))); silence(c) }, errdefs.ErrResourceExhausted, ""},
		"long, closes":         {func(c net.Conn, s uint32) { c.Write(raw(maxMessage, s, kindResponse, ok)) }, errdefs.ErrUnavailable, "unexpected EOF"},
		"rubbish in the frame": {func(c net.Conn, s uint32) { c.Write(whole(s, kindResponse, []byte("rubbish"))); silence(c) }, errdefs.ErrInternal, "malformed"},
		"rubbish in the payload": {func(c net.Conn, s uint32) {
			c.Write(whole(s, kindResponse, encode(nil, &response{payload: []byte{0xff}})))
			silence(c)
		}, errdefs.ErrInternal, "malformed"},
		"data":      {func(c net.Conn, s uint32) { c.Write(whole(s, kindData, ok)); silence(c) }, errdefs.ErrInternal, "message of kind 3"},
		"a request": {func(c net.Conn, s uint32) { c.Write(whole(s, kindRequest, ok)); silence(c) }, errdefs.ErrInternal, "message of kind 1"},
		"other streams": {func(c net.Conn, s uint32) {
			for _, other := range []uint32{0, 2, s + 2, 1<<32 - 1} {
				c.Write(whole(other, kindResponse, ok))
				c.Write(whole(other, kindData, []byte("rubbish")))
			}
			silence(c)
		}, context.DeadlineExceeded, ""},
		"other streams first": {func(c net.Conn, s uint32) {
			c.Write(whole(s+2, kindResponse, []byte("rubbish")))
			c.Write(whole(s, kindResponse, ok))
			c.Write(whole(s, kindResponse, []byte("again")))
			silence(c)
		}, nil, ""},
		"nothing as an answer": {func(c net.Conn, s uint32) { c.Write(whole(s, kindResponse, nil)); silence(c) }, nil, ""},
		"OK as a status": {func(c net.Conn, s uint32) {
			c.Write(whole(s, kindResponse, append([]byte{0x0a, 0}, ok...)))
			silence(c)
		}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := badPeer(t, test.send)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.kind == context.DeadlineExceeded {
				ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
			}
			r, err := c.Wait(ctx, &WaitRequest{ID: "x"})
			if !errors.Is(err, test.kind) || (r == nil) != (test.kind != nil) {
				t.Fatalf("%v, %v", r, err)
			}
			if err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("error is %q", err)
			}
			// The next call ends, too.
			short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := c.Pause(short, &PauseRequest{}); err == nil {
				t.Error("an answer to a call that was not answered")
			}
		})
	}
}
