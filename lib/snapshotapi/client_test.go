// SPDX-License-Identifier: Apache-2.0

package snapshotapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/mount"
)

// real is a server of the generated types on the real gRPC, which answers what it was asked.
type real struct {
	snapshotsapi.UnimplementedSnapshotsServer
	asked string
}

func (r *real) note(ctx context.Context, m any) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.asked = fmt.Sprint(md.Get("containerd-namespace"), " ", m)
}

func (r *real) Prepare(ctx context.Context, q *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	r.note(ctx, fmt.Sprint(q.Snapshotter, q.Key, q.Parent, q.Labels))
	if q.Key == "exists" {
		return nil, status.Error(codes.AlreadyExists, "100% déjà\nlà")
	}
	m := &types.Mount{Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=/a:/b"}}
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: []*types.Mount{m, {Type: "bind", Source: "/x", Target: "/y"}}}, nil
}

func (r *real) Commit(ctx context.Context, q *snapshotsapi.CommitSnapshotRequest) (*emptypb.Empty, error) {
	r.note(ctx, fmt.Sprint(q.Snapshotter, q.Name, q.Key, len(q.Labels["long"])))
	return &emptypb.Empty{}, nil
}

func (r *real) Remove(context.Context, *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.FailedPrecondition, "it has children")
}

func (r *real) Cleanup(ctx context.Context, q *snapshotsapi.CleanupRequest) (*emptypb.Empty, error) {
	r.note(ctx, q.Snapshotter)
	return &emptypb.Empty{}, nil
}

func (r *real) Stat(ctx context.Context, q *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	i := &snapshotsapi.Info{Name: q.Key, Parent: "p", Kind: snapshotsapi.Kind_COMMITTED, Labels: map[string]string{"a": "b", "c": ""}, CreatedAt: timestamppb.Now()}
	return &snapshotsapi.StatSnapshotResponse{Info: i}, nil
}

func (r *real) Usage(context.Context, *snapshotsapi.UsageRequest) (*snapshotsapi.UsageResponse, error) {
	return &snapshotsapi.UsageResponse{Size: 1 << 40, Inodes: 7}, nil
}

func (r *real) Mounts(ctx context.Context, _ *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (r *real) List(q *snapshotsapi.ListSnapshotsRequest, s snapshotsapi.Snapshots_ListServer) error {
	n := 100
	if strings.HasPrefix(q.Filters[0], "all") {
		n = 1 << 30
	}
	for i := range n {
		label := map[string]string{"x": strings.Repeat("x", 4000)}
		if err := s.Send(&snapshotsapi.ListSnapshotsResponse{Info: []*snapshotsapi.Info{{Name: fmt.Sprint(i), Labels: label}}}); err != nil {
			return err
		}
	}
	return nil
}

func serveReal(t *testing.T) (*Client, *real) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s, r := grpc.NewServer(), &real{}
	snapshotsapi.RegisterSnapshotsServer(s, r)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return &Client{Address: path, Snapshotter: "sn", Namespace: "ns", Timeout: 10 * time.Second}, r
}

// TestCalls: each call against grpc-go and the generated types.
func TestCalls(t *testing.T) {
	c, r := serveReal(t)
	ctx := t.Context()
	got, err := c.Prepare(ctx, "k", "p", map[string]string{"a": "b"})
	want := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=/a:/b"}}, {Type: "bind", Source: "/x", Target: "/y"}}
	if err != nil || !reflect.DeepEqual(got, want) || r.asked != "[ns] snkpmap[a:b]" {
		t.Errorf("%v %v, asked %s", got, err, r.asked)
	}
	if _, err := c.Prepare(ctx, "exists", "", nil); !errdefs.IsAlreadyExists(err) || err.Error() != "Prepare: 100% déjà là" {
		t.Error(err)
	}
	if err := c.Commit(ctx, "n", "k", map[string]string{"long": strings.Repeat("y", 40_000)}); err != nil || r.asked != "[ns] snnk40000" {
		t.Errorf("%v, asked %s", err, r.asked)
	}
	if err := c.Commit(ctx, "n", "k", map[string]string{"long": strings.Repeat("y", 70_000)}); err == nil {
		t.Error("a request that is too long is sent")
	}
	if err := c.Remove(ctx, "k"); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if err := c.Cleanup(ctx); err != nil || r.asked != "[ns] sn" {
		t.Errorf("%v, asked %s", err, r.asked)
	}
	if i, err := c.Stat(ctx, "k"); err != nil || i.Name != "k" || i.Parent != "p" || i.Kind != Committed || len(i.Labels) != 2 || i.Labels["a"] != "b" {
		t.Errorf("%+v %v", i, err)
	}
	if size, inodes, err := c.Usage(ctx, "k"); err != nil || size != 1<<40 || inodes != 7 {
		t.Error(size, inodes, err)
	}
	if _, err := c.View(ctx, "k", "p", nil); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
	if all, err := c.List(ctx, "some"); err != nil || len(all) != 100 || all[99].Name != "99" {
		t.Error(len(all), err)
	}
	if all, err := c.List(ctx, "all"); err == nil || !errdefs.IsUnavailable(err) {
		t.Errorf("a list without an end: %d, %v", len(all), err)
	}
}

