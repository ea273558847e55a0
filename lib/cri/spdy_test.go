// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moby/spdystream/spdy"
)

// Frames are told apart in whatever pieces they come, and a frame that would hide another one is refused.
func TestSpdyLimit(t *testing.T) {
	var two bytes.Buffer
	f, err := spdy.NewFramer(&two, &two)
	if err != nil {
		t.Fatal(err)
	}
	for _, frame := range []spdy.Frame{
		&spdy.SynStreamFrame{StreamId: 1, Headers: http.Header{"streamType": {"error"}}},
		&spdy.SettingsFrame{FlagIdValues: []spdy.SettingsFlagIdValue{{Id: 4, Value: 1}, {Id: 5, Value: 1}}},
		&spdy.DataFrame{StreamId: 1, Data: []byte("\x80\x03\x00\x01 like the head of a stream")},
		&spdy.PingFrame{Id: 1}, &spdy.RstStreamFrame{StreamId: 1, Status: spdy.Cancel}, &spdy.DataFrame{StreamId: 1},
		&spdy.SynStreamFrame{StreamId: 3, Headers: http.Header{"streamType": {"stdin"}}},
	} {
		if err := f.WriteFrame(frame); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		data string
		left int
		says string // empty: it may
	}{
		"two":             {two.String(), 2, ""},
		"two too many":    {two.String(), 1, "more streams"},
		"long ping":       {"\x80\x03\x00\x06\x00\x00\x00\x0c", 9, "length"},
		"long reset":      {"\x80\x03\x00\x03\x00\x00\x00\x10", 9, "length"},
		"short stream":    {"\x80\x03\x00\x01\x00\x00\x00\x03", 9, "length"},
		"short settings":  {"\x80\x03\x00\x04\x00\x00\x00\x02", 9, "length"},
		"long settings":   {"\x80\x03\x00\x04\x00\x00\x00\x14\x00\x00\x00\x01", 9, "length"},
		"no settings":     {"\x80\x03\x00\x04\x00\x00\x00\x04\x00\x00\x00\x00\x80\x03\x00\x01\x00\x00\x00\x0a", 0, "more streams"},
		"beyond settings": {"\x80\x03\x00\x04\x00\x00\x00\x04\xff\xff\xff\xff", 9, "length"},
	} {
		for _, pieces := range []io.Reader{strings.NewReader(c.data), iotest.OneByteReader(strings.NewReader(c.data))} {
			l := &spdyLimit{left: c.left}
			var err error
			for p := make([]byte, 1000); err == nil; {
				n, end := pieces.Read(p)
				if end != nil {
					break
				}
				err = l.look(p[:n])
			}
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
