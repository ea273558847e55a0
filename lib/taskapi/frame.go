// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

const (
	// The two versions of the task service differ in nothing but the name.
	taskService    = "containerd.task.v3.Task"
	oldTaskService = "containerd.task.v2.Task"
	// namespaceKey is the metadata key by which containerd names a namespace.
	namespaceKey = "containerd-namespace-ttrpc"
)

// The frame is that of ttrpc's PROTOCOL.md: length, stream, kind, flags.
const (
	headerSize = 10
	maxMessage = 4 << 20

	kindRequest  = 1
	kindResponse = 2
	kindData     = 3
)

type header struct {
	length uint32 // of the message behind the header
	stream uint32
	kind   uint8
	flags  uint8
}

// readHeader reads into buf, which the caller keeps, so that waiting for a
// message costs no more than these ten bytes.
func readHeader(r io.Reader, buf *[headerSize]byte) (header, error) {
	if _, err := io.ReadFull(r, buf[:]); err != nil {
		return header{}, err
	}
	return header{
		length: binary.BigEndian.Uint32(buf[:]),
		stream: binary.BigEndian.Uint32(buf[4:]),
		kind:   buf[8],
		flags:  buf[9],
	}, nil
}

// readBody reads the n bytes behind a header. The buffer grows with what has
// come, so a header that lies costs its sender as much as us.
func readBody(r io.Reader, n uint32) ([]byte, error) {
	const first = 64 << 10
	b := make([]byte, min(n, first))
	for have := 0; ; {
		m, err := io.ReadFull(r, b[have:])
		have += m
		if err == io.EOF && n > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil || have == int(n) {
			return b[:have], err
		}
		b = append(b, make([]byte, min(have, int(n)-have))...)
	}
}

// tooLong is the error about a message of n bytes.
func tooLong(n int) error {
	return fmt.Errorf("message of %d bytes, at most %d are allowed: %w", n, maxMessage, errdefs.ErrResourceExhausted)
}

// frame encodes m with its header, the stream still open (see setStream).
func frame(kind uint8, m message) ([]byte, error) {
	b := encode(make([]byte, headerSize, 512), m)
	n := len(b) - headerSize
	if n > maxMessage {
		return nil, tooLong(n)
	}
	binary.BigEndian.PutUint32(b, uint32(n))
	b[8] = kind
	return b, nil
}

func setStream(frame []byte, stream uint32) {
	binary.BigEndian.PutUint32(frame[4:], stream)
}

// request is ttrpc's Request. The payload is a part of the buffer it was
// decoded from. Metadata is sent, and dropped on receipt.
type request struct {
	service, method string
	payload         []byte
	timeout         int64 // nanoseconds, 0 is none
	metadata        []pair
}

func (m *request) fields(c *codec) {
	c.string(1, &m.service)
	c.string(2, &m.method)
	c.part(3, &m.payload)
	c.int64(4, &m.timeout)
	if c.in == nil {
		repeated(c, 5, &m.metadata, 0, func(p *pair) message { return p })
	}
}

// response is ttrpc's Response. The payload is a part of the buffer it was
// decoded from.
type response struct {
	status  status
	payload []byte
}

func (m *response) fields(c *codec) {
	if c.in != nil || m.status.code != codeOK {
		c.message(1, &m.status)
	}
	c.part(2, &m.payload)
}
