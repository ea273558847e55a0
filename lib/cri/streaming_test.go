// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/websocket"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"ctrd.dev/ctrd/lib/config"
)

// A URL serves one client, of the kind that it was issued for, and the server is busy until that one has gone.
func TestTickets(t *testing.T) {
	busy := 0
	w := newWorld(t, Options{Busy: func() func() { busy++; return func() { busy-- } }})
	defer w.Close()
	ended := make(chan struct{})
	echo := session{&runtimeapi.ExecRequest{Stdin: true, Stdout: true}, func(_ context.Context, streams remoteIO) error {
		defer close(ended)
		io.Copy(streams.out, streams.in)
		if streams.err != nil {
			t.Error("stderr was not asked for")
		}
		return utilexec.CodeExitError{Err: errors.New("status 3"), Code: 3}
	}}
	url, err := w.streams.issue("exec", echo)
	if err != nil || busy != 1 || !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Fatalf("%q, %v, busy %d", url, err, busy)
	}
	token := url[strings.LastIndex(url, "/")+1:]
	for _, path := range []string{"attach/" + token, "exec/x", "exec/", ""} {
		r, err := http.Get(w.streams.base + path)
		if err != nil || r.StatusCode != http.StatusNotFound {
			t.Errorf("%q: %v, %v", path, r, err)
		}
		r.Body.Close()
	}
	got, last := speakV5(t, url, "in and out")
	if got != "in and out" || !strings.Contains(last, `"message":"3"`) || !strings.Contains(last, `"reason":"ExitCode"`) {
		t.Errorf("%q, %q", got, last)
	}
	<-ended
	if r, err := http.Get(url); err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("the second client: %v, %v", r, err)
	}
	w.streams.mu.Lock()
	defer w.streams.mu.Unlock()
	if len(w.streams.tickets) != 0 {
		t.Errorf("%v", w.streams.tickets)
	}
}

// speakV5 sends text on stdin, closes that, and gives what came on stdout and on the error channel.
func speakV5(t *testing.T, url, text string) (out, last string) {
	t.Helper()
	c, err := websocket.NewConfig("ws"+strings.TrimPrefix(url, "http"), "http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	c.Protocol = []string{"v5.channel.k8s.io"}
	ws, err := websocket.DialConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	for _, frame := range [][]byte{append([]byte{0}, text...), {255, 0}} {
		if err := websocket.Message.Send(ws, frame); err != nil {
			t.Fatal(err)
		}
	}
	for {
		var frame []byte
		if err := websocket.Message.Receive(ws, &frame); err != nil {
			return out, last
		}
		switch frame[0] {
		case 1:
			out += string(frame[1:])
		case 3:
			last += string(frame[1:])
		}
	}
}

// What is done for a client ends when the client goes, although nothing is read or written then, and nothing of it stays.
func TestClientGone(t *testing.T) {
	var busy atomic.Int32
	w := newWorld(t, Options{Busy: func() func() { busy.Add(1); return func() { busy.Add(-1) } }})
	defer w.Close()
	w.streams.mu.Lock()
	err := w.streams.listen() // the goroutine of the port stays
	w.streams.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	overWebSocket := func(protocol string, goodbye bool) func(*testing.T, string) io.Closer {
		return func(t *testing.T, address string) io.Closer {
			c, err := websocket.NewConfig("ws"+strings.TrimPrefix(address, "http"), "http://localhost/")
			if err != nil {
				t.Fatal(err)
			}
			c.Protocol = []string{protocol}
			tcp, err := net.Dial("tcp", c.Location.Host)
			if err != nil {
				t.Fatal(err)
			}
			ws, err := websocket.NewClient(c, tcp)
			if err != nil {
				t.Fatal(err)
			}
			if goodbye {
				return ws
			}
			return tcp
		}
	}
	for name, dial := range map[string]func(*testing.T, string) io.Closer{
		"v5": overWebSocket(remotecommand.StreamProtocolV5Name, true), "v4, cut off": overWebSocket("v4.channel.k8s.io", false),
		"SPDY": func(t *testing.T, address string) io.Closer {
			c := overSPDY(t, address, remotecommand.StreamProtocolV4Name)
			for _, kind := range []string{remotecommand.StreamTypeError, remotecommand.StreamTypeStdout} {
				if _, err := c.CreateStream(http.Header{remotecommand.StreamType: {kind}}); err != nil {
					t.Fatal(err)
				}
			}
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			address, begun, ended := w.lasting(t, &runtimeapi.ExecRequest{Stdout: true})
			c := dial(t, address)
			<-begun
			c.Close()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("it goes on without a client")
			}
			for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before || busy.Load() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					stacks := make([]byte, 1<<20)
					t.Fatalf("%d goroutines, and %d before; busy: %d\n%s", runtime.NumGoroutine(), before, busy.Load(), stacks[:runtime.Stack(stacks, true)])
				}
			}
		})
	}
}

