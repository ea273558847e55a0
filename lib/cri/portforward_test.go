// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"ctrd.dev/ctrd/lib/netns"
)

// upperServer listens in a network namespace of its own, and answers in capitals when its client has said everything.
func upperServer(t *testing.T) (namespace string, port int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	type place struct {
		l    net.Listener
		path string
		err  error
	}
	there := make(chan place)
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		err := netns.New(func() (err error) {
			p := place{path: netns.Own()}
			if p.l, err = net.Listen("tcp4", "127.0.0.1:0"); err == nil {
				there <- p
				<-done
			}
			return err
		})
		if err != nil {
			there <- place{err: err}
		}
	}()
	p := <-there
	if p.err != nil {
		t.Fatal(p.err)
	}
	t.Cleanup(func() { p.l.Close() })
	go func() {
		for {
			c, err := p.l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				text, _ := io.ReadAll(c)
				if string(text) == "slow" {
					time.Sleep(lingerFor * 3 / 2)
				}
				io.WriteString(c, strings.ToUpper(string(text)))
			}()
		}
	}()
	return p.path, p.l.Addr().(*net.TCPAddr).Port
}

// overSPDY connects as kubelet and crictl do.
func overSPDY(t *testing.T, address, protocol string) httpstream.Connection {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	req := &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {spdy.HeaderSpdy31}, httpstream.HeaderProtocolVersion: {protocol},
	}}
	if err := req.Write(c); err != nil {
		t.Fatal(err)
	}
	// The answer's header ends before the first frame, which is ours to send.
	head := make([]byte, 0, 1024)
	for !strings.HasSuffix(string(head), "\r\n\r\n") {
		b := make([]byte, 1)
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
		head = append(head, b...)
	}
	if !strings.HasPrefix(string(head), "HTTP/1.1 101") {
		t.Fatalf("%s", head)
	}
	conn, err := spdy.NewClientConnection(c)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// inTunnel connects as kubectl does.
func inTunnel(t *testing.T, address string) httpstream.Connection {
	t.Helper()
	c, err := websocket.NewConfig("ws"+strings.TrimPrefix(address, "http"), "http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	c.Protocol = []string{tunnelProtocol}
	ws, err := websocket.DialConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	ws.PayloadType = websocket.BinaryFrame
	conn, err := spdy.NewClientConnection(ws)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// A port of a pod is one of its own network namespace, however the client comes.
func TestPortForward(t *testing.T) {
	path, port := upperServer(t)
	w := newWorld(t, Options{})
	defer w.Close()
	for name, dial := range map[string]func(*testing.T, string) httpstream.Connection{
		"SPDY": func(t *testing.T, address string) httpstream.Connection {
			return overSPDY(t, address, portforward.ProtocolV1Name)
		},
		"SPDY in a WebSocket": inTunnel,
	} {
		f := forwarding{pod: "pod", network: func(context.Context) (string, error) { return path, nil }}
		address, err := w.streams.issue("portforward", f)
		if err != nil {
			t.Fatal(err)
		}
		conn := dial(t, address)
		for i := range 3 {
			if got, failed := forward(t, conn, i, port, "some text"); got != "SOME TEXT" || failed != "" {
				t.Errorf("%s: %q, error %q", name, got, failed)
			}
		}
		if got, failed := forward(t, conn, 3, 1, "some text"); got != "" || !strings.Contains(failed, "refused") {
			t.Errorf("%s, nobody listens: %q, error %q", name, got, failed)
		}
		// The client has said everything, and the answer takes a while.
		if got, failed := forward(t, conn, 4, port, "slow"); got != "SLOW" || failed != "" {
			t.Errorf("%s: %q, error %q", name, got, failed)
		}
		conn.Close()
	}
}

// forward sends text to a port and reads the answer, and what the runtime has to say of an error.
func forward(t *testing.T, conn httpstream.Connection, request, port int, text string) (answer, failed string) {
	t.Helper()
	headers := http.Header{}
	headers.Set(portforward.PortHeader, strconv.Itoa(port))
	headers.Set(portforward.PortForwardRequestIDHeader, strconv.Itoa(request))
	headers.Set(portforward.StreamType, portforward.StreamTypeError)
	errs, err := conn.CreateStream(headers)
	if err != nil {
		t.Fatal(err)
	}
	errs.Close() // nothing is written there
	headers.Set(portforward.StreamType, portforward.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(data, text)
	data.Close()
	a, err := io.ReadAll(data)
	if err != nil {
		t.Error(err)
	}
	f, err := io.ReadAll(errs)
	if err != nil {
		t.Error(err)
	}
	return string(a), string(f)
}
