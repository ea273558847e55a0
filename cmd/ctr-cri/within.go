// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"os"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/cli/network"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/cri"
	"ctrd.dev/ctrd/lib/snapshot"
)

// within serves the state directory inside this process, to this process alone: no socket is made. The protocol in
// between costs a millisecond, and makes both kinds of runtime one.
func (o *options) within(_ context.Context, r *runtimeClient) (*grpc.ClientConn, error) {
	d, err := o.g.Open()
	if err != nil {
		return nil, err
	}
	conf, err := config.Load("")
	if err != nil {
		return nil, cli.Hint(err, "ctrd config check says all that is wrong")
	}
	conf.Snapshotter = cmp.Or(o.snapshotter, conf.Snapshotter)
	if _, err := snapshot.Named(conf.Snapshotter); err != nil {
		return nil, err
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		out, err := handle(ctx, in)
		return out, errgrpc.ToGRPC(err)
	}), grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		return errgrpc.ToGRPC(handle(srv, stream))
	}))
	cri.New(cri.Options{
		Dir: d, Version: cli.Version, Log: slog.New(slog.DiscardHandler), Config: func() *config.Config { return conf },
		Hosts: os.Getenv(network.EnvHosts), ReadyMadeNetwork: true,
	}).Register(s)
	l := bufconn.Listen(maxMessage)
	go s.Serve(l) // until Close
	conn, err := grpc.NewClient("passthrough:state", append(clientOptions(), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return l.DialContext(ctx)
	}))...)
	if err != nil {
		return nil, err
	}
	r.close = append(r.close, conn.Close, func() error { s.Stop(); return nil })
	return conn, nil
}
