// SPDX-License-Identifier: Apache-2.0

package snapshotapi

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/net/http2/hpack"
)

// Types and flags of frames (RFC 9113, section 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePush         = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// maxFrame is the largest frame that either side may send, as neither says otherwise.
	maxFrame = 16384
	// streamID is that of the only stream.
	streamID = 1
	// maxRequest bounds what is sent: it fits into the window that a stream has before the server has said anything.
	maxRequest = 60 << 10
	// maxHeaders bounds the headers and the trailers of an answer, in bytes.
	maxHeaders = 64 << 10
	// maxFrames bounds the frames of an answer that bring no data.
	maxFrames = 10_000
)

// errProtocol says that what a server sent is no HTTP/2 or no gRPC.
var errProtocol = errors.New("it does not speak gRPC as it should")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// exchange is one request and its answer on a connection of their own.
type exchange struct {
	conn    io.ReadWriter
	in      *bufio.Reader
	headers *hpack.Decoder
	fields  map[string]string // of the answer; trailers are added to them
	block   []byte            // of headers that have not ended
	ending  bool              // the stream ends with those headers
	ended   bool
	idle    int // frames that brought no data
	data    func([]byte) error
}

// encode writes the whole request as frames: a header block and one body.
func encode(headers [][2]string, body []byte) ([]byte, error) {
	if len(body) > maxRequest {
		return nil, fmt.Errorf("a request of %d bytes is too long, it may have %d: %w", len(body), maxRequest, errdefs.ErrInvalidArgument)
	}
	var out, block bytes.Buffer
	out.WriteString(preface)
	appendFrame(&out, frameSettings, 0, 0, []byte{0, 2, 0, 0, 0, 0}) // SETTINGS_ENABLE_PUSH: 0
	e := hpack.NewEncoder(&block)
	for _, h := range headers {
		if err := e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			return nil, err
		}
	}
	if block.Len() > maxFrame {
		return nil, fmt.Errorf("the headers of a request are too long: %d bytes: %w", block.Len(), errdefs.ErrInvalidArgument)
	}
	appendFrame(&out, frameHeaders, flagEndHeaders, streamID, block.Bytes())
	for len(body) > maxFrame {
		appendFrame(&out, frameData, 0, streamID, body[:maxFrame])
		body = body[maxFrame:]
	}
	appendFrame(&out, frameData, flagEndStream, streamID, body)
	return out.Bytes(), nil
}

func appendFrame(out *bytes.Buffer, kind, flags byte, stream uint32, payload []byte) {
	n := len(payload)
	out.Write([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags})
	out.Write(binary.BigEndian.AppendUint32(nil, stream))
	out.Write(payload)
}

func (x *exchange) write(kind, flags byte, stream uint32, payload []byte) error {
	var out bytes.Buffer
	appendFrame(&out, kind, flags, stream, payload)
	_, err := x.conn.Write(out.Bytes())
	return err
}

// receive reads the answer to its end.
func (x *exchange) receive() error {
	x.fields = map[string]string{}
	x.in = bufio.NewReaderSize(x.conn, 4096)
	x.headers = hpack.NewDecoder(4096, x.field)
	x.headers.SetMaxStringLength(maxHeaders)
	for !x.ended {
		if err := x.frame(); err != nil {
			return err
		}
	}
	return nil
}

// field takes one header. The last of several with one name counts.
func (x *exchange) field(f hpack.HeaderField) {
	if len(x.fields) < 256 {
		x.fields[f.Name] = f.Value
	}
}

