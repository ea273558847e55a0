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
	// answerFor is how long what a pod still sends is passed on after its client has stopped sending. It is bounded, since kubectl does
	// the same when it has nobody any more who reads.
	answerFor = 30 * time.Second
	// lingerFor is how long what a client still sends is passed on after the pod has stopped sending.
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
	id, _, err := r.s.podNetwork(ctx, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	network := func(ctx context.Context) (path string, err error) {
		_, path, err = r.s.podNetwork(ctx, id)
		return path, err
	}
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

// forwarder is a forwarding as the streaming library wants it, which gives each stream a context that never ends.
type forwarder struct {
	forwarding
	client context.Context // ends when the client is gone
}

// PortForward implements portforward.PortForwarder: it connects one stream to a port on the pod's loopback interface.
func (f forwarder) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	path, err := f.network(f.client)
	if err != nil {
		return err
	}
	conn, err := dialIn(f.client, path, int(port))
	if err != nil {
		return fmt.Errorf("port %d of pod %q: %w", port, f.pod, err)
	}
	defer conn.Close()
	return join(f.client, conn, stream)
}

// join passes on both ways until one side has ended and the other has had a while to, or the client is gone.
func join(client context.Context, conn *net.TCPConn, stream io.ReadWriter) error {
	answered, said := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(stream, conn)
		answered <- err
	}()
	go func() {
		_, err := io.Copy(conn, stream)
		said <- errors.Join(err, conn.CloseWrite())
	}()
	var err error
	other, while := said, lingerFor
	select {
	case err = <-answered:
	case err = <-said:
		other, while = answered, answerFor
	case <-client.Done():
		return nil
	}
	select {
	case e := <-other:
		err = errors.Join(err, e)
	case <-time.After(while):
	case <-client.Done():
	}
	return ignoreEnd(err)
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
