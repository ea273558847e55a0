// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Client calls the services of a shim over one connection. It may be used
// concurrently. Every call ends with its context; when the connection is gone,
// all calls, waiting and new, fail with errdefs.ErrUnavailable. An error that
// the server sent has the server's text and errdefs kind.
//
// The server is not told of a context that is cancelled, only of its deadline:
// the protocol has no message for it. A call cancelled while half of it is
// sent costs the connection.
type Client struct {
	// Namespace is sent with every call, if not empty. It is to be set before
	// the first call.
	Namespace string
	// Version is the version of the task API that the server speaks, 2 or 3; 0
	// is 3. It is to be set before the first call. A server that does not know
	// version 3 is from then on called in version 2: what a new shim says of
	// itself may be the address of an old one that serves the pod.
	Version int

	path string
	conn net.Conn
	old  atomic.Bool   // there is no task service of version 3
	send chan struct{} // holds a token while nobody sends

	mu      sync.Mutex
	stream  uint64                // the last one used
	waiting map[uint32]chan reply // each has room for its one reply
	broken  error                 // why there will be no more replies
	dead    chan struct{}         // closed when broken is set
}

type reply struct {
	body []byte
	err  error
}

var (
	_ Server        = (*Client)(nil)
	_ SandboxServer = (*Client)(nil)
)

// Dial connects to the socket of address (unix:///path, of any length). Nobody
// listening there, or no socket at all, is errdefs.ErrUnavailable. The client
// is to be closed.
func Dial(ctx context.Context, address string) (*Client, error) {
	path, err := socketPath(address)
	if err != nil {
		return nil, err
	}
	conn, err := connect(path)
	// EAGAIN is a listener's full backlog.
	for errors.Is(err, unix.EAGAIN) && ctx.Err() == nil {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
		conn, err = connect(path)
	}
	switch {
	case err == nil:
		return newClient(conn, path), nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	case !errors.Is(err, errdefs.ErrInvalidArgument):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return nil, fmt.Errorf("connect to %q: %w", path, err)
}

func newClient(conn net.Conn, path string) *Client {
	c := &Client{
		path:    path,
		conn:    conn,
		send:    make(chan struct{}, 1),
		waiting: make(map[uint32]chan reply),
		dead:    make(chan struct{}),
	}
	c.send <- struct{}{}
	go c.receive()
	return c
}

// Close ends the connection; calls that wait fail with errdefs.ErrUnavailable.
func (c *Client) Close() error {
	c.fail(errors.New("closed by this side"))
	return nil
}

// fail ends the connection for the reason err; only the first one counts.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return
	}
	c.broken = fmt.Errorf("connection to %q: %w: %w", c.path, err, errdefs.ErrUnavailable)
	c.conn.Close()
	close(c.dead)
	for _, w := range c.waiting {
		w <- reply{err: c.broken}
	}
	c.waiting = nil
}

// call calls a method of the task service.
func (c *Client) call(ctx context.Context, method string, q, r message) error {
	if c.Version == 2 || c.old.Load() {
		return c.invoke(ctx, oldTaskService, method, q, r)
	}
	err := c.invoke(ctx, taskService, method, q, r)
	if unserved(err, taskService) {
		older := c.invoke(ctx, oldTaskService, method, q, r)
		if !unserved(older, oldTaskService) {
			c.old.Store(true)
			return older
		}
	}
	return err
}

// unserved tells whether err is what a server says that does not have the
// service: Go's ttrpc calls that not implemented, Rust's an invalid argument,
// and both name the service. Rust's says the same of a method.
func unserved(err error, service string) bool {
	e, ok := errors.AsType[*remoteError](err)
	return ok && (e.kind == errdefs.ErrNotImplemented || e.kind == errdefs.ErrInvalidArgument) && strings.Contains(e.text, service)
}

// invoke calls a method of a service.
func (c *Client) invoke(ctx context.Context, service, method string, q, r message) error {
	body, err := c.exchange(ctx, service, method, q)
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	var a response
	if err := decode(body, &a); err != nil {
		return fmt.Errorf("call %s: read response: %w: %w", method, err, errdefs.ErrInternal)
	}
	if err := a.status.err(); err != nil {
		return err
	}
	if err := decode(a.payload, r); err != nil {
		return fmt.Errorf("call %s: read response: %w: %w", method, err, errdefs.ErrInternal)
	}
	return nil
}

