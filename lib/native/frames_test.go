// SPDX-License-Identifier: Apache-2.0

package native

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// Frames are told apart in whatever pieces they come; what does not begin a call, or begins an admitted one, is passed on as it is.
func TestFrames(t *testing.T) {
	var sent, want bytes.Buffer
	write := func(b *bytes.Buffer, more bool) {
		b.WriteString(http2.ClientPreface)
		f := http2.NewFramer(b, nil)
		f.WriteSettings()
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("first"), EndHeaders: true})
		f.WriteData(1, false, bytes.Repeat([]byte{1}, 1000))
		if more {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte("second")})
			f.WriteContinuation(3, true, []byte("more"))
		}
		f.WritePing(true, [8]byte{1})
		f.WriteData(3, true, nil)
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("trailer"), EndHeaders: true, EndStream: true})
		if more {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: []byte(strings.Repeat("third", 100)), EndHeaders: true})
		}
		f.WriteWindowUpdate(0, 1)
	}
	write(&sent, true)
	write(&want, false)
	for size := 1; size <= sent.Len(); size++ {
		for _, most := range []int{1, 3} {
			var f frames
			var got []byte
			calls := 0
			for rest := sent.Bytes(); len(rest) > 0; {
				n := min(size, len(rest))
				p := append(bytes.Clone(f.kept), rest[:n]...)
				rest = rest[n:]
				got = append(got, p[:f.pass(p, func() bool { calls++; return calls <= most })]...)
			}
			if most == 3 && !bytes.Equal(got, sent.Bytes()) || most == 1 && !bytes.Equal(got, want.Bytes()) {
				t.Fatalf("in pieces of %d, with %d calls: %q", size, most, got)
			}
		}
	}
}
