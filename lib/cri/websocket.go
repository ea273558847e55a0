// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// What kubectl and client-go speak over WebSocket is newer than what the streaming library serves: version 5 of the exec
// protocol, whose client can close stdin alone, and SPDY in a WebSocket for port-forward. The API server translates both for
// a kubelet; who comes to the runtime directly is served here.

// tunnelProtocol is the subprotocol of SPDY in a WebSocket (client-go, tools/portforward).
const tunnelProtocol = "SPDY/3.1+" + portforward.ProtocolV1Name

// serveV5 serves exec or attach with version 5 of the protocol (kubernetes, KEP-4006).
func (st *streams) serveV5(w http.ResponseWriter, r *http.Request, s session) {
	channels := []wsstream.ChannelType{
		remotecommand.StreamStdIn:  only(s.asked.GetStdin(), wsstream.ReadChannel),
		remotecommand.StreamStdOut: only(s.asked.GetStdout(), wsstream.WriteChannel),
		remotecommand.StreamStdErr: only(s.asked.GetStderr(), wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: channels},
	})
	conn.SetIdleTimeout(st.idle())
	_, ch, err := conn.Open(w, r)
	if err != nil {
		st.s.log.Warn("stream", "error", err)
		return
	}
	defer conn.Close()
	sizes := make(chan remotecommand.TerminalSize)
	go func() {
		defer close(sizes)
		for d := json.NewDecoder(ch[remotecommand.StreamResize]); ; {
			var size remotecommand.TerminalSize
			if d.Decode(&size) != nil {
				return
			}
			select {
			case sizes <- size:
			case <-r.Context().Done():
				return
			}
		}
	}()
	err = runner{s}.run(r.Context(), ch[remotecommand.StreamStdIn], ch[remotecommand.StreamStdOut], ch[remotecommand.StreamStdErr], sizes)
	status, err := json.Marshal(statusOf(err))
	if err == nil {
		_, err = ch[remotecommand.StreamErr].Write(status)
	}
	if err != nil {
		st.s.log.Debug("stream", "error", err) // the client is gone
	}
}

func only(asked bool, t wsstream.ChannelType) wsstream.ChannelType {
	if !asked {
		return wsstream.IgnoreChannel
	}
	return t
}

// status is what of Kubernetes' meta/v1.Status a client of an exec reads on the error channel.
type status struct {
	Status  string   `json:"status"`
	Message string   `json:"message,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Details *details `json:"details,omitempty"`
	Code    int      `json:"code,omitempty"`
}

type details struct {
	Causes []cause `json:"causes,omitempty"`
}

type cause struct {
	Type    string `json:"reason"`
	Message string `json:"message"`
}

// statusOf tells how a session ended.
func statusOf(err error) status {
	if err == nil {
		return status{Status: "Success"}
	}
	if exit, ok := errors.AsType[utilexec.ExitError](err); ok && exit.Exited() {
		return status{
			Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason, Message: "command terminated with non-zero exit code: " + err.Error(),
			Details: &details{[]cause{{remotecommand.ExitCodeCauseType, strconv.Itoa(exit.ExitStatus())}}},
		}
	}
	return status{Status: "Failure", Reason: "InternalError", Message: fmt.Sprintf("Internal error occurred: %v", err), Code: http.StatusInternalServerError}
}

// serveTunnel serves port-forward over SPDY in a WebSocket: the frames of a SPDY connection are the messages.
func (st *streams) serveTunnel(w http.ResponseWriter, r *http.Request, f forwarding) {
	handshake := func(c *websocket.Config, _ *http.Request) error {
		c.Protocol = []string{tunnelProtocol}
		return nil
	}
	websocket.Server{Handshake: handshake, Handler: func(ws *websocket.Conn) {
		ws.PayloadType = websocket.BinaryFrame
		inner := r.Clone(r.Context())
		inner.Header = http.Header{
			httpstream.HeaderConnection:      {httpstream.HeaderUpgrade},
			httpstream.HeaderUpgrade:         {spdy.HeaderSpdy31},
			httpstream.HeaderProtocolVersion: {portforward.ProtocolV1Name},
		}
		f.serve(&tunnel{ws: ws, header: http.Header{}}, inner, st.idle())
	}}.ServeHTTP(w, r)
}

// tunnel is the answer to a request that was upgraded already: what takes it over gets the WebSocket. Its header and status
// go nowhere.
type tunnel struct {
	ws     *websocket.Conn
	header http.Header
}

// Header implements http.ResponseWriter.
func (t *tunnel) Header() http.Header { return t.header }

// WriteHeader implements http.ResponseWriter.
func (t *tunnel) WriteHeader(int) {}

// Write implements http.ResponseWriter. What is refused before the upgrade ends the tunnel.
func (t *tunnel) Write(p []byte) (int, error) { return 0, io.ErrClosedPipe }

// Hijack implements http.Hijacker.
func (t *tunnel) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.ws, bufio.NewReadWriter(bufio.NewReader(t.ws), bufio.NewWriter(t.ws)), nil
}
