// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
)

// envEndpoint is what crictl calls it.
const envEndpoint = "CONTAINER_RUNTIME_ENDPOINT"

// options are those that all verbs have.
type options struct {
	g                            *cli.Global
	endpoint, image, snapshotter string
}

func (o *options) add(root *cobra.Command) {
	env := os.Getenv(envEndpoint)
	root.PersistentFlags().StringVar(&o.endpoint, "endpoint", env, "ask the CRI runtime that listens on `ADDRESS`, a path or unix://PATH, instead of the state directory")
	root.PersistentFlags().Lookup("endpoint").DefValue = ""
	// Before the verb crictl's own names are understood too; behind it -r and -i are the verb's.
	root.TraverseChildren = true
	cli.SnapshotterFlag(root, root.PersistentFlags(), &o.snapshotter)
	f := root.Flags()
	f.StringVarP(&o.endpoint, "runtime-endpoint", "r", env, "the same as --endpoint, before the verb")
	f.StringVarP(&o.image, "image-endpoint", "i", "", "ask the runtime on `ADDRESS` for images, before the verb (default: --endpoint)")
	f.Lookup("runtime-endpoint").DefValue = ""
}

// runtimeClient is a CRI runtime: the state directory, served within this process, or whoever listens on a socket.
type runtimeClient struct {
	runtime.RuntimeServiceClient
	runtime.ImageServiceClient
	close []func() error
}

// Close ends the connection.
func (r *runtimeClient) Close() {
	for _, fn := range r.close {
		fn()
	}
}

// connect gives the runtime that the options name.
func (o *options) connect(ctx context.Context) (*runtimeClient, error) {
	r := &runtimeClient{}
	conn, err := o.dial(ctx, r, o.endpoint)
	if err != nil {
		return nil, err
	}
	r.RuntimeServiceClient, r.ImageServiceClient = runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn)
	if o.image != "" && o.image != o.endpoint {
		if conn, err = o.dial(ctx, r, o.image); err != nil {
			r.Close()
			return nil, err
		}
		r.ImageServiceClient = runtime.NewImageServiceClient(conn)
	}
	return r, nil
}

// maxMessage bounds an answer: lists of a node full of pods are longer than gRPC's own bound.
const maxMessage = 64 << 20

func (o *options) dial(ctx context.Context, r *runtimeClient, endpoint string) (*grpc.ClientConn, error) {
	if endpoint == "" {
		return o.within(ctx, r)
	}
	path, err := socket(endpoint)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, cli.Hint(fmt.Errorf("endpoint %q: %w: %w", endpoint, err, errdefs.ErrNotFound), "without --endpoint (and %s) the state directory is used", envEndpoint)
	}
	conn, err := grpc.NewClient("unix:"+path, clientOptions()...)
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	r.close = append(r.close, conn.Close)
	return conn, nil
}

func clientOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return plain(invoke(ctx, method, in, out, conn, opts...))
		}),
	}
}

// plain gives an answer's error the kind that its code stands for.
func plain(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToNative(err)
}

// socket is the path of an endpoint.
func socket(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if strings.Contains(path, "://") {
		return "", cli.Usagef("--endpoint: %q is no unix socket: give unix:///PATH", endpoint)
	}
	return filepath.Abs(path)
}

// about has an error say what was tried on what, unless the runtime has begun it with that already.
func about(tried, on string, err error) error {
	if strings.HasPrefix(err.Error(), tried+" \"") {
		return err
	}
	return fmt.Errorf("%s %q: %w", tried, on, err)
}
