// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const (
	ticketFor   = time.Minute // how long a client may take to come
	creationFor = remotecommand.DefaultStreamCreationTimeout
	maxTickets  = 1000 // that nobody has come for yet
	headerFor   = 10 * time.Second
)

// streams serves exec, attach and port-forward over HTTP, each to who comes with the URL that was issued for it. The port is
// opened with the first URL. From then on, and as long as a stream lasts, the server is busy.
type streams struct {
	s    *Server
	busy func() (done func())

	mu      sync.Mutex
	base    string // of the URLs; empty: nothing was issued yet
	server  *http.Server
	tickets map[string]*ticket
}

// ticket is one stream that somebody is to come for. what is a session or a forwarding.
type ticket struct {
	kind   string
	what   any
	cancel *time.Timer
	done   func()
}

// issue gives the URL under which one client can have a stream.
func (st *streams) issue(kind string, what any) (string, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := st.listen(); err != nil {
		return "", fmt.Errorf("serve streams: %w", err)
	}
	if len(st.tickets) >= maxTickets {
		return "", fmt.Errorf("%d streams were asked for and nobody came for them: %w", len(st.tickets), errdefs.ErrResourceExhausted)
	}
	token := rand.Text()
	t := &ticket{kind: kind, what: what, done: st.busy()}
	st.tickets[token] = t
	t.cancel = time.AfterFunc(ticketFor, func() {
		if st.take(kind, token) != nil {
			t.done()
		}
	})
	return st.base + kind + "/" + token, nil
}

// take gives the stream that a token stands for, once, or nil.
func (st *streams) take(kind, token string) *ticket {
	st.mu.Lock()
	defer st.mu.Unlock()
	t := st.tickets[token]
	if t == nil || t.kind != kind {
		return nil
	}
	t.cancel.Stop()
	delete(st.tickets, token)
	return t
}

// listen opens the port unless it is open. The caller holds mu.
func (st *streams) listen() error {
	if st.base != "" {
		return nil
	}
	c := st.s.config().CRI
	address := net.JoinHostPort(c.StreamServerAddress, strconv.Itoa(int(c.StreamServerPort)))
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	scheme := "http"
	if c.EnableTLSStreaming {
		conf, err := tlsConfig(c.X509KeyPairStreaming, c.StreamServerAddress)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		l, scheme = tls.NewListener(l, conf), "https"
	}
	klog.SetSlogLogger(slog.New(asDebug{st.s.log.Handler()}))
	st.tickets = map[string]*ticket{}
	mux := http.NewServeMux()
	mux.HandleFunc("/{kind}/{token}", st.serve)
	st.server = &http.Server{Handler: mux, ReadHeaderTimeout: headerFor, IdleTimeout: headerFor}
	go st.server.Serve(l)
	st.base = (&url.URL{Scheme: scheme, Host: l.Addr().String(), Path: "/"}).String()
	return nil
}

// idle is after how much silence a stream is closed; 0: never.
func (st *streams) idle() time.Duration { return time.Duration(st.s.config().CRI.StreamIdleTimeout) }

// asDebug has all records be of the level debug. The streaming library calls it an error when a client goes.
type asDebug struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h asDebug) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler. The library asks Enabled about some records only.
func (h asDebug) Handle(ctx context.Context, r slog.Record) error {
	if !h.Enabled(ctx, r.Level) {
		return nil
	}
	r.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h asDebug) WithAttrs(a []slog.Attr) slog.Handler { return asDebug{h.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (h asDebug) WithGroup(name string) slog.Handler { return asDebug{h.Handler.WithGroup(name)} }

// close takes no more clients. Streams that are under way end with the process.
func (st *streams) close() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.server != nil {
		st.server.Close()
	}
}

func (st *streams) serve(w http.ResponseWriter, r *http.Request) {
	kind := r.PathValue("kind")
	t := st.take(kind, r.PathValue("token"))
	if t == nil {
		http.NotFound(w, r)
		return
	}
	defer t.done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	u := &upgrade{ResponseWriter: w, gone: cancel, log: st.s.log}
	defer u.close()
	r = r.WithContext(ctx)
	switch what := t.what.(type) {
	case session:
		st.serveSession(u, r, kind, what)
	case forwarding:
		st.serveForwarding(u, r, what)
	}
}

// upgrade is the answer to a request whose connection is taken over: net/http ends the context of such a request no more when its client
// is gone, and leaves the connection open.
type upgrade struct {
	http.ResponseWriter
	gone func() // called when the client is gone
	log  *slog.Logger
	most func() int // how many streams the client may open over SPDY; nil: there is no bound, or it is another protocol
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := buffered.Peek(buffered.Reader.Buffered()) // what is buffered is there
	w := &watched{Conn: conn, r: io.MultiReader(bytes.NewReader(early), conn), gone: u.gone, log: u.log}
	if u.most != nil {
		w.limit = &spdyLimit{left: u.most()}
	}
	u.conn = w
	return u.conn, bufio.NewReadWriter(bufio.NewReader(u.conn), bufio.NewWriter(u.conn)), nil
}

func (u *upgrade) close() {
	if u.conn != nil {
		u.conn.Close()
	}
}

// watched is a connection that is read all the time, and tells when there is nothing more to read or it is closed, as it is when the client
// has said goodbye.
type watched struct {
	net.Conn
	r     io.Reader
	gone  func()
	log   *slog.Logger
	limit *spdyLimit // nil: none
}

// Read implements net.Conn.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.limit != nil {
		if e := w.limit.look(p[:n]); e != nil {
			w.log.Warn("a stream of exec or attach is ended", "peer", w.RemoteAddr().String(), "error", e)
			n, err = 0, errors.Join(e, w.Conn.Close())
		}
	}
	if err != nil {
		w.gone()
	}
	return n, err
}

