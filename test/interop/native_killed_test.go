// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	apitypes "github.com/containerd/containerd/api/types"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/dialer"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"ctrd.dev/ctrd/test/world"
)

// activated is a world whose socket a process of nobody's keeps, as systemd does: ctrd is started with it, killed, and
// started again.
type activated struct {
	*world.World
	socket string
	kills  atomic.Int64
	stop   func()
}

// killEvery is how long a server lives.
const killEvery = 200 * time.Millisecond

// activate keeps ctrd on a socket, and kills it again and again until stop is called.
func activate(t *testing.T) *activated {
	t.Helper()
	a := &activated{World: world.New(t, bin)}
	a.socket = filepath.Join(a.Dir, "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(a.Dir, "ctrd.log"))
	if err != nil {
		t.Fatal(err)
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			cmd := a.Command(context.Background(), []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=native", "PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin"},
				"/bin/sh", "-c", "LISTEN_PID=$$ exec "+filepath.Join(bin, "ctrd")+" serve --idle-timeout 0 --log-level warn")
			cmd.ExtraFiles, cmd.Stderr = []*os.File{file}, log
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-end:
			case <-time.After(killEvery):
			}
			cmd.Process.Kill()
			cmd.Wait()
			a.kills.Add(1)
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	a.stop = sync.OnceFunc(func() {
		close(end)
		<-ended
	})
	t.Cleanup(func() {
		a.stop()
		file.Close()
		l.Close()
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("ctrd: %s", text[max(0, len(text)-8000):])
		}
	})
	return a
}

// connect makes a client that connects again at once. By itself gRPC waits longer after each connection that breaks before the
// server has spoken, as those to a server that is killed early do: up to 3 s in containerd's client.
func (a *activated) connect() (*containerd.Client, error) { return connect(a.socket) }

func connect(socket string) (*containerd.Client, error) {
	return containerd.New(socket, containerd.WithTimeout(time.Second), containerd.WithDialOpts([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dialer.ContextDialer),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: killEvery / 2}}),
	}))
}

// stubborn is a client that asks again when the server is gone, as a sane one does.
type stubborn struct {
	*containerd.Client
	ctx     context.Context
	patient time.Duration // for one answer
	longest time.Duration // that one answer took
	asked   int
	took    map[string]time.Duration // the longest answer, by what was asked
}

// do calls until there is an answer. An answer that the call before may have brought about is fine too.
func (s *stubborn) do(what string, call func(context.Context) error, too ...error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, s.patient)
	defer cancel()
	for again := false; ; again = true {
		s.asked++
		err := call(ctx)
		if _, ok := grpcstatus.FromError(err); ok {
			err = errgrpc.ToNative(err)
		}
		s.longest = max(s.longest, time.Since(began))
		s.took[what] = max(s.took[what], time.Since(began))
		if err == nil {
			return nil
		}
		for _, t := range too {
			if again && errors.Is(err, t) {
				return nil
			}
		}
		if !errdefs.IsUnavailable(err) || ctx.Err() != nil {
			return fmt.Errorf("%s, after %s: %w", what, time.Since(began).Round(time.Millisecond), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// life runs one container, with a process beside its own, and wants to hear the truth.
func (s *stubborn) life(id string, code uint32, parent string) error {
	spec := &specs.Spec{}
	var rootfs []*apitypes.Mount
	api := s.TaskService()
	snapshotter := s.SnapshotService("overlayfs")
	// The container is first: it keeps the snapshot, which a collection takes otherwise.
	if err := s.do("container", func(ctx context.Context) error {
		c := containers.Container{ID: id, Snapshotter: "overlayfs", SnapshotKey: id, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}}
		made, err := oci.GenerateSpec(ctx, s.Client, &c, oci.WithDefaultPathEnv, oci.WithProcessArgs("sh", "-c", "while ! test -e /end; do sleep 0.05; done; exit "+fmt.Sprint(code)))
		if err != nil {
			return err
		}
		*spec = *made
		if c.Spec, err = typeurl.MarshalAny(spec); err != nil {
			return err
		}
		_, err = s.ContainerService().Create(ctx, c)
		return err
	}, errdefs.ErrAlreadyExists); err != nil {
		return err
	}
	if err := s.do("snapshot", func(ctx context.Context) error {
		_, err := snapshotter.Prepare(ctx, id, parent)
		return err
	}, errdefs.ErrAlreadyExists); err != nil {
		return err
	}
	if err := s.do("mounts", func(ctx context.Context) error {
		mounts, err := snapshotter.Mounts(ctx, id)
		rootfs = mount.ToProto(mounts)
		return err
	}); err != nil {
		return err
	}
	if err := s.do("create", func(ctx context.Context) error {
		_, err := api.Create(ctx, &tasks.CreateTaskRequest{ContainerID: id, Rootfs: rootfs})
		return err
	}, errdefs.ErrAlreadyExists); err != nil {
		return err
	}
	if err := s.do("start", func(ctx context.Context) error {
		_, err := api.Start(ctx, &tasks.StartRequest{ContainerID: id})
		return err
	}, errdefs.ErrFailedPrecondition); err != nil {
		return err
	}
	process := *spec.Process
	process.Args = []string{"sh", "-c", "(sleep 0.2; touch /end) & exit " + fmt.Sprint(code+1)}
	exec, err := typeurl.MarshalAnyToProto(&process)
	if err != nil {
		return err
	}
	if err := s.do("exec", func(ctx context.Context) error {
		_, err := api.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: id, ExecID: "e", Spec: exec})
		return err
	}, errdefs.ErrAlreadyExists); err != nil {
		return err
	}
	if err := s.do("start of the exec", func(ctx context.Context) error {
		_, err := api.Start(ctx, &tasks.StartRequest{ContainerID: id, ExecID: "e"})
		return err
	}, errdefs.ErrFailedPrecondition); err != nil {
		return err
	}
	for _, p := range []struct {
		exec string
		want uint32
	}{{"e", code + 1}, {"", code}} {
		if err := s.do("wait for "+strconv.Quote(p.exec), func(ctx context.Context) error {
			r, err := api.Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: p.exec})
			if err == nil && r.ExitStatus != p.want {
				return fmt.Errorf("it ended with %d, want %d", r.ExitStatus, p.want)
			}
			return err
		}); err != nil {
			return err
		}
	}
	if err := s.do("delete", func(ctx context.Context) error {
		r, err := api.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		if err == nil && r.ExitStatus != code {
			return fmt.Errorf("the deleted task ended with %d, want %d", r.ExitStatus, code)
		}
		return err
	}, errdefs.ErrNotFound); err != nil {
		return err
	}
	if err := s.do("delete of the container", func(ctx context.Context) error { return s.ContainerService().Delete(ctx, id) }, errdefs.ErrNotFound); err != nil {
		return err
	}
	return s.do("removal of the snapshot", func(ctx context.Context) error {
		err := snapshotter.Remove(ctx, id)
		if errdefs.IsNotFound(err) {
			return nil // a collection came first: nothing refers to it any more
		}
		return err
	})
}