// exchange sends a call and waits for the body of its response.
func (c *Client) exchange(ctx context.Context, service, method string, q message) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e := request{service: service, method: method, payload: encode(nil, q)}
	if c.Namespace != "" {
		e.metadata = []pair{{namespaceKey, c.Namespace}}
	}
	if t, ok := ctx.Deadline(); ok {
		// 0 would be no timeout at all.
		e.timeout = max(1, int64(time.Until(t)))
	}
	b, err := frame(kindRequest, &e)
	if err != nil {
		return nil, err
	}
	stream, answer, err := c.submit(ctx, b)
	if err != nil {
		return nil, err
	}
	select {
	case a := <-answer:
		return a.body, a.err
	case <-ctx.Done():
		c.take(stream)
		return nil, ctx.Err()
	}
}

// submit sends frame b on a new stream, whose reply the channel will have.
func (c *Client) submit(ctx context.Context, b []byte) (uint32, chan reply, error) {
	select {
	case <-c.send:
		// Streams must reach the server in rising order: the token is held
		// from the number to the last byte.
		defer func() { c.send <- struct{}{} }()
	case <-c.dead:
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
	stream, answer, err := c.open()
	if err != nil {
		return 0, nil, err
	}
	setStream(b, stream)
	if err := c.write(ctx, b); err != nil {
		c.take(stream)
		return 0, nil, err
	}
	return stream, answer, nil
}

// open takes the next stream.
func (c *Client) open() (uint32, chan reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return 0, nil, c.broken
	}
	next := c.stream + 2
	if c.stream == 0 {
		next = 1
	}
	if next > math.MaxUint32 {
		return 0, nil, fmt.Errorf("connection to %q: all streams used: %w", c.path, errdefs.ErrUnavailable)
	}
	c.stream = next
	answer := make(chan reply, 1)
	c.waiting[uint32(next)] = answer
	return uint32(next), answer, nil
}

// opened tells whether a call was made on the stream, ever.
func (c *Client) opened(stream uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return stream%2 == 1 && uint64(stream) <= c.stream
}

// take removes and gives the waiter of a stream, nil if there is none.
func (c *Client) take(stream uint32) chan reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.waiting[stream]
	delete(c.waiting, stream)
	return w
}

// write sends b, unless ctx ends first.
func (c *Client) write(ctx context.Context, b []byte) error {
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(expired)
	})
	n, err := c.conn.Write(b)
	if !stop() {
		<-expired
		c.conn.SetWriteDeadline(time.Time{})
	}
	switch {
	case err == nil:
		return nil
	case n > 0:
		// The rest of the message is missing, nothing can follow it.
		c.fail(err)
	}
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	// The receiver, which first reads the replies that did come, finds the
	// same for the others.
	return fmt.Errorf("connection to %q: %w: %w", c.path, bare(err), errdefs.ErrUnavailable)
}

// receive hands out replies until the connection breaks.
func (c *Client) receive() {
	var buf [headerSize]byte
	for {
		h, err := readHeader(c.conn, &buf)
		if err != nil {
			if err == io.EOF {
				err = errors.New("closed by the server")
			}
			c.fail(bare(err))
			return
		}
		if h.length > maxMessage && !c.opened(h.stream) {
			// What is read as a length is something else, and no message would end.
			c.fail(errors.New("the server does not speak ttrpc"))
			return
		}
		w := c.take(h.stream)
		if w == nil || h.length > maxMessage {
			_, err = io.CopyN(io.Discard, c.conn, int64(h.length))
			if w != nil {
				w <- reply{err: tooLong(int(h.length))}
			}
		} else {
			var a reply
			a.body, err = readBody(c.conn, h.length)
			if err == nil && h.kind != kindResponse {
				a.err = fmt.Errorf("message of kind %d instead of a response: %w", h.kind, errdefs.ErrInternal)
			}
			if err != nil {
				a.err = fmt.Errorf("connection to %q: %w: %w", c.path, bare(err), errdefs.ErrUnavailable)
			}
			w <- a
		}
		if err != nil {
			c.fail(bare(err))
			return
		}
	}
}
