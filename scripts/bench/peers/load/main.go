// SPDX-License-Identifier: Apache-2.0

// Command load puts a load on a server of containerd's API and prints how long it took, in microseconds.
//
//	load SOCKET NAMESPACE writes N          N blobs of 1 KiB, written by 8 at once: the time that all took
//	load SOCKET NAMESPACE fill N            makes N containers, and prints nothing
//	load SOCKET NAMESPACE list N            the time of each of N lists of all containers
//	load SOCKET NAMESPACE mixed SECONDS     500 calls a second, of which 50 change a record: "read" or "commit" and the time of each
//	load SOCKET NAMESPACE events N          N events, published by 4 at once, until a subscriber has them: the time that all took
//	load SOCKET - start COMMAND...          starts a server: the time until it has answered its first call
//	load SOCKET - activate COMMAND...       the same of one that is given the socket, as systemd does
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"
	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 4 {
		return errors.New("want a socket, a namespace, a load and its size")
	}
	socket, ns, what, rest := args[0], args[1], args[2], args[3:]
	switch what {
	case "start":
		return begin(socket, rest, nil)
	case "activate":
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			return err
		}
		defer l.Close()
		return begin(socket, rest, l)
	}
	n, err := strconv.Atoi(rest[0])
	if err != nil {
		return err
	}
	c, err := containerd.New(socket, containerd.WithTimeout(10*time.Second))
	if err != nil {
		return err
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(context.Background(), ns)
	switch what {
	case "writes":
		return writes(ctx, c, n)
	case "fill":
		return fill(ctx, c, n)
	case "list":
		return list(ctx, c, n)
	case "mixed":
		return mixed(ctx, c, time.Duration(n)*time.Second)
	case "events":
		return publish(ctx, c, n)
	}
	return fmt.Errorf("there is no load %q", what)
}

func took(begin time.Time) { fmt.Println(time.Since(begin).Microseconds()) }

// share calls fn with 0 to n-1 in so many goroutines, and gives the first error.
func share(n, workers int, fn func(i int) error) error {
	next := make(chan int)
	failed := make(chan error, workers)
	for range workers {
		go func() {
			var err error
			for i := range next {
				if err == nil {
					err = fn(i)
				}
			}
			failed <- err
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	var first error
	for range workers {
		first = errors.Join(first, <-failed)
	}
	return first
}

func writes(ctx context.Context, c *containerd.Client, n int) error {
	run := time.Now().UnixNano() // no blob is written twice
	store := c.ContentStore()
	begin := time.Now()
	err := share(n, 8, func(i int) error {
		data := make([]byte, 1024)
		copy(data, fmt.Sprintf("%d %d", run, i))
		desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
		w, err := store.Writer(ctx, content.WithRef(fmt.Sprintf("load-%d-%d", run, i)), content.WithDescriptor(desc))
		if err != nil {
			return err
		}
		defer w.Close()
		if _, err := w.Write(data); err != nil {
			return err
		}
		return w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(map[string]string{"containerd.io/gc.root": "load"}))
	})
	if err == nil {
		took(begin)
	}
	return err
}

// spec is of the size that a usual OCI spec has.
func spec() *anypb.Any {
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: fmt.Appendf(nil, `{"ociVersion":"1.3.0","annotations":{"load":"%05000d"}}`, 0)}
}

func fill(ctx context.Context, c *containerd.Client, n int) error {
	return share(n, 8, func(i int) error {
		_, err := c.ContainerService().Create(ctx, containers.Container{
			ID: fmt.Sprintf("load-%d", i), Image: "example.com/load:1", Labels: map[string]string{"load": strconv.Itoa(i)},
			Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}, Spec: spec(),
		})
		return err
	})
}

func list(ctx context.Context, c *containerd.Client, n int) error {
	want := 0
	for range n {
		begin := time.Now()
		all, err := c.ContainerService().List(ctx)
		if err != nil {
			return err
		}
		took(begin)
		if want == 0 {
			want = len(all)
		}
		if len(all) != want || want == 0 {
			return fmt.Errorf("%d containers in a list, %d in the first", len(all), want)
		}
	}
	return nil
}