// frame reads one frame and does what it says.
func (x *exchange) frame() error {
	var head [9]byte
	if _, err := io.ReadFull(x.in, head[:]); err != nil {
		return err
	}
	n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	kind, flags := head[3], head[4]
	stream := binary.BigEndian.Uint32(head[5:]) & 0x7fffffff
	if n > maxFrame {
		return protocolError("a frame of %d bytes", n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(x.in, payload); err != nil {
		return err
	}
	if kind != frameData || n == 0 {
		if x.idle++; x.idle > maxFrames {
			return protocolError("more than %d frames without data", maxFrames)
		}
	}
	if x.block != nil && kind != frameContinuation {
		return protocolError("headers that are interrupted")
	}
	switch kind {
	case frameData, frameHeaders, frameContinuation, frameReset:
		if stream != streamID {
			return protocolError("a frame of stream %d", stream)
		}
	}
	return x.act(kind, flags, payload)
}

func (x *exchange) act(kind, flags byte, payload []byte) (err error) {
	switch kind {
	case frameData:
		return x.takeData(flags, payload)
	case frameHeaders:
		if payload, err = unpad(flags, payload); err != nil {
			return err
		}
		if flags&flagPriority != 0 {
			if len(payload) < 5 {
				return protocolError("headers that are too short")
			}
			payload = payload[5:]
		}
		x.ending = flags&flagEndStream != 0
		x.block = []byte{}
		return x.takeHeaders(flags, payload)
	case frameContinuation:
		if x.block == nil {
			return protocolError("a continuation of nothing")
		}
		return x.takeHeaders(flags, payload)
	case frameReset:
		if len(payload) != 4 {
			return protocolError("a reset of %d bytes", len(payload))
		}
		return &ResetError{binary.BigEndian.Uint32(payload)}
	case frameSettings:
		if flags&flagAck == 0 {
			return x.write(frameSettings, flagAck, 0, nil)
		}
	case framePush:
		return protocolError("a push that it was told not to send")
	case framePing:
		if flags&flagAck == 0 {
			return x.write(framePing, flagAck, 0, payload)
		}
	case frameGoAway:
		if len(payload) < 8 {
			return protocolError("a GOAWAY of %d bytes", len(payload))
		}
		if binary.BigEndian.Uint32(payload)&0x7fffffff < streamID {
			return &ResetError{binary.BigEndian.Uint32(payload[4:])}
		}
	case frameWindow: // all has been sent
	}
	return nil // what is unknown is ignored, as section 4.1 has it
}

func (x *exchange) takeData(flags byte, payload []byte) error {
	n := len(payload)
	payload, err := unpad(flags, payload)
	if err != nil {
		return err
	}
	if err := x.data(payload); err != nil {
		return err
	}
	if flags&flagEndStream != 0 {
		x.ended = true
		return nil
	}
	if n == 0 {
		return nil
	}
	var more bytes.Buffer
	size := binary.BigEndian.AppendUint32(nil, uint32(n))
	appendFrame(&more, frameWindow, 0, 0, size)
	appendFrame(&more, frameWindow, 0, streamID, size)
	_, err = x.conn.Write(more.Bytes())
	return err
}

// takeHeaders adds to a block, and decodes it when it has ended.
func (x *exchange) takeHeaders(flags byte, payload []byte) error {
	if len(x.block)+len(payload) > maxHeaders {
		return protocolError("headers of more than %d bytes", maxHeaders)
	}
	x.block = append(x.block, payload...)
	if flags&flagEndHeaders == 0 {
		return nil
	}
	if _, err := x.headers.Write(x.block); err != nil {
		return protocolError("headers: %v", err)
	}
	if err := x.headers.Close(); err != nil {
		return protocolError("headers: %v", err)
	}
	x.block = nil
	x.ended = x.ending
	return nil
}

// unpad takes the padding off the payload of a frame.
func unpad(flags byte, payload []byte) ([]byte, error) {
	if flags&flagPadded == 0 {
		return payload, nil
	}
	if len(payload) == 0 || int(payload[0]) >= len(payload) {
		return nil, protocolError("padding that is longer than its frame")
	}
	return payload[1 : len(payload)-int(payload[0])], nil
}

// ResetError says that a server has ended a call without an answer.
type ResetError struct{ Code uint32 }

// resetNames are the codes of RFC 9113, section 7.
var resetNames = strings.Fields("NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR REFUSED_STREAM CANCEL")

// Error names the code.
func (e *ResetError) Error() string {
	if int(e.Code) < len(resetNames) {
		return "it ended the call: " + resetNames[e.Code]
	}
	return fmt.Sprintf("it ended the call: code %d", e.Code)
}