// TestSilent: a server that does not answer is given up after the time, and at once when the caller is.
func TestSilent(t *testing.T) {
	c, _ := serveReal(t)
	c.Timeout = 200 * time.Millisecond
	begin := time.Now()
	if _, err := c.Mounts(t.Context(), "k"); !errdefs.IsUnavailable(err) && !errdefs.IsDeadlineExceeded(err) || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	c.Timeout = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Mounts(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || errdefs.IsUnavailable(err) || time.Since(begin) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	c.Address += ".none"
	if _, err := c.Mounts(t.Context(), "k"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), c.Address) {
		t.Error(err)
	}
}

// answer serves these bytes to each connection, whatever it asks, and then keeps it open.
func answer(t *testing.T, data []byte, open bool) *Client {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				conn.Write(data)
				if !open {
					conn.(*net.UnixConn).CloseWrite()
				}
				buf := make([]byte, 4096)
				for err == nil {
					_, err = conn.Read(buf)
				}
				conn.Close()
			}()
		}
	}()
	return &Client{Address: path, Snapshotter: "sn", Namespace: "ns", Timeout: time.Second}
}

func frames(all ...func(*bytes.Buffer)) []byte {
	var b bytes.Buffer
	for _, f := range all {
		f(&b)
	}
	return b.Bytes()
}

func frameOf(kind, flags byte, stream uint32, payload []byte) func(*bytes.Buffer) {
	return func(b *bytes.Buffer) { appendFrame(b, kind, flags, stream, payload) }
}