// mixed makes a call every 2 ms, whether or not the ones before have been answered; every tenth commits. The time of a call is
// from when it was due. The containers are those of fill.
func mixed(ctx context.Context, c *containerd.Client, long time.Duration) error {
	conn := c.Conn().(*grpc.ClientConn)
	box, img, lease := containersapi.NewContainersClient(conn), imagesapi.NewImagesClient(conn), leasesapi.NewLeasesClient(conn)
	labels := &fieldmaskpb.FieldMask{Paths: []string{"labels.mixed"}}
	calls := int(long / (2 * time.Millisecond))
	times, failed := make([]time.Duration, calls), make([]error, calls)
	call := func(i int) (err error) {
		id := fmt.Sprintf("load-%d", i%1000)
		switch {
		case i%20 == 0:
			_, err = box.Update(ctx, &containersapi.UpdateContainerRequest{UpdateMask: labels, Container: &containersapi.Container{ID: id, Labels: map[string]string{"mixed": strconv.Itoa(i)}}})
		case i%10 == 0:
			_, err = lease.Create(ctx, &leasesapi.CreateRequest{ID: fmt.Sprintf("load-%d-%d", os.Getpid(), i)})
		case i%10 < 5:
			_, err = box.Get(ctx, &containersapi.GetContainerRequest{ID: id})
		case i%10 < 7:
			_, err = img.List(ctx, &imagesapi.ListImagesRequest{})
		case i%10 < 9:
			_, err = c.ContentStore().Status(ctx, "load-absent")
			err = nil // there is none, which is an answer
		default:
			_, err = c.NamespaceService().Labels(ctx, "load")
		}
		return err
	}
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range calls {
		due := begin.Add(time.Duration(i) * 2 * time.Millisecond)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			failed[i] = call(i)
			times[i] = time.Since(due)
		})
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	for i, d := range times {
		kind := "read"
		if i%10 == 0 {
			kind = "commit"
		}
		fmt.Println(kind, d.Microseconds())
	}
	return nil
}

func publish(ctx context.Context, c *containerd.Client, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	got, failed := c.EventService().Subscribe(ctx, `topic~="/load"`)
	// A subscription has begun when it tells the first event.
	for begun := false; !begun; {
		if err := c.EventService().Publish(ctx, "/load/first", &events.NamespaceCreate{Name: "first"}); err != nil {
			return err
		}
		select {
		case <-got:
			begun = true
		case err := <-failed:
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
	begin := time.Now()
	sent := make(chan error, 1)
	go func() {
		sent <- share(n, 4, func(i int) error {
			return c.EventService().Publish(ctx, "/load/event", &events.NamespaceCreate{Name: strconv.Itoa(i)})
		})
	}()
	for had := 0; had < n; {
		select {
		case e := <-got:
			if e.Topic == "/load/event" {
				had++
			}
		case err := <-failed:
			return fmt.Errorf("after %d events: %w", had, err)
		case <-time.After(30 * time.Second):
			return fmt.Errorf("%d of %d events have come", had, n)
		}
	}
	took(begin)
	return <-sent
}

// begin starts a server, has it answer a call, and ends it.
func begin(socket string, args []string, given *net.UnixListener) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if given != nil {
		f, err := given.File()
		if err != nil {
			return err
		}
		defer f.Close()
		// The shell becomes the server, and so knows its pid.
		cmd = exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, args...)...)
		cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{f}
		cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES=native")
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	err := answered(socket)
	if err == nil {
		took(begin)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	_, e := cmd.Process.Wait()
	return errors.Join(err, e)
}

// answered waits until a server answers on the socket.
func answered(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			break
		}
		if ctx.Err() != nil {
			return err
		}
		time.Sleep(200 * time.Microsecond)
	}
	conn, err := containerd.New(socket, containerd.WithTimeout(30*time.Second))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = versionapi.NewVersionClient(conn.Conn().(*grpc.ClientConn)).Version(ctx, &emptypb.Empty{})
	return err
}
