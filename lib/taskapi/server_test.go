// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestMain(m *testing.M) {
	if address := os.Getenv("TASKAPI_TEST_CALL"); address != "" {
		os.Exit(callOnce(address))
	}
	os.Exit(m.Run())
}

// callOnce is the test binary as another user: 0 when the call succeeded, 10
// when the connection was made but the call found nobody.
func callOnce(address string) int {
	c, err := Dial(context.Background(), address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 11
	}
	err = c.Pause(context.Background(), &PauseRequest{ID: "x"})
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errdefs.ErrUnavailable):
		return 10
	}
	fmt.Fprintln(os.Stderr, err)
	return 12
}

// helper is the test binary again, which calls address as uid.
func helper(t *testing.T, address string, uid uint32) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TASKAPI_TEST_CALL="+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, NoSetGroups: true}}
	cmd.Dir = "/"
	return cmd
}

// everybody lets every user reach the socket of address, so that nothing but
// the credentials keeps them out.
func everybody(t *testing.T, address string) {
	path := strings.TrimPrefix(address, "unix://")
	for p, mode := range map[string]os.FileMode{path: 0o666, filepath.Dir(path): 0o755, filepath.Dir(filepath.Dir(path)): 0o755} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	address := serve(t, fake(func(_ context.Context, _ string, q message) (message, error) {
		return nil, nil
	}))
	everybody(t, address)
	for uid, want := range map[uint32]int{0: 0, 65534: 10} {
		cmd := helper(t, address, uid)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("uid %d: exit %d, %v, %s", uid, code, err, out)
		}
	}
}

func TestTrusted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	address := "unix://" + filepath.Join(t.TempDir(), "s")
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	everybody(t, address)
	for _, uid := range []uint32{0, 65534} {
		cmd := helper(t, address, uid)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if !trusted(c, uid) {
			t.Errorf("uid %d does not trust itself", uid)
		}
		if trusted(c, 1) != (uid == 0) {
			t.Errorf("uid 1 trusts uid %d: %v", uid, uid != 0)
		}
		c.Close()
		cmd.Wait()
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if trusted(a, 0) {
		t.Error("a peer without credentials is trusted")
	}
}

// talk sends one frame on a new connection and gives the response to it.
func talk(t *testing.T, address string, kind, stream uint32, flags byte, body []byte) response {
	t.Helper()
	c, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return exchange(t, c, kind, stream, flags, body)
}

