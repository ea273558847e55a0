// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestConcurrentCalls(t *testing.T) {
	const n = 64
	var here sync.WaitGroup
	here.Add(n)
	c := dial(t, serve(t, fake(func(_ context.Context, method string, q message) (message, error) {
		if method == "Wait" {
			// Nobody is answered before all are here.
			here.Done()
			here.Wait()
			var status uint32
			fmt.Sscan(q.(*WaitRequest).ID, &status)
			return &WaitResponse{ExitStatus: status}, nil
		}
		return nil, nil
	})))
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			r, err := c.Wait(t.Context(), &WaitRequest{ID: fmt.Sprint(i)})
			if err != nil || r.ExitStatus != uint32(i) {
				t.Errorf("call %d: %+v, %v", i, r, err)
			}
		})
	}
	all.Wait()
}

func TestLargeMessagesAtOnce(t *testing.T) {
	c := dial(t, serve(t, fake(func(_ context.Context, method string, q message) (message, error) {
		return &StatsResponse{Stats: &Any{TypeURL: q.(*StatsRequest).ID[:1], Value: bytes.Repeat([]byte(q.(*StatsRequest).ID[:1]), 1<<20)}}, nil
	})))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			letter := string(rune('a' + i))
			r, err := c.Stats(t.Context(), &StatsRequest{ID: strings.Repeat(letter, 1<<20)})
			if err != nil || string(r.Stats.Value) != strings.Repeat(letter, 1<<20) {
				t.Errorf("call %s: %v", letter, err)
			}
		})
	}
	all.Wait()
}

func TestCancelledCallLeavesTheOthers(t *testing.T) {
	var calls atomic.Int32
	started, release := make(chan struct{}, 2), make(chan struct{})
	c := dial(t, serve(t, fake(func(context.Context, string, message) (message, error) {
		n := calls.Add(1)
		started <- struct{}{}
		if n == 1 {
			<-release
		}
		return &WaitResponse{ExitStatus: uint32(n)}, nil
	})))
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := c.Wait(ctx, &WaitRequest{})
		result <- err
	}()
	<-started
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	// The reply that nobody waits for comes before the next one.
	close(release)
	if r, err := c.Wait(t.Context(), &WaitRequest{}); err != nil || r.ExitStatus != 2 {
		t.Errorf("next call: %+v, %v", r, err)
	}
	if _, err := c.Wait(ctx, &WaitRequest{}); !errors.Is(err, context.Canceled) || calls.Load() != 2 {
		t.Errorf("call with a context that has ended: %v, %d calls", err, calls.Load())
	}
}

func TestDeadline(t *testing.T) {
	c := dial(t, serve(t, fake(func(ctx context.Context, _ string, _ message) (message, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Wait(ctx, &WaitRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("call: %v", err)
	}
}

func TestDeadConnectionFailsAllWaiters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const n = 10
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var buf [headerSize]byte
		for range n {
			h, err := readHeader(conn, &buf)
			if err != nil {
				t.Error(err)
			}
			readBody(conn, h.length)
		}
		// Half of a response, then nothing.
		conn.Write([]byte{0, 0, 0, 9, 0, 0, 0, 1, kindResponse, 0, 1, 2, 3})
		conn.Close()
	}()
	c := dial(t, "unix://"+path)
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if _, err := c.Wait(context.Background(), &WaitRequest{}); !errors.Is(err, errdefs.ErrUnavailable) {
				t.Errorf("waiter: %v", err)
			}
		})
	}
	all.Wait()
	if err := c.Pause(t.Context(), &PauseRequest{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("new call: %v", err)
	}
}

// TestServerThatDoesNotRead: a call that cannot even be sent ends with its
// context, and so do those behind it.
func TestServerThatDoesNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dial(t, "unix://"+path)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			err := c.Exec(ctx, &ExecProcessRequest{Spec: &Any{Value: make([]byte, 3<<20)}})
			if !errors.Is(err, context.Canceled) && !errors.Is(err, errdefs.ErrUnavailable) {
				t.Errorf("call: %v", err)
			}
		})
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The rest of a message whose first byte has come does not fit into the socket.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	all.Wait()
	if err := c.Pause(t.Context(), &PauseRequest{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("after half a message: %v", err)
	}
}

