// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"encoding/binary"
	"errors"

	"github.com/moby/spdystream/spdy"
)

// spdyLimit reads along what a client sends over SPDY (SPDY/3.1, section 2.2) and refuses to let it open more streams than it may. The
// streaming library takes the streams that it expects, and a goroutine of it waits for ever with each one more.
type spdyLimit struct {
	left int    // streams
	head []byte // of a frame that begins
	rest int    // bytes of the frame that are to come
}

const (
	frameHead     = 8             // bytes
	settingsHead  = frameHead + 4 // with the number of settings
	settingLength = 8             // bytes
)

// look is told what has been read, in any pieces.
func (l *spdyLimit) look(p []byte) error {
	for len(p) > 0 {
		if n := min(l.rest, len(p)); n > 0 {
			l.rest -= n
			p = p[n:]
			continue
		}
		want := frameHead
		if len(l.head) >= frameHead {
			want = settingsHead
		}
		n := min(want-len(l.head), len(p))
		l.head = append(l.head, p[:n]...)
		p = p[n:]
		if len(l.head) == want {
			if err := l.begin(); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin looks at the head of a frame. It refuses frames whose end the library, which believes the kind and not the length, sees elsewhere.
func (l *spdyLimit) begin() error {
	length := int(binary.BigEndian.Uint32(l.head[4:8]) & 0xffffff)
	right := true
	if l.head[0]&0x80 != 0 {
		switch spdy.ControlFrameType(binary.BigEndian.Uint16(l.head[2:4])) {
		case spdy.TypeSynStream:
			if l.left--; l.left < 0 {
				return errors.New("the client opens more streams than it asked for")
			}
			right = length >= 10
		case spdy.TypeSynReply, spdy.TypeHeaders:
			right = length >= 4
		case spdy.TypeRstStream, spdy.TypeGoAway, spdy.TypeWindowUpdate:
			right = length == 8
		case spdy.TypePing:
			right = length == 4
		case spdy.TypeSettings:
			if len(l.head) == frameHead && length >= settingsHead-frameHead {
				return nil // the number is still to come
			}
			right = len(l.head) == settingsHead && uint64(length) == settingsHead-frameHead+settingLength*uint64(binary.BigEndian.Uint32(l.head[frameHead:]))
			length -= len(l.head) - frameHead
		}
	}
	if !right {
		return errors.New("the client sends a frame of SPDY with a wrong length")
	}
	l.head, l.rest = l.head[:0], length
	return nil
}
