// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/native"
)

// bytesCodec sends bytes as they are, in place of an encoded message.
type bytesCodec struct{}

// Marshal implements encoding.Codec.
func (bytesCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

// Unmarshal implements encoding.Codec.
func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = slices.Clone(data)
	return nil
}

// Name implements encoding.Codec.
func (bytesCodec) Name() string { return "proto" }

// methods lists all that the CRI has, by full name.
func methods() (all []string) {
	for _, d := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, m := range d.Methods {
			all = append(all, "/"+d.ServiceName+"/"+m.MethodName)
		}
		for _, m := range d.Streams {
			all = append(all, "/"+d.ServiceName+"/"+m.StreamName)
		}
	}
	return all
}

// socket serves a world on a socket, as ctrd serve does, and gives a client of it.
func (w *world) socket(t testing.TB) *grpc.ClientConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri") // the path of a socket is to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	s := native.Bare(native.Options{Dir: w.d, Log: w.Server.log, Config: config.Default, Also: w.Register})
	go s.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Stop(ctx)
		for end := time.Now().Add(time.Minute); s.Idle() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a handler does not return") // it writes into the directory of the test
			}
		}
	})
	c, err := grpc.NewClient("unix://"+filepath.Join(dir, "s"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// lonely makes a world that no other registry is asked in, whatever an image is called.
func lonely(t testing.TB) *world {
	t.Helper()
	hosts := t.TempDir()
	w := newWorld(t, Options{Hosts: hosts})
	err := os.Mkdir(filepath.Join(hosts, "_default"), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(hosts, "_default", "hosts.toml"), []byte("server = \"http://"+w.host+"\"\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// answered sends bytes as the request of a method and wants an answer that tells the client why, if it is a refusal. There is
// neither a pod nor an image, and no supervisor that could be started: whatever was asked for, nothing is left of it.
func (w *world) answered(t *testing.T, c *grpc.ClientConn, method string, data []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(bytesCodec{}))
	if err == nil {
		err = stream.SendMsg(data)
	}
	if err == nil || errors.Is(err, io.EOF) {
		stream.CloseSend()
		if strings.HasSuffix(method, "/GetContainerEvents") { // it ends when its client does
			time.AfterFunc(10*time.Millisecond, cancel)
		}
		var answer []byte
		for err = stream.RecvMsg(&answer); err == nil; {
			err = stream.RecvMsg(&answer)
		}
	}
	switch code := grpcstatus.Code(err); {
	case errors.Is(err, io.EOF), code == codes.Canceled:
	case code == codes.Internal && strings.Contains(err.Error(), "unmarshal"): // gRPC's own answer to what is no message
	case code == codes.InvalidArgument, code == codes.NotFound, code == codes.FailedPrecondition, code == codes.Unimplemented:
	case strings.HasSuffix(method, "/PullImage") && code == codes.Unauthenticated:
	default:
		t.Errorf("%s: %q: %v", method, data, err)
	}
	if pods, err := w.pods().List(t.Context()); err != nil || len(pods) > 0 {
		t.Errorf("%s: %q: left are the pods %v, %v", method, data, pods, err)
	}
	if left, _ := filepath.Glob(w.d.Run("pods", "*", "*")); len(left) > 0 {
		t.Errorf("%s: %q: left are %q", method, data, left)
	}
	if w.streams.base != "" {
		t.Error("a port is open")
	}
}

// TestMethodsAnswer: each method answers a message of nothing and one that is no message.
func TestMethodsAnswer(t *testing.T) {
	w := lonely(t)
	c := w.socket(t)
	for _, m := range methods() {
		for _, data := range [][]byte{nil, {0xff}, {0x0a, 0x03, 'a', '/', 'b'}, {0x0a, 0x02, '.', '.'}, {0x0a, 0x01, 0}} {
			w.answered(t, c, m, data)
		}
	}
}

// FuzzMethods sends bytes as the request of each method of the CRI.
func FuzzMethods(f *testing.F) {
	w := lonely(f)
	c := w.socket(f)
	all := methods()
	for i := range all {
		f.Add(uint(i), []byte(nil))
		f.Add(uint(i), []byte("\x0a\x04name\x12\x04name"))
	}
	pod := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: "n"}, Hostname: "h", LogDirectory: "/tmp/x",
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"x"}, Options: []string{"ndots:5"}},
		PortMappings: []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 80, HostIp: "::1"}},
		Annotations:  map[string]string{"kubernetes.io/ingress-bandwidth": "1M"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: "/a/b.slice", Sysctls: map[string]string{"net.core.somaxconn": "1"}, Overhead: &runtimeapi.LinuxContainerResources{CpuQuota: -1},
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
				Network: runtimeapi.NamespaceMode_NODE, UsernsOptions: &runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 1, Length: 1}}},
			}},
		},
	}
	container := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "a"}, Envs: []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b")}},
		Mounts: []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: "/b", Propagation: 1}}, Devices: []*runtimeapi.Device{{HostPath: "/dev/null", Permissions: "rwm"}},
		LogPath: "a", Linux: &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{CpusetCpus: "0-1"}},
	}
	plain := proto.Clone(pod).(*runtimeapi.PodSandboxConfig)
	plain.Linux = &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/a/b"}
	for name, m := range map[string]proto.Message{
		"RunPodSandbox":             &runtimeapi.RunPodSandboxRequest{Config: pod},
		"StopPodSandbox":            &runtimeapi.StopPodSandboxRequest{PodSandboxId: "a"},
		"CreateContainer":           &runtimeapi.CreateContainerRequest{PodSandboxId: "a", Config: container, SandboxConfig: pod},
		"UpdateContainerResources":  &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "a", Linux: &runtimeapi.LinuxContainerResources{CpuPeriod: -1}},
		"UpdatePodSandboxResources": &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "a", Resources: &runtimeapi.LinuxContainerResources{CpuPeriod: -1}},
		"ExecSync":                  &runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"x"}, Timeout: 1},
		"Attach":                    &runtimeapi.AttachRequest{ContainerId: "a", Stdin: true, Tty: true},
		"PortForward":               &runtimeapi.PortForwardRequest{PodSandboxId: "a", Port: []int32{80, -1}},
		"ImageStatus":               &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "a@sha256:b", RuntimeHandler: "x"}, Verbose: true},
		"PullImage":                 &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "a:b"}, Auth: &runtimeapi.AuthConfig{Auth: "eDp5"}, SandboxConfig: pod},
		"UpdateRuntimeConfig":       podCIDR("10.0.0.0/8,x"),
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		at := slices.IndexFunc(all, func(full string) bool { return strings.HasSuffix(full, "/"+name) })
		f.Add(uint(at), data)
	}
	data, err := proto.Marshal(&runtimeapi.RunPodSandboxRequest{Config: plain})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint(slices.Index(all, "/runtime.v1.RuntimeService/RunPodSandbox")), data)
	f.Fuzz(func(t *testing.T, i uint, data []byte) { w.answered(t, c, all[i%uint(len(all))], data) })
}
