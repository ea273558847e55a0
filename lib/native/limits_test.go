// SPDX-License-Identifier: Apache-2.0

package native

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/opencontainers/go-digest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	publish = "/containerd.services.events.v1.Events/Publish"
	write   = "/containerd.services.content.v1.Content/Write"
	read    = "/containerd.services.content.v1.Content/Read"
	version = "/containerd.services.version.v1.Version/Version"
)

// answers wants the server to answer a new client.
func (s *served) answers(t testing.TB) {
	t.Helper()
	if err := ask(in(t, "default"), dial(t, s.path)); err != nil {
		t.Errorf("another client is not answered: %v", err)
	}
}

// rude is a client that minds no limit.
type rude struct {
	*net.UnixConn
	*http2.Framer
}

func speak(t testing.TB, path string, settings ...http2.Setting) rude {
	t.Helper()
	c := raw(t, path)
	r := rude{c, http2.NewFramer(c, c)}
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return r
}

// call begins a call.
func (r rude) call(id uint32, method string) error {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	enc.SetMaxDynamicTableSize(0)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {namespaceKey, "default"},
	} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true})
}

// message is a message of a call, after the length that it claims to have.
func message(length uint32, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, length), data...)
}

// status reads until a call has ended, and gives its code.
func (r rude) status(t testing.TB) string {
	t.Helper()
	r.SetReadDeadline(time.Now().Add(patience))
	for {
		f, err := r.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := f.(*http2.MetaHeadersFrame); ok && h.StreamEnded() {
			for _, one := range h.Fields {
				if one.Name == "grpc-status" {
					return one.Value
				}
			}
		}
	}
}

// heap is what is in use, in bytes, without what pools keep for one collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// bounded wants what happens to take no more memory than max, in bytes.
func bounded(t testing.TB, max int64, happens func()) {
	t.Helper()
	before := heap()
	happens()
	if took := heap() - before; took > max {
		t.Errorf("%d MiB of memory, want at most %d", took>>20, max>>20)
	} else {
		t.Logf("%d KiB of memory", took>>10)
	}
}

func TestMessageSize(t *testing.T) {
	s := serve(t, Options{})
	r := &eventsapi.PublishRequest{Topic: "/a", Event: &anypb.Any{TypeUrl: "x", Value: make([]byte, maxMessage)}}
	if _, err := eventsapi.NewEventsClient(dial(t, s.path)).Publish(in(t, "default"), r); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("17 MiB: %v", err)
	}
	bounded(t, 4<<20, func() {
		c := speak(t, s.path)
		if err := c.call(1, publish); err != nil {
			t.Fatal(err)
		}
		if err := c.WriteData(1, false, message(1<<30, make([]byte, 1000))); err != nil {
			t.Fatal(err)
		}
		if got := c.status(t); got != fmt.Sprint(uint32(codes.ResourceExhausted)) {
			t.Errorf("1 GiB: status %s", got)
		}
	})
	s.answers(t)
}