func TestStreamsRunOut(t *testing.T) {
	c := dial(t, serve(t, fake(func(context.Context, string, message) (message, error) { return nil, nil })))
	c.stream = 1<<32 - 3
	if err := c.Pause(t.Context(), &PauseRequest{}); err != nil {
		t.Errorf("last stream: %v", err)
	}
	if err := c.Pause(t.Context(), &PauseRequest{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("no stream: %v", err)
	}
}

func TestDialNobody(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	makeDead(t, dead)
	long := filepath.Join(dir, strings.Repeat("d", 120), "s")
	for _, path := range []string{dead, filepath.Join(dir, "none"), long} {
		if _, err := Dial(t.Context(), "unix://"+path); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, address := range []string{"", "/x", "unix://x", "tcp://127.0.0.1:1", "unix:///a\x00b"} {
		if _, err := Dial(t.Context(), address); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("dial %q: %v", address, err)
		}
		if _, err := Listen(address); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("listen %q: %v", address, err)
		}
	}
}

// makeDead leaves a socket at path on which nobody listens.
func makeDead(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestListen(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	dir := t.TempDir()
	deep := filepath.Join(dir, strings.Repeat("a", 100), strings.Repeat("b", 100))
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "s"), filepath.Join(deep, "s")} {
		for _, before := range []string{"nothing", "dead socket"} {
			if before == "dead socket" && len(path) <= maxPath {
				makeDead(t, path)
			}
			l, err := Listen("unix://" + path)
			if err != nil {
				t.Fatalf("%s, %s: %v", path, before, err)
			}
			if fi, err := os.Lstat(path); err != nil || fi.Mode() != os.ModeSocket|0o600 {
				t.Errorf("socket is %v, %v", fi.Mode(), err)
			}
			if l.Addr().String() != path {
				t.Errorf("address is %q", l.Addr())
			}
			if _, err := Listen("unix://" + path); !errors.Is(err, errdefs.ErrAlreadyExists) {
				t.Errorf("second listener: %v", err)
			}
			go Serve(t.Context(), l, fake(func(context.Context, string, message) (message, error) { return nil, nil }), nil)
			if err := dial(t, "unix://"+path).Pause(t.Context(), &PauseRequest{}); err != nil {
				t.Errorf("call: %v", err)
			}
			l.Close()
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("socket stays: %v", err)
			}
		}
	}
	if _, err := Listen("unix://" + filepath.Join(deep, strings.Repeat("s", 100))); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("long name: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix://" + file); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("file in the way: %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != "mine" {
		t.Errorf("file in the way: %q, %v", b, err)
	}
}

func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// TestDependencies: nothing heavy is linked into a supervisor.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		switch {
		case strings.HasPrefix(p, "google.golang.org/protobuf/encoding/protowire"),
			strings.HasPrefix(p, "google.golang.org/protobuf/internal/errors"),
			strings.HasPrefix(p, "google.golang.org/protobuf/internal/detrand"):
		case strings.HasPrefix(p, "google.golang.org/"), strings.HasPrefix(p, "net/http"), p == "regexp",
			strings.HasPrefix(p, "github.com/containerd/") && p != "github.com/containerd/errdefs":
			t.Errorf("%s is linked", p)
		}
	}
}

// FuzzClientFrames: whatever a server sends, every waiter hears of it.
func FuzzClientFrames(f *testing.F) {
	a := response{status: status{code: 5, text: "gone"}}
	b, _ := frame(kindResponse, &a)
	setStream(b, 1)
	f.Add(b)
	ok, _ := frame(kindResponse, &response{payload: encode(nil, &WaitResponse{ExitStatus: 1})})
	setStream(ok, 1)
	f.Add(ok)
	f.Add(append(ok, b...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, w := net.Pipe()
		c := newClient(r, "/s")
		defer c.Close()
		go func() {
			// The call first, so that there is a waiter.
			var buf [headerSize]byte
			h, err := readHeader(w, &buf)
			if err == nil {
				readBody(w, h.length)
			}
			w.Write(b)
			w.Close()
		}()
		got, err := c.Wait(context.Background(), &WaitRequest{ID: "x"})
		if (got == nil) == (err == nil) {
			t.Errorf("%v, %v", got, err)
		}
	})
}