func exchange(t *testing.T, c net.Conn, kind, stream uint32, flags byte, body []byte) response {
	t.Helper()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, stream)
	b = append(b, byte(kind), flags)
	// The server may answer before it has read everything.
	go c.Write(append(b, body...))
	var buf [headerSize]byte
	h, err := readHeader(c, &buf)
	if err != nil {
		t.Fatal(err)
	}
	if h.stream != stream || h.kind != kindResponse || h.flags != 0 {
		t.Fatalf("header is %+v", h)
	}
	p, err := readBody(c, h.length)
	if err != nil {
		t.Fatal(err)
	}
	var a response
	if err := decode(p, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestProtocolErrors(t *testing.T) {
	address := serve(t, fake(func(context.Context, string, message) (message, error) { return nil, nil }))
	c, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	good := request{service: taskService, method: "Start"}
	bad := request{service: taskService, method: "Start", payload: []byte{0x0a}}
	// All on one connection: none of them costs it.
	for i, step := range []struct {
		kind, stream uint32
		flags        byte
		body         []byte
		want         error
	}{
		{kindRequest, 5, 0, encode(nil, &good), nil},
		{kindRequest, 5, 0, encode(nil, &good), errdefs.ErrInvalidArgument},
		{kindRequest, 3, 0, encode(nil, &good), errdefs.ErrInvalidArgument},
		{kindRequest, 8, 0, encode(nil, &good), errdefs.ErrInvalidArgument},
		{kindData, 9, 0, nil, errdefs.ErrInvalidArgument},
		{kindRequest, 9, 2, encode(nil, &good), errdefs.ErrNotImplemented},
		{kindRequest, 11, 0, []byte{0xff}, errdefs.ErrInvalidArgument},
		{kindRequest, 13, 0, encode(nil, &bad), errdefs.ErrInvalidArgument},
		{kindRequest, 15, 0, make([]byte, maxMessage+1), errdefs.ErrResourceExhausted},
		{kindRequest, 17, 0, encode(nil, &good), nil},
	} {
		a := exchange(t, c, step.kind, step.stream, step.flags, step.body)
		if err := a.status.err(); !errors.Is(err, step.want) {
			t.Errorf("step %d: %v, want %v", i, err, step.want)
		}
	}
}

func TestTimeoutEndsTheCall(t *testing.T) {
	address := serve(t, fake(func(ctx context.Context, _ string, _ message) (message, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	for _, timeout := range []int64{-1, 1, int64(10 * time.Millisecond)} {
		q := request{service: taskService, method: "Wait", timeout: timeout}
		a := talk(t, address, kindRequest, 1, 0, encode(nil, &q))
		if err := a.status.err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("timeout %d: %v", timeout, err)
		}
	}
}

func TestDroppedConnectionCancelsCalls(t *testing.T) {
	started, ended := make(chan struct{}), make(chan error)
	address := serve(t, fake(func(ctx context.Context, _ string, _ message) (message, error) {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, nil
	}))
	c := dial(t, address)
	result := make(chan error, 1)
	go func() {
		_, err := c.Wait(context.Background(), &WaitRequest{})
		result <- err
	}()
	<-started
	c.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("call's context: %v", err)
	}
	if err := <-result; !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("caller: %v", err)
	}
}

func TestShutdownIsAnswered(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "s")
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	waits := make(chan struct{})
	done := make(chan error)
	go func() {
		done <- Serve(ctx, l, fake(func(ctx context.Context, method string, _ message) (message, error) {
			if method == "Shutdown" {
				cancel()
				return nil, nil
			}
			close(waits)
			<-ctx.Done()
			return &WaitResponse{ExitStatus: 7}, nil
		}), nil)
	}()
	c := dial(t, address)
	idle := dial(t, address)
	result := make(chan *WaitResponse)
	go func() {
		r, err := c.Wait(context.Background(), &WaitRequest{})
		if err != nil {
			t.Error(err)
		}
		result <- r
	}()
	<-waits
	if err := c.Shutdown(t.Context(), &ShutdownRequest{Now: true}); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if r := <-result; r == nil || r.ExitStatus != 7 {
		t.Errorf("wait: %+v", r)
	}
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := idle.Pause(t.Context(), &PauseRequest{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("idle client: %v", err)
	}
	if _, err := os.Lstat(strings.TrimPrefix(address, "unix://")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket: %v", err)
	}
}

// TestShutdownDoesNotWaitForReaders: a client that is stopped does not keep
// the server from ending.
func TestShutdownDoesNotWaitForReaders(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "s")
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var once sync.Once
	asked := make(chan struct{})
	done := make(chan error)
	go func() {
		done <- Serve(ctx, l, fake(func(context.Context, string, message) (message, error) {
			once.Do(func() { close(asked) })
			return &StatsResponse{Stats: &Any{Value: make([]byte, 1<<20)}}, nil
		}), nil)
	}()
	c, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, _ := frame(kindRequest, &request{service: taskService, method: "Stats"})
	setStream(b, 1)
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	<-asked
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestServeWithoutListener(t *testing.T) {
	l, err := Listen("unix://" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, fake(nil), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve: %v", err)
	}
}

func TestTooManyCalls(t *testing.T) {
	release := make(chan struct{})
	address := serve(t, fake(func(context.Context, string, message) (message, error) {
		<-release
		return nil, nil
	}))
	c := dial(t, address)
	results := make(chan error)
	for range maxRunning + 1 {
		go func() { results <- c.Pause(context.Background(), &PauseRequest{}) }()
	}
	if err := <-results; !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("call above the limit: %v", err)
	}
	close(release)
	for range maxRunning {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestTooLongResponse(t *testing.T) {
	c := dial(t, serve(t, fake(func(context.Context, string, message) (message, error) {
		return &StatsResponse{Stats: &Any{Value: make([]byte, maxMessage)}}, nil
	})))
	if _, err := c.Stats(t.Context(), &StatsRequest{}); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("response: %v", err)
	}
	err := c.Exec(t.Context(), &ExecProcessRequest{Spec: &Any{Value: make([]byte, maxMessage)}})
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("request: %v", err)
	}
}