// killedLoad says how many clients there are, and for how long.
func killedLoad() (clients, seconds int) {
	clients, seconds = 4, 10
	for name, n := range map[string]*int{"CTRD_KILL_CLIENTS": &clients, "CTRD_KILL_SECONDS": &seconds} {
		if given, err := strconv.Atoi(os.Getenv(name)); err == nil {
			*n = given
		}
	}
	return clients, seconds
}

// chainOf gives the name of the snapshot of the image's layers.
func chainOf(s *stubborn) (parent string, err error) {
	err = s.do("image", func(ctx context.Context) error {
		image, err := s.GetImage(ctx, busybox)
		if err != nil {
			return err
		}
		layers, err := image.RootFS(ctx)
		parent = identity.ChainID(layers).String()
		return err
	})
	return parent, err
}

// TestNativeKilledAgain: clients run containers on a server that is killed before it is warm, and each hears the truth.
// CTRD_KILL_CLIENTS and CTRD_KILL_SECONDS make it as long as you like.
func TestNativeKilledAgain(t *testing.T) {
	clients, seconds := killedLoad()
	a := activate(t)
	a.Must(t, "ctr-pull", "-q", busybox)
	first, err := a.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	parent, err := chainOf(&stubborn{Client: first, ctx: in("default"), patient: time.Minute, took: map[string]time.Duration{}})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var lives, asked atomic.Int64
	var longest atomic.Int64
	var mu sync.Mutex
	took := map[string]time.Duration{}
	until := time.Now().Add(time.Duration(seconds) * time.Second)
	for i := range clients {
		group.Go(func() {
			c, err := a.connect()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			s := &stubborn{Client: c, ctx: in("default"), patient: 2 * time.Minute, took: map[string]time.Duration{}}
			for n := 0; time.Now().Before(until) || n == 0; n++ {
				id := fmt.Sprintf("c%d-%d", i, n)
				if err := s.life(id, uint32(10+i%100), parent); err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				lives.Add(1)
			}
			asked.Add(int64(s.asked))
			mu.Lock()
			defer mu.Unlock()
			for what, d := range s.took {
				took[what] = max(took[what], d.Round(time.Millisecond))
			}
			for was := longest.Load(); int64(s.longest) > was && !longest.CompareAndSwap(was, int64(s.longest)); was = longest.Load() {
			}
		})
	}
	group.Wait()
	a.stop()
	t.Logf("%d kills, %d clients, %d lives of containers, %d calls, of which the longest was answered after %s", a.kills.Load(), clients, lives.Load(), asked.Load(), time.Duration(longest.Load()).Round(time.Millisecond))
	t.Logf("the longest waits: %v", took)
	for _, list := range [][]string{{"ctr-task", "ls", "-q"}, {"ctr-snap", "ls", "-q", "--kind", "active"}} {
		if out := a.Must(t, list...); out != "" && !t.Failed() {
			t.Errorf("%s: %s", list, out)
		}
	}
	a.Whole(t)
	a.Must(t, "ctrd", "gc")
	a.Settle(t)
}
