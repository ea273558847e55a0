// SPDX-License-Identifier: Apache-2.0

package native

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/lib/state"
)

// patience is how long a test waits for what comes at once.
const patience = time.Minute

// served is a server on a socket, in a state directory of its own.
type served struct {
	*Server
	path string
	log  *safeBuffer
}

// safeBuffer is a log that is read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func openDir(t testing.TB) *state.Dir { return openWaiting(t, 0) }

// openPatient makes a state directory of which the locks are waited for.
func openPatient(t testing.TB) *state.Dir { return openWaiting(t, -1) }

func openWaiting(t testing.TB, wait time.Duration) *state.Dir {
	t.Helper()
	dir := t.TempDir()
	d, err := state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func listen(t testing.TB) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve runs a server until the test ends.
func serve(t testing.TB, o Options) *served {
	t.Helper()
	s := &served{log: &safeBuffer{}}
	if o.Dir == nil {
		o.Dir = openDir(t)
	}
	o.Log = slog.New(slog.NewTextHandler(s.log, nil))
	s.Server = New(o)
	l := listen(t)
	s.path = l.Addr().String()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Stop(ctx)
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		// Calls that were broken are still in their handlers, which write into the directory of the test. So does a collection.
		eventually(t, "every handler has returned", func() bool { _, none := s.calls.quiet(); return none })
		ctx, cancel = context.WithTimeout(context.Background(), patience)
		defer cancel()
		s.collector.wait(ctx)
	})
	return s
}

func dial(t testing.TB, path string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+path, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// in gives a context with a namespace that ends before the test loses its patience.
func in(t testing.TB, ns string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, namespaceKey, ns)
}

func ask(ctx context.Context, c grpc.ClientConnInterface) error {
	_, err := versionapi.NewVersionClient(c).Version(ctx, &emptypb.Empty{})
	return err
}

// raw connects without a word.
func raw(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// closed wants the server to close a connection, whatever it says before.
func closed(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
		t.Error("the connection stays open")
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
