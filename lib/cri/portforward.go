// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/netns"
)

const (
	dialFor = 30 * time.Second
	// lingerFor is how long what a pod still sends is passed on after its client has stopped sending, and the reverse.
	lingerFor = time.Second
)

// PortForward answers where a client can reach ports of a pod, once.
func (r runtimeService) PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if req.GetPodSandboxId() == "" {
		return nil, fmt.Errorf("pod_sandbox_id: missing: %w", errdefs.ErrInvalidArgument)
	}
	for _, p := range req.GetPort() {
		if p < 1 || p > 65535 {
			return nil, fmt.Errorf("port: %d: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	if _, err := r.s.podNetwork(ctx, req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	id := req.GetPodSandboxId()
	network := func(ctx context.Context) (string, error) { return r.s.podNetwork(ctx, id) }
	url, err := r.s.streams.issue("portforward", forwarding{id, req.GetPort(), network})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PortForwardResponse{Url: url}, nil
}

// forwarding is what a client does with the ports of a pod.
type forwarding struct {
	pod     string
	ports   []int32                               // for clients that name no port themselves
	network func(context.Context) (string, error) // the path of its network namespace
}

// PortForward implements portforward.PortForwarder: it connects one stream to a port on the pod's loopback interface.
func (f forwarding) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	path, err := f.network(ctx)
	if err != nil {
		return err
	}
	conn, err := dialIn(ctx, path, int(port))
	if err != nil {
		return fmt.Errorf("port %d of pod %q: %w", port, f.pod, err)
	}
	defer conn.Close()
	return join(conn, stream)
}

// join passes on both ways until one side has ended and the other has had a moment to.
func join(conn *net.TCPConn, stream io.ReadWriter) error {
	ends := make(chan error, 2)
	go func() {
		_, err := io.Copy(stream, conn)
		ends <- err
	}()
	go func() {
		_, err := io.Copy(conn, stream)
		ends <- errors.Join(err, conn.CloseWrite())
	}()
	err := <-ends
	linger := time.NewTimer(lingerFor)
	defer linger.Stop()
	for {
		select {
		case e := <-ends:
			return ignoreEnd(errors.Join(err, e))
		case <-linger.C:
			return ignoreEnd(err)
		}
	}
}

// ignoreEnd passes over what tells only that the other side is gone.
func ignoreEnd(err error) error {
	for _, end := range []error{unix.EPIPE, unix.ECONNRESET, unix.ENOTCONN, net.ErrClosed, io.EOF, io.ErrClosedPipe} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}

// dialIn connects to a port on the loopback interface of a network namespace; an empty path is the host's. A socket belongs
// to the namespace in which it was made, whatever thread uses it later.
func dialIn(ctx context.Context, path string, port int) (conn *net.TCPConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialFor)
	defer cancel()
	dial := func() error {
		conn, err = dialLoopback(ctx, port)
		return err
	}
	if path == "" {
		return conn, dial()
	}
	return conn, netns.In(path, dial)
}

// dialLoopback tries IPv4, then IPv6. Each try is on the calling thread, as there is one address.
func dialLoopback(ctx context.Context, port int) (*net.TCPConn, error) {
	var errs []error
	for _, address := range []string{"127.0.0.1", "::1"} {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
