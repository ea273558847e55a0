// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// bytesCodec sends bytes as they are, in place of an encoded message.
type bytesCodec struct{}

// Marshal implements encoding.Codec.
func (bytesCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

// Unmarshal implements encoding.Codec.
func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = slices.Clone(data)
	return nil
}

// Name implements encoding.Codec.
func (bytesCodec) Name() string { return "proto" }

// methods lists all that a server has, by full name.
func (s *Server) methods() (all []string) {
	services := s.grpc.GetServiceInfo()
	for _, name := range slices.Sorted(maps.Keys(services)) {
		for _, m := range services[name].Methods {
			all = append(all, "/"+name+"/"+m.Name)
		}
	}
	return all
}

// TestMethodsAnswer: each method answers a message of nothing and one that is no message, with a status.
func TestMethodsAnswer(t *testing.T) {
	s := serve(t, Options{})
	c := dial(t, s.path)
	for _, m := range s.methods() {
		for _, data := range [][]byte{nil, {0xff}, {0x0a, 0x03, 'a', '/', 'b'}, {0x0a, 0x02, '.', '.'}} {
			answered(t, s, c, m, "default", data)
			answered(t, s, c, m, "", data)
			answered(t, s, c, m, "../x", data)
		}
	}
}

// unknown are fields that no message has, one of each wire type, as a client of a later version may send them.
var unknown = []byte("\xc0\xb8\x02\x01" + "\xc1\xb8\x0212345678" + "\xc2\xb8\x02\x03abc" + "\xc5\xb8\x021234")

// TestUnknownFields: they change nothing of the answer.
func TestUnknownFields(t *testing.T) {
	one, other := serve(t, Options{Dir: openPatient(t)}), serve(t, Options{Dir: openPatient(t)})
	c, d := dial(t, one.path), dial(t, other.path)
	for _, m := range one.methods() {
		for _, known := range []string{"", "\x0a\x04name"} {
			without, with := answered(t, one, c, m, "default", []byte(known)), answered(t, other, d, m, "default", append([]byte(known), unknown...))
			if status.Code(without) != status.Code(with) && !lasting[m] { // which end when their client does
				t.Errorf("%s: %q: %v, with fields that it does not know %v", m, known, without, with)
			}
		}
	}
}

// FuzzMethods sends bytes as the request of each method. Every call ends with a status, none with a fault of ctrd.
func FuzzMethods(f *testing.F) {
	s := serve(f, Options{})
	c := dial(f, s.path)
	all := s.methods()
	for i := range all {
		f.Add(uint(i), "default", []byte(nil))
		f.Add(uint(i), "default", []byte("\x0a\x04name\x12\x04name"))
		f.Add(uint(i), "default", unknown)
		f.Add(uint(i), "a/..", []byte("\x0a\x06\x0a\x04name\x1a\x00"))
	}
	f.Fuzz(func(t *testing.T, i uint, ns string, data []byte) { answered(t, s, c, all[i%uint(len(all))], ns, data) })
}

// answered makes a call, whatever kind it is, wants an answer, and gives how it ended.
func answered(t *testing.T, s *served, c *grpc.ClientConn, method, ns string, data []byte) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if ns = strings.Map(printable, ns); ns != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, namespaceKey, ns)
	}
	stream, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(bytesCodec{}))
	if err == nil {
		err = stream.SendMsg(data)
	}
	if err == nil || errors.Is(err, io.EOF) {
		stream.CloseSend()
		if lasting[method] { // it ends when its client does
			time.AfterFunc(10*time.Millisecond, cancel)
		}
		var answer []byte
		for err = stream.RecvMsg(&answer); err == nil; {
			err = stream.RecvMsg(&answer)
		}
	}
	switch code := status.Code(err); {
	case errors.Is(err, io.EOF), lasting[method] && code == codes.Canceled:
	case code == codes.DeadlineExceeded:
		t.Errorf("%s does not end: %q", method, data)
	case code == codes.Internal && strings.Contains(err.Error(), "a fault of ctrd"):
		t.Errorf("%s: %q: %v\n%s", method, data, err, s.log)
	}
	return err
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}