func headersOf(pairs ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(pairs); i += 2 {
		e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return b.Bytes()
}

func message(data []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
}

// TestHostile: what is no answer is refused, named and bounded.
func TestHostile(t *testing.T) {
	ok := frameOf(frameHeaders, flagEndHeaders, 1, headersOf(":status", "200"))
	end := frameOf(frameHeaders, flagEndHeaders|flagEndStream, 1, headersOf("grpc-status", "0"))
	mount := []byte{0x0a, 0x0f, 0x0a, 0x04, 'b', 'i', 'n', 'd', 0x12, 0x02, '/', 'x', 0x22, 0x03, 'r', 'b', 'd'}
	ping := frameOf(framePing, 0, 0, make([]byte, 8))
	var pings bytes.Buffer
	for range maxFrames + 10 {
		ping(&pings)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"right":        {frames(ping, ok, frameOf(0x42, 0, 9, []byte("x")), frameOf(frameData, flagPadded, 1, append(append([]byte{3}, message(mount)...), 0, 0, 0)), end), ""},
		"nothing":      {nil, "closed the connection"},
		"HTTP/1":       {[]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "gRPC"},
		"huge frame":   {frames(ok, func(b *bytes.Buffer) { b.Write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1}) }), "frame of 16777215 bytes"},
		"huge message": {frames(ok, frameOf(frameData, 0, 1, []byte{0, 0xff, 0xff, 0xff, 0xff})), "message of 4294967295 bytes"},
		"compressed":   {frames(ok, frameOf(frameData, 0, 1, []byte{1, 0, 0, 0, 1, 0}), end), "compressed"},
		"half":         {frames(ok, frameOf(frameData, 0, 1, []byte{0, 0, 0, 0, 9, 0}), end), "ends too early"},
		"no status":    {frames(ok, frameOf(frameData, flagEndStream, 1, message(mount))), "status"},
		"not found":    {frames(frameOf(frameHeaders, flagEndHeaders|flagEndStream, 1, headersOf(":status", "404"))), `"404"`},
		"pings":        {frames(ok, func(b *bytes.Buffer) { b.Write(pings.Bytes()) }), "frames without data"},
		"push":         {frames(frameOf(framePush, flagEndHeaders, 1, make([]byte, 4))), "push"},
		"other stream": {frames(frameOf(frameData, 0, 3, message(mount))), "stream 3"},
		"reset":        {frames(frameOf(frameReset, 0, 1, []byte{0, 0, 0, 7})), "REFUSED_STREAM"},
		"goaway":       {frames(frameOf(frameGoAway, 0, 0, make([]byte, 8))), "NO_ERROR"},
		"bad padding":  {frames(ok, frameOf(frameData, flagPadded, 1, []byte{9, 0})), "padding"},
		"bad headers":  {frames(frameOf(frameHeaders, flagEndHeaders, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})), "headers"},
		"interrupted":  {frames(frameOf(frameHeaders, 0, 1, headersOf(":status", "200")), ping), "interrupted"},
		"long headers": {frames(frameOf(frameHeaders, 0, 1, nil), func(b *bytes.Buffer) {
			for range 5 {
				appendFrame(b, frameContinuation, 0, 1, make([]byte, maxFrame))
			}
		}), "headers of more"},
		"no message":    {frames(ok, frameOf(frameData, 0, 1, message([]byte{0x0a, 0xff})), end), "malformed"},
		"not UTF-8":     {frames(ok, frameOf(frameData, 0, 1, message([]byte{0x0a, 0x03, 0x0a, 0x01, 0xff})), end), "UTF-8"},
		"many mounts":   {frames(ok, frameOf(frameData, 0, 1, message(bytes.Repeat([]byte{0x0a, 0}, maxMounts+1))), end), "mounts"},
		"unknown error": {frames(frameOf(frameHeaders, flagEndHeaders|flagEndStream, 1, headersOf(":status", "200", "grpc-status", "77"))), "code 77"},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			got, err := answer(t, c.data, false).Mounts(t.Context(), "k")
			if c.want == "" && (err != nil || len(got) != 1 || got[0].Source != "/x") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v %v", got, err)
			}
			if d := time.Since(begin); d > 5*time.Second {
				t.Errorf("after %s", d)
			}
		})
	}
	if _, err := answer(t, nil, true).Mounts(t.Context(), "k"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no answer after 1s") {
		t.Error(err)
	}
}

// FuzzAnswer: any answer ends, with mounts that are valid or with an error.
func FuzzAnswer(f *testing.F) {
	ok := frameOf(frameHeaders, flagEndHeaders, 1, headersOf(":status", "200"))
	end := frameOf(frameHeaders, flagEndHeaders|flagEndStream, 1, headersOf("grpc-status", "0"))
	f.Add(frames(ok, frameOf(frameData, 0, 1, message([]byte{0x0a, 0x04, 0x12, 0x02, '/', 'x'})), end))
	f.Add(frames(frameOf(frameSettings, 0, 0, nil), frameOf(frameHeaders, 0, 1, headersOf(":status", "200")), frameOf(frameContinuation, flagEndHeaders, 1, headersOf("grpc-status", "5", "grpc-message", "a%20b"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		go func() {
			server.Write(data)
			server.Close()
		}()
		go func() {
			buf := make([]byte, 1<<16)
			for {
				if _, err := server.Read(buf); err != nil {
					return
				}
			}
		}()
		client.SetDeadline(time.Now().Add(5 * time.Second))
		var n int
		m := &messages{each: func(b []byte) error {
			return fields(b, func(protowire.Number, value) error { n++; return nil })
		}}
		x := &exchange{conn: client, data: m.add}
		if err := x.receive(); errors.Is(err, context.DeadlineExceeded) {
			t.Error("it hangs")
		}
		client.Close()
		if n > len(data) {
			t.Errorf("%d fields of %d bytes", n, len(data))
		}
	})
}
