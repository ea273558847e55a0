// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types/transfer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// openStream opens a stream that a transfer can name.
func openStream(t *testing.T, c *grpc.ClientConn, id string) streamingapi.Streaming_StreamClient {
	t.Helper()
	stream, err := streamingapi.NewStreamingClient(c).Stream(in(t, "ns"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, stream, &streamingapi.StreamInit{ID: id})
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	return stream
}

func put(t *testing.T, stream streamingapi.Streaming_StreamClient, m proto.Message) {
	packed, err := pack(m)
	if err == nil {
		err = stream.Send(packed)
	}
	if err != nil {
		t.Error(err)
	}
}

// The wait for a client's silence is bounded by the clock too: on a machine where each turn comes late, a client that never falls silent, and one
// that is silent, hold the answer up no longer than one elsewhere.
func TestAwaitSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, one := range map[string]struct {
			turn  time.Duration
			talks bool
			most  time.Duration
		}{
			"silent":           {time.Millisecond, false, settleTurns * time.Millisecond},
			"talks":            {time.Millisecond, true, settleMost},
			"silent, late":     {100 * time.Millisecond, false, settleMost},
			"talks, late":      {100 * time.Millisecond, true, settleMost},
			"talks, very late": {3 * time.Second, true, 3 * time.Second},
		} {
			var heard atomic.Int64
			began := time.Now()
			awaitSilence(t.Context(), &heard, func() {
				time.Sleep(one.turn)
				if one.talks {
					heard.Add(1)
				}
			})
			if took := time.Since(began); took != one.most { // the bubble's clock, which goes on only while all sleep
				t.Errorf("%s: %v, want %v", name, took, one.most)
			}
		}
	})
}

// A transfer that is cancelled ends, and so do its streams, whatever the client does with these: it says nothing, or it reads nothing.
func TestTransferCancelled(t *testing.T) {
	asks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer asks.Close()
	s := serve(t, Options{Dir: openPatient(t)})
	c := dial(t, s.path)
	for name, one := range map[string]struct {
		from, to proto.Message
		until    func(in, out streamingapi.Streaming_StreamClient) // it waits for the client
	}{
		"no credentials": {
			&transfer.OCIRegistry{
				Reference: strings.TrimPrefix(asks.URL, "http://") + "/image:1",
				Resolver:  &transfer.RegistryResolver{DefaultScheme: "http", AuthStream: "in"},
			}, &transfer.ImageStore{Name: "image"},
			func(in, _ streamingapi.Streaming_StreamClient) { in.Recv() },
		},
		"no archive": {
			&transfer.ImageImportStream{Stream: "in"}, &transfer.ImageStore{Name: "image"},
			func(in, _ streamingapi.Streaming_StreamClient) { in.Recv() },
		},
		"no window": {
			&transfer.ImageImportStream{Stream: "in", MediaType: "application/octet-stream"}, &transfer.ImageExportStream{Stream: "out"},
			func(in, _ streamingapi.Streaming_StreamClient) {
				in.Recv()
				put(t, in, &transfer.Data{Data: make([]byte, dataBlock)})
			},
		},
		"no reader": {
			&transfer.ImageImportStream{Stream: "in", MediaType: "application/octet-stream"}, &transfer.ImageExportStream{Stream: "out"},
			func(in, out streamingapi.Streaming_StreamClient) {
				put(t, out, &transfer.WindowUpdate{Update: 1 << 30})
				var sent atomic.Int64
				go func() {
					for { // until the server takes no more
						if _, err := in.Recv(); err != nil {
							return
						}
						for range window / dataBlock {
							if packed, err := pack(&transfer.Data{Data: make([]byte, dataBlock)}); err != nil || in.Send(packed) != nil {
								return
							}
							sent.Add(1)
						}
					}
				}()
				for was := int64(0); was == 0 || was != sent.Load(); time.Sleep(100 * time.Millisecond) {
					was = sent.Load()
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			streams := []streamingapi.Streaming_StreamClient{openStream(t, c, "in")}
			if _, ok := one.to.(*transfer.ImageExportStream); ok {
				streams = append(streams, openStream(t, c, "out"))
			}
			from, err := pack(one.from)
			to, terr := pack(one.to)
			if err != nil || terr != nil {
				t.Fatal(err, terr)
			}
			ctx, cancel := context.WithCancel(in(t, "ns"))
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := transferapi.NewTransferClient(c).Transfer(ctx, &transferapi.TransferRequest{Source: from, Destination: to})
				ended <- err
			}()
			one.until(streams[0], streams[len(streams)-1])
			cancel()
			if err := <-ended; status.Code(err) != codes.Canceled {
				t.Errorf("the transfer: %v", err)
			}
			for i, stream := range streams {
				if i == 0 && name == "no reader" { // that is being read
					continue
				}
				for err = nil; err == nil; {
					_, err = stream.Recv()
				}
				if status.Code(err) != codes.Canceled {
					t.Errorf("a stream of it: %v", err)
				}
			}
			eventually(t, "no call is under way", func() bool { _, none := s.calls.quiet(); return none })
		})
	}
}

// A client that does not read the progress of a transfer holds up nothing of it, nor those who wait for a lock that it has.
func TestTransferUnheard(t *testing.T) {
	s := serve(t, Options{Dir: openPatient(t)})
	c := dial(t, s.path)
	openStream(t, c, "progress") // of which nothing more is read
	openStream(t, c, "out")
	images := &transfer.ImageStore{}
	for i := range 5000 {
		images.ExtraReferences = append(images.ExtraReferences, &transfer.ImageReference{Name: fmt.Sprintf("example.com/%s:%d", strings.Repeat("a", 100), i)})
	}
	from, err := pack(images)
	to, terr := pack(&transfer.ImageExportStream{Stream: "out"})
	if err != nil || terr != nil {
		t.Fatal(err, terr)
	}
	_, err = transferapi.NewTransferClient(c).Transfer(in(t, "ns"), &transferapi.TransferRequest{
		Source: from, Destination: to, Options: &transferapi.TransferOptions{ProgressStream: "progress"},
	})
	if status.Code(err) != codes.NotFound {
		t.Errorf("export of images that are not there: %v", err)
	}
}

// What is told is sent in order; of what a slow client has not read the newest is enough.
func TestTeller(t *testing.T) {
	var sent []string
	reads := make(chan struct{})
	one := &teller{send: func(p *transfer.Progress) error {
		<-reads
		sent = append(sent, fmt.Sprint(p.Event, " ", p.Name, " ", p.Progress))
		return nil
	}}
	tell := func(event, name string, n int64) { one.tell(&transfer.Progress{Event: event, Name: name, Progress: n}) }
	tell("first", "", 0)
	eventually(t, "the first is being sent", func() bool { one.mu.Lock(); defer one.mu.Unlock(); return len(one.waiting) == 0 })
	for i := range int64(1000) {
		tell("downloading", "a", i)
		tell("downloading", "b", i)
	}
	tell("complete", "a", 1000)
	tell("downloading", "a", 0)
	close(reads)
	one.flush()
	want := []string{"first  0", "downloading a 999", "downloading b 999", "complete a 1000", "downloading a 0"}
	if !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	gone := &teller{send: func(*transfer.Progress) error { return io.ErrClosedPipe }}
	gone.tell(&transfer.Progress{Event: "a"})
	gone.flush()
	gone.tell(&transfer.Progress{Event: "b"})
	if gone.sending != nil || len(gone.waiting) > 0 {
		t.Error("a client that is gone is told more")
	}
}