// A client that begins more calls than it may has the others refused.
func TestStreams(t *testing.T) {
	const all = 100_000
	s := serve(t, Options{})
	bounded(t, 64<<20, func() {
		c := speak(t, s.path)
		sent := make(chan error, 1)
		go func() {
			for i := range uint32(all) {
				if err := c.call(2*i+1, write); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		c.SetReadDeadline(time.Now().Add(patience))
		for refused := 0; refused < all-maxStreams; {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatalf("%d calls refused: %v", refused, err)
			}
			if f, ok := f.(*http2.RSTStreamFrame); ok && f.ErrCode == http2.ErrCodeRefusedStream {
				refused++
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		s.answers(t)
		if s.calls.mu.Lock(); s.calls.active != maxStreams {
			t.Errorf("%d calls are under way", s.calls.active)
		}
		s.calls.mu.Unlock()
	})
}

// Messages that stop coming are no calls, and hold what has come of them.
func TestHalfMessages(t *testing.T) {
	const clients = 200
	s := serve(t, Options{})
	bounded(t, clients*(160<<10), func() {
		for range clients {
			c := speak(t, s.path)
			if err := c.call(1, publish); err != nil {
				t.Fatal(err)
			}
			if err := c.WriteData(1, false, message(maxMessage, make([]byte, 16000))); err != nil {
				t.Fatal(err)
			}
		}
		s.answers(t)
		eventually(t, "idle", func() bool { return s.Idle() > 0 })
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s.Stop(ctx) // ends, with all of them connected
}

// Of those that hold too much together, the one that holds most is disconnected.
func TestHeldMemory(t *testing.T) {
	s := serve(t, Options{})
	s.hall.memory.max = uint64(heap()) + 128<<20
	greedy, modest := speak(t, s.path), speak(t, s.path)
	if err := modest.call(1, publish); err != nil {
		t.Fatal(err)
	}
	if err := modest.WriteData(1, false, message(maxMessage, make([]byte, 16000))); err != nil {
		t.Fatal(err)
	}
	greedy.SetDeadline(time.Now().Add(patience))
	var err error
	for id := uint32(1); err == nil && id < 200; id += 2 {
		err = greedy.flood(id)
	}
	if err == nil || os.IsTimeout(err) {
		t.Errorf("messages of 1.5 GiB are kept: %v", err)
	}
	if !strings.Contains(s.log.String(), "it holds too much memory") {
		t.Errorf("the log does not say so: %s", s.log)
	}
	if err := modest.WriteData(1, false, make([]byte, 16000)); err != nil {
		t.Errorf("another client is disconnected: %v", err)
	}
	s.answers(t)
}

// Of those that read no answers, the one that has most of them unread is disconnected.
func TestOwedMemory(t *testing.T) {
	s := serve(t, Options{})
	data := make([]byte, 12*readBlock)
	dgst := s.put(t, data)
	s.hall.memory.max = uint64(heap()) + 128<<20
	request, err := proto.Marshal(&contentapi.ReadContentRequest{Digest: dgst.String()})
	if err != nil {
		t.Fatal(err)
	}
	begin := func(calls uint32) (c rude, err error) {
		c = speak(t, s.path, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		for id := uint32(1); err == nil && id < 2*calls; id += 2 {
			err = errors.Join(c.call(id, read), c.WriteData(id, true, message(uint32(len(request)), request)))
		}
		return c, err
	}
	modest, err := begin(1)
	if err != nil {
		t.Fatal(err)
	}
	// It may be disconnected before it has made the last of its calls.
	greedy, _ := begin(200)
	closed(t, greedy)
	if !strings.Contains(s.log.String(), "it holds too much memory") {
		t.Errorf("the log does not say so: %s", s.log)
	}
	if err := modest.WriteWindowUpdate(0, 1<<30); err != nil {
		t.Errorf("another client is disconnected: %v", err)
	}
	if got := modest.status(t); got != "0" {
		t.Errorf("another client's call ends with %s", got)
	}
	s.answers(t)
}

// put writes a blob.
func (s *served) put(t testing.TB, data []byte) digest.Digest {
	t.Helper()
	dgst := digest.FromBytes(data)
	w, err := contentapi.NewContentClient(dial(t, s.path)).Write(in(t, "default"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Ref: "one", Data: data, Total: int64(len(data)), Expected: dgst.String()}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	w.CloseSend()
	return dgst
}

// flood begins a message and sends all but its end, once the server has a window for it.
func (r rude) flood(id uint32) error {
	if err := r.call(id, publish); err != nil {
		return err
	}
	piece := make([]byte, 16000)
	if err := r.WriteData(id, false, message(maxMessage, piece)); err != nil {
		return err
	}
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return err
		}
		if f.Header().StreamID == id && f.Header().Type == http2.FrameWindowUpdate {
			break
		}
	}
	for sent := 2 * len(piece); sent < maxMessage; sent += len(piece) {
		if err := r.WriteData(id, false, piece); err != nil {
			return err
		}
	}
	return nil
}

// A client that reads nothing has the server keep three blocks of the answer: the one that was read, the one that is being
// written to the socket and the one that waits for its turn. The bound has a fourth, for all else; the answer has twelve.
func TestSlowReaders(t *testing.T) {
	const clients = 50
	s := serve(t, Options{})
	data := make([]byte, 12*readBlock)
	request, err := proto.Marshal(&contentapi.ReadContentRequest{Digest: s.put(t, data).String()})
	if err != nil {
		t.Fatal(err)
	}
	bounded(t, clients*4*readBlock, func() {
		var all []rude
		for range clients {
			c := speak(t, s.path, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			if err := c.WriteWindowUpdate(0, 1<<30); err != nil {
				t.Fatal(err)
			}
			if err := c.call(1, read); err != nil {
				t.Fatal(err)
			}
			if err := c.WriteData(1, true, message(uint32(len(request)), request)); err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		s.answers(t)
		for _, c := range all {
			eventually(t, "the socket is full", func() bool { return c.unread(t) >= 64<<10 })
		}
	})
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	if s.calls.active != clients {
		t.Errorf("%d calls are under way, want %d", s.calls.active, clients)
	}
}

// unread is how many bytes lie in the socket.
func (r rude) unread(t testing.TB) (n int) {
	t.Helper()
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { n, inner = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
	return n
}

func TestThousandConnections(t *testing.T) {
	const clients = 1000
	s := serve(t, Options{})
	bounded(t, clients*(100<<10), func() {
		for range clients {
			c := speak(t, s.path)
			if err := c.call(1, version); err != nil {
				t.Fatal(err)
			}
			if err := c.WriteData(1, true, message(0, nil)); err != nil {
				t.Fatal(err)
			}
			if got := c.status(t); got != "0" {
				t.Errorf("status %s", got)
			}
		}
	})
	s.answers(t)
}

func TestConnectionBound(t *testing.T) {
	var h hall
	h.init(nil)
	enter := func(pid int32) *conn {
		c := &conn{hall: &h, who: creds{pid: pid}}
		if !h.enter(c) {
			return nil
		}
		return c
	}
	var one *conn
	for range maxPeerConns {
		one = enter(1)
	}
	if one == nil || enter(1) != nil {
		t.Errorf("%d connections of a process: wrong bound", maxPeerConns)
	}
	if !h.full(one.who) || h.full(one.who) {
		t.Error("it is not told once")
	}
	h.step(one, gone)
	h.step(one, gone)
	if enter(1) == nil || enter(1) != nil {
		t.Error("the place of a connection that has ended is not free for one other")
	}
	for pid := int32(2); len(h.conns) < maxConns; pid++ {
		if enter(pid) == nil {
			t.Fatalf("%d connections: full", len(h.conns))
		}
	}
	if enter(-1) != nil {
		t.Errorf("%d connections: not full", maxConns)
	}
}

// as connects as another user: credentials of a socket are those of the thread.
func as(t *testing.T, path string, uid, gid int) net.Conn {
	t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	got := make(chan result)
	go func() {
		runtime.LockOSThread() // and it ends with this goroutine
		var err error
		for _, call := range [][2]uintptr{{unix.SYS_SETGROUPS, 0}, {unix.SYS_SETRESGID, uintptr(gid)}, {unix.SYS_SETRESUID, uintptr(uid)}} {
			a := [3]uintptr{call[1], call[1], call[1]}
			if call[0] == unix.SYS_SETGROUPS {
				a = [3]uintptr{}
			}
			if _, _, errno := unix.RawSyscall(call[0], a[0], a[1], a[2]); errno != 0 {
				err = errno
			}
		}
		var c net.Conn
		if err == nil {
			c, err = net.Dial("unix", path)
		}
		got <- result{c, err}
	}()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.c.Close() })
	return r.c
}

func TestPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to connect as others")
	}
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	path := l.Addr().String()
	const group, nobody = 4711, 65534
	for _, err := range []error{os.Chmod(dir, 0o755), os.Chown(path, 0, group), os.Chmod(path, 0o666)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, Options{})
	go s.Serve(l)
	for _, c := range []struct {
		uid, gid int
		in       bool
	}{{0, 0, true}, {nobody, group, true}, {nobody, nobody, false}} {
		r := rude{UnixConn: as(t, path, c.uid, c.gid).(*net.UnixConn)}
		r.Framer = http2.NewFramer(r.UnixConn, r.UnixConn)
		r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		if !c.in {
			closed(t, r)
			if !strings.Contains(s.log.String(), "a peer was turned away") {
				t.Error("the log does not name a peer that was turned away")
			}
			continue
		}
		io.WriteString(r.UnixConn, http2.ClientPreface)
		r.WriteSettings()
		r.call(1, version)
		r.WriteData(1, true, message(0, nil))
		if got := r.status(t); got != "0" {
			t.Errorf("user %d, group %d: status %s", c.uid, c.gid, got)
		}
	}
}