// lasting gives the address of an exec that lasts until its client is gone, and tells of its beginning and its end.
func (w *world) lasting(t *testing.T, asked *runtimeapi.ExecRequest) (address string, begun, ended chan struct{}) {
	t.Helper()
	begun, ended = make(chan struct{}), make(chan struct{})
	address, err := w.streams.issue("exec", session{asked, func(ctx context.Context, _ remoteIO) error {
		defer close(ended)
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	return address, begun, ended
}

// A client that opens more streams than it asked for over SPDY is cut off, and nothing of it stays. One that opens all that it may is served.
func TestExtraStreams(t *testing.T) {
	w := newWorld(t, Options{})
	defer w.Close()
	for name, c := range map[string]struct {
		protocol string
		asked    *runtimeapi.ExecRequest
		kinds    []string
	}{
		"all": {remotecommand.StreamProtocolV4Name, &runtimeapi.ExecRequest{Stdin: true, Stdout: true, Stderr: true},
			[]string{remotecommand.StreamTypeError, remotecommand.StreamTypeStdin, remotecommand.StreamTypeStdout, remotecommand.StreamTypeStderr}},
		"terminal": {remotecommand.StreamProtocolV3Name, &runtimeapi.ExecRequest{Stdin: true, Stdout: true, Tty: true},
			[]string{remotecommand.StreamTypeError, remotecommand.StreamTypeStdin, remotecommand.StreamTypeStdout, remotecommand.StreamTypeResize}},
		"old terminal": {remotecommand.StreamProtocolV2Name, &runtimeapi.ExecRequest{Stdin: true, Stdout: true, Tty: true},
			[]string{remotecommand.StreamTypeError, remotecommand.StreamTypeStdin, remotecommand.StreamTypeStdout}},
	} {
		t.Run(name, func(t *testing.T) {
			address, begun, ended := w.lasting(t, c.asked)
			conn := overSPDY(t, address, c.protocol)
			for _, kind := range c.kinds {
				if _, err := conn.CreateStream(http.Header{remotecommand.StreamType: {kind}}); err != nil {
					t.Fatal(err)
				}
			}
			<-begun
			for range 200 {
				go conn.CreateStream(http.Header{remotecommand.StreamType: {remotecommand.StreamTypeStdin}})
			}
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Error("the client is served")
			}
			conn.Close()
			// The client's own goroutines may stay.
			stacks := make([]byte, 1<<20)
			waits := func() bool {
				return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "remotecommand.createHTTPStreamStreams")
			}
			for end := time.Now().Add(5 * time.Second); waits(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("a goroutine waits for streams")
				}
			}
		})
	}
}

func TestTooManyTickets(t *testing.T) {
	w := newWorld(t, Options{})
	defer w.Close()
	for range maxTickets {
		if _, err := w.streams.issue("exec", session{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.streams.issue("exec", session{}); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
}

// Two buffers share a budget; io.Copy finds no way around it.
func TestBounded(t *testing.T) {
	room := &budget{left: 10}
	a, b := &bounded{room: room}, &bounded{room: room}
	for _, w := range []io.Writer{a, b} {
		if n, err := io.Copy(w, strings.NewReader("eight by")); n != 8 || err != nil {
			t.Error(n, err)
		}
	}
	if a.buf.String() != "eight by" || b.buf.String() != "ei" || room.lost != 6 {
		t.Errorf("%q, %q, %d lost", a.buf.String(), b.buf.String(), room.lost)
	}
}

func TestBadStreamRequests(t *testing.T) {
	w := newWorld(t, Options{})
	r := runtimeService{s: w.Server}
	ctx := t.Context()
	for what, call := range map[string]func() error{
		"cmd: ": func() error { _, err := r.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: "a"}); return err },
		"cmd: missing": func() error {
			_, err := r.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: "a", Stdout: true})
			return err
		},
		"timeout: -1": func() error {
			_, err := r.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"a"}, Timeout: -1})
			return err
		},
		"timeout: 9": func() error {
			_, err := r.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"a"}, Timeout: 1<<63 - 1})
			return err
		},
		"container_id: ":  func() error { _, err := r.ExecSync(ctx, &runtimeapi.ExecSyncRequest{Cmd: []string{"a"}}); return err },
		"container_id: m": func() error { _, err := r.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{}); return err },
		"stdin, stdout":   func() error { _, err := r.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: "a"}); return err },
		"stderr: ": func() error {
			_, err := r.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: "a", Tty: true, Stderr: true})
			return err
		},
		"pod_sandbox_id: ": func() error { _, err := r.PortForward(ctx, &runtimeapi.PortForwardRequest{}); return err },
		"port: 70000": func() error {
			_, err := r.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: "a", Port: []int32{70000}})
			return err
		},
	} {
		if err := call(); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: "none", Stdout: true}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if w.streams.base != "" {
		t.Error("a port is open, and nobody was given a URL")
	}
}

// With TLS the URL says so, and without a certificate in the configuration one is made for the address.
func TestTLS(t *testing.T) {
	w := newWorld(t, Options{Config: configured(func(c *config.Config) { c.CRI.EnableTLSStreaming = true })})
	defer w.Close()
	url, err := w.streams.issue("exec", session{})
	if err != nil || !strings.HasPrefix(url, "https://127.0.0.1:") {
		t.Fatal(url, err)
	}
	c, err := tls.Dial("tcp", strings.Split(strings.TrimPrefix(url, "https://"), "/")[0], &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.ConnectionState().PeerCertificates[0].VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	w = newWorld(t, Options{Config: configured(func(c *config.Config) {
		c.CRI.EnableTLSStreaming = true
		c.CRI.X509KeyPairStreaming = config.KeyPair{Cert: "/none", Key: "/none"}
	})})
	if _, err := w.streams.issue("exec", session{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a certificate that is not there: %v", err)
	}
}

// What the streaming library calls an error is written where debug records are, and nowhere else.
func TestStreamErrorsAreDebug(t *testing.T) {
	for level, want := range map[slog.Level]bool{slog.LevelInfo: false, slog.LevelDebug: true} {
		var b bytes.Buffer
		h := asDebug{slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level})}
		if err := h.Handle(t.Context(), slog.NewRecord(time.Now(), slog.LevelError, "gone", 0)); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(b.String(), "level=DEBUG msg=gone"); got != want || !want && b.Len() > 0 {
			t.Errorf("at %v: %q", level, b.String())
		}
	}
}
