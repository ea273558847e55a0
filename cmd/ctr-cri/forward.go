// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"

	"ctrd.dev/ctrd/lib/cli"
)

// The protocol of port-forwards: each connection has a stream for its data and one for what went wrong.
const (
	forwardProtocol = "portforward.k8s.io"
	headerPort      = "port"
	headerRequestID = "requestID"
)

// forwarded is a port of the pod and where it is reached here.
type forwarded struct{ local, remote uint16 }

// parseForward reads [LOCAL:]REMOTE; without LOCAL it is the same, and ":REMOTE" takes any that is free.
func parseForward(s string) (f forwarded, err error) {
	local, remote, both := strings.Cut(s, ":")
	if !both {
		remote = local
	}
	port := func(text string) (uint16, error) {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return 0, cli.Usagef("%q: %q is no port", s, text)
		}
		return uint16(n), nil
	}
	if f.remote, err = port(remote); err != nil || f.remote == 0 {
		return f, cli.Usagef("%q: %q is no port of a pod", s, remote)
	}
	if local != "" {
		f.local, err = port(local)
	}
	return f, err
}

func portForwardVerb(o *options) *cobra.Command {
	var flags streamFlags
	cmd := cli.New("port-forward [OPTION]... POD [LOCAL:]REMOTE...", "make ports of a pod reachable on this host", cli.About{
		Long: "Listens on each local port of the loopback interface and passes each connection on to the port of the pod, until the command " +
			"is ended. Without LOCAL both have the same number; with 0, or nothing before the colon, the local one is any that is free.",
		Stdout:   "a line for each port, once it can be reached",
		Examples: []cli.Example{{Note: "reach port 80 of a pod on port 8080", Text: "ctr-cri port-forward 3f1c2a9d04b7e 8080:80"}},
		Args:     cli.Count(2, -1), Complete: cli.InTurn(o.completePods), Exit: []int{cli.ExitNotFound},
	}, func(cmd *cobra.Command, args []string) error {
		var ports []forwarded
		for _, s := range args[1:] {
			f, err := parseForward(s)
			if err != nil {
				return err
			}
			ports = append(ports, f)
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			answer, err := r.PortForward(ctx, &runtime.PortForwardRequest{PodSandboxId: args[0]})
			if err != nil {
				return about("pod", args[0], err)
			}
			conn, err := flags.dial(ctx, answer.Url, forwardProtocol)
			if err != nil {
				return err
			}
			defer conn.Close()
			return forward(ctx, conn, ports)
		})
	})
	flags.add(cmd)
	return cmd
}

// forward passes connections on until ctx or the connection to the runtime ends.
func forward(ctx context.Context, conn httpstream.Connection, ports []forwarded) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var served sync.WaitGroup
	defer served.Wait()
	var requests atomic.Int64
	for _, p := range ports {
		// A port on both loopback addresses, where the host has IPv6.
		at := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p.local)))
		l, err := net.Listen("tcp", at)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", at, err)
		}
		defer l.Close()
		listeners := []net.Listener{l}
		port := l.Addr().(*net.TCPAddr).Port
		if l6, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(port))); err == nil {
			defer l6.Close()
			listeners = append(listeners, l6)
		}
		fmt.Printf("Forwarding from 127.0.0.1:%d -> %d\n", port, p.remote)
		for _, l := range listeners {
			served.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						if ctx.Err() == nil {
							cancel(fmt.Errorf("accept on %s: %w", l.Addr(), err))
						}
						return
					}
					served.Go(func() {
						stop := context.AfterFunc(ctx, func() { c.Close() })
						defer stop()
						if err := forwardOne(c, conn, p.remote, requests.Add(1)); err != nil && ctx.Err() == nil {
							cli.Warn(fmt.Errorf("port %d: %w", p.remote, err))
						}
					})
				}
			})
		}
		context.AfterFunc(ctx, func() {
			for _, l := range listeners {
				l.Close()
			}
		})
	}
	select {
	case <-ctx.Done():
	case <-conn.CloseChan():
		cancel(fmt.Errorf("the runtime has ended the connection: %w", errdefs.ErrUnavailable))
	}
	return context.Cause(ctx)
}

// forwardOne carries one connection.
func forwardOne(c net.Conn, conn httpstream.Connection, port uint16, request int64) error {
	defer c.Close()
	headers := func(kind string) http.Header {
		return http.Header{headerStreamType: {kind}, headerPort: {strconv.Itoa(int(port))}, headerRequestID: {strconv.FormatInt(request, 10)}}
	}
	failure, err := conn.CreateStream(headers("error"))
	if err != nil {
		return err
	}
	defer conn.RemoveStreams(failure)
	failure.Close() // nothing is said to the server
	data, err := conn.CreateStream(headers("data"))
	if err != nil {
		return err
	}
	defer conn.RemoveStreams(data)
	said := make(chan error, 1)
	go func() {
		text, err := io.ReadAll(io.LimitReader(failure, maxVerdict))
		if len(text) > 0 {
			err = errors.New(string(text))
		}
		said <- err
	}()
	answered := make(chan struct{})
	go func() {
		io.Copy(c, data) // its end is the server's, or that of the local side
		c.(*net.TCPConn).CloseWrite()
		close(answered)
	}()
	if _, err := io.Copy(data, c); err != nil {
		data.Reset()
	}
	data.Close()
	<-answered
	select {
	case err = <-said:
	case <-conn.CloseChan():
	}
	return err
}