func TestIdleConnectionsAreSmall(t *testing.T) {
	address := serve(t, fake(func(context.Context, string, message) (message, error) {
		return &StatsResponse{Stats: &Any{Value: make([]byte, 1<<20)}}, nil
	}))
	use := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	const n = 200
	before := use()
	for range n {
		if _, err := dial(t, address).Stats(t.Context(), &StatsRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	// Both ends are in this process.
	each := (int64(use()) - int64(before)) / n
	t.Logf("%d bytes for both ends of an idle connection", each)
	if each > 32<<10 {
		t.Errorf("an idle connection holds %d bytes", each)
	}
}

func TestBodyOfALyingHeader(t *testing.T) {
	n := allocatedBy(func() {
		if b, err := readBody(bytes.NewReader(make([]byte, 10)), maxMessage); err != io.ErrUnexpectedEOF {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
	if n > 256<<10 {
		t.Errorf("%d bytes allocated", n)
	}
}

func TestBody(t *testing.T) {
	for _, n := range []int{0, 1, 64 << 10, 64<<10 + 1, 200_000, maxMessage} {
		want := make([]byte, n)
		for i := range want {
			want[i] = byte(i * 7 >> 3)
		}
		r := bytes.NewReader(append(want[:n:n], "next"...))
		if got, err := readBody(r, uint32(n)); err != nil || !bytes.Equal(got, want) || r.Len() != 4 {
			t.Errorf("%d: %d bytes, %v, %d left", n, len(got), err, r.Len())
		}
	}
}

// stream is a connection that gives what it has, then ends.
type stream struct {
	net.Conn
	io.Reader
	mu  sync.Mutex
	out bytes.Buffer
}

func (s *stream) Read(b []byte) (int, error) { return s.Reader.Read(b) }
func (s *stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}
func (s *stream) Close() error                     { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

func FuzzServerFrames(f *testing.F) {
	for _, q := range []request{
		{service: taskService, method: "Kill", payload: encode(nil, &KillRequest{ID: "x", Signal: 9})},
		{service: taskService, method: "Wait", timeout: 1},
		{service: oldTaskService, method: "Create", payload: encode(nil, &CreateTaskRequest{ID: "x", Rootfs: []Mount{{}}})},
		{service: sandboxService, method: "CreateSandbox", payload: encode(nil, &CreateSandboxRequest{SandboxID: "x", Annotations: map[string]string{"a": "b"}})},
		{service: "other", method: "Wait"},
	} {
		b, _ := frame(kindRequest, &q)
		setStream(b, 1)
		f.Add(b)
		f.Add(append(b, b...))
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &stream{Reader: bytes.NewReader(b)}
		n := allocatedBy(func() {
			nothing := func(context.Context, string, message) (message, error) { return nil, nil }
			serveConn(t.Context(), s, fake(nothing), sandboxFake(nothing))
		})
		if n > uint64(512*len(b)+(1<<20)) {
			t.Errorf("%d bytes allocated for %d", n, len(b))
		}
		// Whatever came, what went back is whole responses.
		var buf [headerSize]byte
		for s.out.Len() > 0 {
			h, err := readHeader(&s.out, &buf)
			if err != nil || h.kind != kindResponse {
				t.Fatalf("%+v, %v", h, err)
			}
			p, err := readBody(&s.out, h.length)
			if err != nil {
				t.Fatal(err)
			}
			if err := decode(p, new(response)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
