// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

const frameHead = 9 // bytes: length, type, flags and stream of a frame (RFC 9113, section 4.1)

// frames reads along what a client sends, and can leave out the frames that begin a call.
type frames struct {
	preface  int    // bytes of it that have
	kept     []byte // the beginning of the head of a frame
	rest     int    // bytes of the frame that are to come
	leftOut  bool   // the frame is left out
	last     uint32 // stream that has begun
	beginner [frameHead]byte
}

// pass keeps in p what is to be passed on, the first n bytes then. A call that begins is left out unless it is admitted; all that come after it
// on the connection are not either, so that the compression of their headers does not matter.
func (f *frames) pass(p []byte, admit func() bool) (n int) {
	at := 0
	keep := func(bytes int) {
		if !f.leftOut {
			if n != at {
				copy(p[n:], p[at:at+bytes])
			}
			n += bytes
		}
		at += bytes
	}
	if some := min(len(http2.ClientPreface)-f.preface, len(p)); some > 0 {
		f.preface += some
		keep(some)
	}
	f.kept = nil
	for at < len(p) {
		if some := min(f.rest, len(p)-at); some > 0 {
			f.rest -= some
			keep(some)
			continue
		}
		if len(p)-at < frameHead {
			f.kept = f.beginner[:copy(f.beginner[:], p[at:])]
			break
		}
		head := p[at : at+frameHead]
		f.rest = int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		switch stream := binary.BigEndian.Uint32(head[5:]) &^ (1 << 31); {
		case http2.FrameType(head[3]) == http2.FrameContinuation: // goes with the one before
		case http2.FrameType(head[3]) == http2.FrameHeaders && stream > f.last:
			if f.leftOut = !admit(); !f.leftOut {
				f.last = stream
			}
		default:
			f.leftOut = false
		}
		keep(frameHead)
	}
	return n
}
