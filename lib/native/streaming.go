// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Data is moved as containerd's core/transfer/streaming does it: the receiver grants windows of bytes.
const (
	window    = 64 << 10
	dataBlock = 32 << 10
)

type streamingService struct {
	streamingapi.UnimplementedStreamingServer
	s *Server
}

// streams are those that clients have opened, by namespace and id, until a transfer has done with them.
type streams struct {
	mu   sync.Mutex
	open map[[2]string]*stream
}

// stream is one that a client has opened for a transfer. It ends with the context of that: who sends or receives does not wait
// longer, whatever the client does.
type stream struct {
	streamingapi.Streaming_StreamServer
	sending chan struct{} // has one element while a message is sent
	done    chan struct{} // closed when the transfer has done with it
	broken  chan struct{} // closed when the transfer is no more
	whole   func() bool   // of a stream that was taken: has the end of the transfer's context do nothing; true once, if it is not too late
}

func newStream(rpc streamingapi.Streaming_StreamServer) *stream {
	return &stream{
		Streaming_StreamServer: rpc, sending: make(chan struct{}, 1), done: make(chan struct{}), broken: make(chan struct{}),
	}
}

// close lets the client know that nothing more comes.
func (s *stream) close() {
	if s.whole() {
		close(s.done)
	}
}

// send sends a message, for any number of callers.
func (s *stream) send(m proto.Message) error {
	packed, err := pack(m)
	if err != nil {
		return err
	}
	select {
	case s.sending <- struct{}{}:
	case <-s.done:
		return io.ErrClosedPipe
	case <-s.broken:
		return context.Canceled
	}
	defer func() { <-s.sending }()
	select {
	case <-s.done:
		return io.ErrClosedPipe
	default:
	}
	return s.Send(packed)
}

// pack packs a message with its bare name, as clients look for it.
func pack(m proto.Message) (*anypb.Any, error) {
	value, err := proto.Marshal(m)
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}, err
}