// Close implements net.Conn.
func (w *watched) Close() error {
	w.gone()
	return w.Conn.Close()
}

// serveSession serves exec and attach over SPDY and over WebSocket.
func (st *streams) serveSession(w *upgrade, r *http.Request, kind string, s session) {
	if speaks(r, remotecommand.StreamProtocolV5Name) {
		st.serveV5(w, r, s)
		return
	}
	o := &remotecommand.Options{Stdin: s.asked.GetStdin(), Stdout: s.asked.GetStdout(), Stderr: s.asked.GetStderr(), TTY: s.asked.GetTty()}
	protocols := remotecommand.SupportedStreamingProtocols
	if strings.Contains(strings.ToLower(r.Header.Get(httpstream.HeaderUpgrade)), strings.ToLower(spdy.HeaderSpdy31)) {
		w.most = func() int { return streamsOf(o, w.Header().Get(httpstream.HeaderProtocolVersion)) }
	}
	if kind == "attach" {
		remotecommand.ServeAttach(w, r, runner{s}, "", "", "", o, st.idle(), creationFor, protocols)
	} else {
		remotecommand.ServeExec(w, r, runner{s}, "", "", "", nil, o, st.idle(), creationFor, protocols)
	}
}

// streamsOf is how many streams the library takes from a client over SPDY: one for errors, and those that were asked for.
func streamsOf(o *remotecommand.Options, protocol string) int {
	resizes := o.TTY && (protocol == remotecommand.StreamProtocolV4Name || protocol == remotecommand.StreamProtocolV3Name)
	n := 1
	for _, asked := range []bool{o.Stdin, o.Stdout, o.Stderr, resizes} {
		if asked {
			n++
		}
	}
	return n
}

// runner is a session as the streaming library wants it.
type runner struct{ s session }

// ExecInContainer implements remotecommand.Executor.
func (r runner) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return r.run(ctx, in, out, errOut, resize)
}

// AttachContainer implements remotecommand.Attacher.
func (r runner) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return r.run(ctx, in, out, errOut, resize)
}

// run leaves out the streams that were not asked for: over WebSocket the library gives them nevertheless.
func (r runner) run(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
	streams := remoteIO{resize: resize}
	if r.s.asked.GetStdin() {
		streams.in = in
	}
	if r.s.asked.GetStdout() {
		streams.out = out
	}
	if r.s.asked.GetStderr() {
		streams.err = errOut
	}
	return r.s.run(ctx, streams)
}

// serveForwarding serves port-forward over SPDY, over WebSocket, and over SPDY in a WebSocket.
func (st *streams) serveForwarding(w http.ResponseWriter, r *http.Request, f forwarding) {
	if speaks(r, tunnelProtocol) {
		st.serveTunnel(w, r, f)
		return
	}
	f.serve(w, r, st.idle())
}

func (f forwarding) serve(w http.ResponseWriter, r *http.Request, idle time.Duration) {
	portforward.ServePortForward(w, r, forwarder{f, r.Context()}, "", "", &portforward.V4Options{Ports: f.ports}, idle, creationFor, portforward.SupportedProtocols)
}

// speaks tells whether a client asks for a WebSocket and offers a protocol for it.
func speaks(r *http.Request, protocol string) bool {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return false
	}
	for _, line := range r.Header.Values("Sec-Websocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(p) == protocol {
				return true
			}
		}
	}
	return false
}
