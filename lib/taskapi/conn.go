// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// maxRunning bounds the calls of one connection that run at once.
	maxRunning = 1024
	// lastWrite is how long a peer may take to read its last responses.
	lastWrite = 2 * time.Second
)

// conn is the server's end of a connection. It owns no buffer: an idle one is
// a descriptor and a goroutine that waits for ten bytes.
type conn struct {
	net.Conn
	task    Server
	sandbox SandboxServer   // nil when there is none
	stop    context.Context // ends when the server is to end
	running atomic.Int32
	calls   sync.WaitGroup
	writing sync.Mutex
}

// serveConn answers the calls of nc until the peer has gone or ctx ends, and
// until the last of them is answered.
func serveConn(ctx context.Context, nc net.Conn, task Server, sandbox SandboxServer) {
	c := &conn{Conn: nc, task: task, sandbox: sandbox, stop: ctx}
	defer c.Close()
	unwatch := context.AfterFunc(ctx, func() {
		c.SetReadDeadline(time.Unix(1, 0))
		c.SetWriteDeadline(time.Now().Add(lastWrite))
	})
	defer unwatch()
	callCtx, cancel := context.WithCancel(ctx)
	c.read(callCtx)
	cancel()
	c.calls.Wait()
}

// read starts calls as they come, until there can be no more.
func (c *conn) read(ctx context.Context) {
	var buf [headerSize]byte
	var last uint32
	for {
		h, err := readHeader(c, &buf)
		if err != nil {
			return
		}
		if h.length > maxMessage {
			if _, err := io.CopyN(io.Discard, c, int64(h.length)); err != nil {
				return
			}
			c.respond(h.stream, nil, tooLong(int(h.length)))
			continue
		}
		body, err := readBody(c, h.length)
		if err != nil {
			return
		}
		if err := check(h, last); err != nil {
			c.respond(h.stream, nil, err)
			continue
		}
		if h.kind != kindRequest {
			continue
		}
		last = h.stream
		// Responding from here also keeps a peer that does not read its
		// responses from sending more.
		if c.running.Load() >= maxRunning {
			c.respond(h.stream, nil, fmt.Errorf("more than %d calls at once: %w", maxRunning, errdefs.ErrResourceExhausted))
			continue
		}
		c.running.Add(1)
		c.calls.Go(func() {
			c.answer(ctx, h.stream, body)
			c.running.Add(-1)
		})
	}
}

// check refuses what ttrpc does not allow, or what this server does not do:
// streams. Kinds that are not known are left alone, as the protocol asks.
func check(h header, last uint32) error {
	switch {
	case h.stream%2 == 0:
		return fmt.Errorf("stream %d of a client is not odd: %w", h.stream, errdefs.ErrInvalidArgument)
	case h.kind == kindData:
		return fmt.Errorf("stream %d is not open: %w", h.stream, errdefs.ErrInvalidArgument)
	case h.kind == kindRequest && h.stream <= last:
		return fmt.Errorf("stream %d does not come after %d: %w", h.stream, last, errdefs.ErrInvalidArgument)
	case h.kind == kindRequest && h.flags != 0:
		return fmt.Errorf("streaming call: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

func (c *conn) answer(ctx context.Context, stream uint32, body []byte) {
	var q request
	if err := decode(body, &q); err != nil {
		c.respond(stream, nil, badRequest(err))
		return
	}
	if q.timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(q.timeout))
		defer cancel()
	}
	var r message
	var err error
	switch {
	case q.service == taskService || q.service == oldTaskService:
		r, err = dispatch(ctx, c.task, q.method, q.payload)
	case q.service == sandboxService && c.sandbox != nil:
		r, err = dispatchSandbox(ctx, c.sandbox, q.method, q.payload)
	default:
		err = fmt.Errorf("service %q: %w", q.service, errdefs.ErrNotImplemented)
	}
	c.respond(stream, r, err)
}

// respond sends r, or err when there is one. A peer that cannot be told loses
// its connection.
func (c *conn) respond(stream uint32, r message, err error) {
	a := response{status: statusOf(err)}
	if err == nil {
		a.payload = encode(nil, r)
	}
	b, err := frame(kindResponse, &a)
	if err != nil {
		a = response{status: statusOf(err)}
		b, _ = frame(kindResponse, &a)
	}
	setStream(b, stream)

	c.writing.Lock()
	defer c.writing.Unlock()
	if c.stop.Err() != nil {
		c.SetWriteDeadline(time.Now().Add(lastWrite))
	}
	if _, err := c.Write(b); err != nil {
		c.Close()
	}
}

// badRequest is the answer to what decode says of a request.
func badRequest(err error) error {
	return fmt.Errorf("read request: %w: %w", err, errdefs.ErrInvalidArgument)
}

// dispatch decodes payload for method and calls it.
func dispatch(ctx context.Context, s Server, method string, payload []byte) (message, error) {
	switch method {
	case "State":
		return answer(ctx, payload, s.State)
	case "Create":
		return answer(ctx, payload, s.Create)
	case "Start":
		return answer(ctx, payload, s.Start)
	case "Delete":
		return answer(ctx, payload, s.Delete)
	case "Pids":
		return answer(ctx, payload, s.Pids)
	case "Pause":
		return done(ctx, payload, s.Pause)
	case "Resume":
		return done(ctx, payload, s.Resume)
	case "Checkpoint":
		return done(ctx, payload, s.Checkpoint)
	case "Kill":
		return done(ctx, payload, s.Kill)
	case "Exec":
		return done(ctx, payload, s.Exec)
	case "ResizePty":
		return done(ctx, payload, s.ResizePty)
	case "CloseIO":
		return done(ctx, payload, s.CloseIO)
	case "Update":
		return done(ctx, payload, s.Update)
	case "Wait":
		return answer(ctx, payload, s.Wait)
	case "Stats":
		return answer(ctx, payload, s.Stats)
	case "Connect":
		return answer(ctx, payload, s.Connect)
	case "Shutdown":
		return done(ctx, payload, s.Shutdown)
	}
	return nil, fmt.Errorf("method %q: %w", method, errdefs.ErrNotImplemented)
}

// pointer is a message that a pointer to T is.
type pointer[T any] interface {
	*T
	message
}

// answer makes a call that has a response.
func answer[Q, R any, PQ pointer[Q], PR pointer[R]](ctx context.Context, payload []byte, call func(context.Context, PQ) (PR, error)) (message, error) {
	q := PQ(new(Q))
	if err := decode(payload, q); err != nil {
		return nil, badRequest(err)
	}
	r, err := call(ctx, q)
	if r == nil {
		return new(empty), err
	}
	return r, err
}

// done makes a call that only succeeds or fails.
func done[Q any, PQ pointer[Q]](ctx context.Context, payload []byte, call func(context.Context, PQ) error) (message, error) {
	q := PQ(new(Q))
	if err := decode(payload, q); err != nil {
		return nil, badRequest(err)
	}
	return new(empty), call(ctx, q)
}