// unpack decodes a message, which must be of the type of m.
func unpack(a *anypb.Any, m proto.Message) error {
	if want := string(m.ProtoReflect().Descriptor().FullName()); bareName(a.GetTypeUrl()) != want {
		return fmt.Errorf("%.200q is no %s: %w", a.GetTypeUrl(), want, errdefs.ErrInvalidArgument)
	}
	if err := proto.Unmarshal(a.Value, m); err != nil {
		return fmt.Errorf("%.200q: %w: %w", a.TypeUrl, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Stream keeps a stream for the transfer that will name its id. The first message says the id, and is answered.
func (s streamingService) Stream(rpc streamingapi.Streaming_StreamServer) error {
	ctx := rpc.Context()
	ns, err := namespace(ctx)
	if err != nil {
		return err
	}
	first, err := rpc.Recv()
	if err != nil {
		return err
	}
	var init streamingapi.StreamInit
	if err := unpack(first, &init); err != nil {
		return err
	}
	one := newStream(rpc)
	key := [2]string{ns, init.ID}
	if err := s.s.streams.add(key, one); err != nil {
		return err
	}
	defer s.s.streams.remove(key, one)
	if err := one.send(&emptypb.Empty{}); err != nil {
		return err
	}
	ending := s.s.calls.ending.Done()
	var sending chan struct{} // nil until the transfer has done with the stream
	for done := one.done; ; {
		select {
		case <-done:
			done, sending = nil, one.sending
		case sending <- struct{}{}: // what is being sent goes first
			return nil
		case <-one.broken: // Recv and Send end with this call
			return context.Canceled
		case <-ctx.Done():
			return ctx.Err()
		case <-ending:
			if s.s.streams.remove(key, one) {
				return errStopping // the transfer that would name it goes to the next server
			}
			ending = nil
		}
	}
}

func (s *streams) add(key [2]string, one *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key[1] == "" {
		return fmt.Errorf("a stream has an id: %w", errdefs.ErrInvalidArgument)
	}
	if s.open[key] != nil {
		return fmt.Errorf("stream %q: %w", key[1], errdefs.ErrAlreadyExists)
	}
	if s.open == nil {
		s.open = map[[2]string]*stream{}
	}
	s.open[key] = one
	return nil
}

// remove tells whether no transfer has taken the stream, and lets none take it.
func (s *streams) remove(key [2]string, one *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key] != one {
		return false
	}
	delete(s.open, key)
	return true
}

// take gives a stream to the transfer that names it; to no other afterwards. The caller closes it, before its context ends; if
// that ends first, the stream is broken.
func (s *streams) take(ctx context.Context, id string) (*stream, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{ns, id}
	one := s.open[key]
	if one == nil {
		return nil, fmt.Errorf("stream %q: %w", id, errdefs.ErrNotFound)
	}
	delete(s.open, key)
	one.whole = context.AfterFunc(ctx, func() { close(one.broken) })
	return one, nil
}

// reader gives the bytes that the client sends.
func (s *stream) reader() io.Reader { return &dataReader{s: s} }

type dataReader struct {
	s       *stream
	granted int // bytes that the client may send
	rest    []byte
}

// Read implements io.Reader.
func (r *dataReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.granted < window {
			if err := r.s.send(&transfer.WindowUpdate{Update: window}); err != nil {
				return 0, err
			}
			r.granted += window
		}
		m, err := r.s.Recv()
		if err != nil {
			return 0, err
		}
		var data transfer.Data
		if err := unpack(m, &data); err != nil {
			return 0, err
		}
		if len(data.Data) > r.granted {
			return 0, fmt.Errorf("%d bytes where %d were granted: %w", len(data.Data), r.granted, errdefs.ErrOutOfRange)
		}
		r.granted -= len(data.Data)
		r.rest = data.Data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// writer sends bytes to the client, as many as it grants.
func (s *stream) writer() *dataWriter { return &dataWriter{s: s} }

type dataWriter struct {
	s       *stream
	granted int
}

// grant receives one grant of the client.
func (w *dataWriter) grant() error {
	m, err := w.s.Recv()
	if errors.Is(err, io.EOF) {
		err = io.ErrClosedPipe // the client wants no more
	}
	if err != nil {
		return err
	}
	var grant transfer.WindowUpdate
	if err := unpack(m, &grant); err != nil {
		return err
	}
	w.granted += int(max(grant.Update, 0))
	return nil
}

// settleWithin is how long a client may take for most of what it is sent.
const settleWithin = 10 * time.Second

// settle ends the stream, and waits before and after that for the client to take what was written: it may take the answer of the
// transfer for the end of all and leave, as ctr does. The protocol has no word for that. containerd's client grants a window when
// less than one is left, so that less than a window is under way when that much is granted; for that it is given a moment.
func (w *dataWriter) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	granted := make(chan error, 1)
	for w.granted < window {
		go func() { granted <- w.grant() }()
		select {
		case err := <-granted:
			if err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
	w.s.close()
	settle(ctx)
}

const (
	settleTurns = 50          // without a word of the client
	settleMost  = time.Second // in all
)

// settle waits for what the client of a call does about what it was sent, of which the protocol tells nothing: until a while has gone by in which
// nothing has come on its connection, but no longer than settleMost. That a stream has ended is answered by the client's gRPC, and a client that
// makes calls about what it was told is heard.
func settle(ctx context.Context) {
	if c, ok := connOf(ctx); ok {
		awaitSilence(ctx, &c.heard, func() { time.Sleep(time.Millisecond) })
	}
}

// awaitSilence waits until heard has stayed the same for a while, which is counted in turns that this process gets, not by the clock: where others
// have the machine, the client gets its turns as late.
func awaitSilence(ctx context.Context, heard *atomic.Int64, turn func()) {
	last := heard.Load()
	for silent, began := 0, time.Now(); silent < settleTurns && time.Since(began) < settleMost && ctx.Err() == nil; {
		turn()
		silent++
		if now := heard.Load(); now != last {
			last, silent = now, 0
		}
	}
}

// Write implements io.Writer.
func (w *dataWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		for w.granted <= 0 {
			if err := w.grant(); err != nil {
				return n, err
			}
		}
		block := p[:min(len(p), w.granted, dataBlock)]
		if err := w.s.send(&transfer.Data{Data: block}); err != nil {
			return n, err
		}
		n += len(block)
		w.granted -= len(block)
		p = p[len(block):]
	}
	return n, nil
}
