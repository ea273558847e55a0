// SPDX-License-Identifier: Apache-2.0

// Package cri_test is a client of the CRI, as the kubelet is: over gRPC, of a real ctrd serve, with images of a real registry.
package cri_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/test/world"
)

var site world.Site

func TestMain(m *testing.M) {
	os.Exit(world.Main(m, func(s world.Site) error {
		site = s
		return nil
	}))
}

// host is a ctrd serve with a state directory of its own, and a client of it.
type host struct {
	*world.World
	runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient
	ctx    context.Context
	logs   string // log directory of its pods

	serve *exec.Cmd
	start func(t *testing.T) *exec.Cmd
}

// kill kills ctrd, and starts another one in its place.
func (h *host) kill(t *testing.T) {
	t.Helper()
	h.serve.Process.Kill()
	h.serve.Wait()
	h.serve = h.start(t)
	// The connection may not have noticed yet, and its next call would fail.
	ctx, cancel := context.WithTimeout(t.Context(), world.Patience)
	defer cancel()
	if _, err := again(ctx, func() (*runtimeapi.VersionResponse, error) {
		return h.Version(ctx, &runtimeapi.VersionRequest{})
	}); err != nil {
		t.Error(err)
	}
}

// network is the network of the pods: an interface of the host for each, which is gone with the pod.
const network = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
	{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.219.64.0/22"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// newHost starts one. It ends with the test, which must have removed its pods by then.
func newHost(t *testing.T) *host {
	t.Helper()
	return newHostWith(t, "")
}

// newHostWith is newHost with the text of a configuration.
func newHostWith(t *testing.T, conf string) *host {
	t.Helper()
	return newHostOf(t, site.Bin, conf)
}

// newHostOf is newHostWith with the commands of a directory.
func newHostOf(t *testing.T, bin, conf string) *host {
	t.Helper()
	w := world.New(t, bin)
	file := filepath.Join(w.Dir, "config.toml")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*world.Patience)
	t.Cleanup(cancel)
	nets := filepath.Join(w.Dir, "nets")
	if err := os.Mkdir(nets, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(nets, "10-pods.conflist"), fmt.Appendf(nil, network, filepath.Join(w.Dir, "addresses")), 0o644); err != nil {
		t.Fatal(err)
	}
	logFile, err := os.Create(filepath.Join(w.Dir, "ctrd.log"))
	if err != nil {
		t.Fatal(err)
	}
	start := func(t *testing.T) *exec.Cmd {
		serve := w.Command(context.Background(), []string{"NETCONFPATH=" + nets}, "ctrd", "serve", "--config", file)
		serve.Stderr = logFile
		if err := serve.Start(); err != nil {
			t.Fatal(err)
		}
		return serve
	}
	h := &host{World: w, ctx: ctx, logs: filepath.Join(w.Dir, "logs"), serve: start(t), start: start}
	t.Cleanup(func() {
		h.serve.Process.Signal(syscall.SIGTERM)
		h.serve.Wait()
		logFile.Close()
		if text, _ := os.ReadFile(logFile.Name()); t.Failed() {
			t.Logf("ctrd serve:\n%s", text)
		}
	})
	// A ctrd that was killed has no socket until the next one serves: gRPC would wait a second and more then, in which a test may
	// have killed that one, too.
	soon := backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 100 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+filepath.Join(w.State, "cri.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: world.Patience}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h.RuntimeServiceClient, h.images = runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	if err := os.Mkdir(h.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

// busybox is an image of the registry, by its name.
func busybox() string { return site.Registry + "/busybox:1" }

// pull brings the image of the tests and gives its id.
func (h *host) pull(t *testing.T) string {
	t.Helper()
	r, err := h.images.PullImage(h.ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: busybox()}})
	if err != nil {
		t.Fatal(err)
	}
	return r.ImageRef
}

// pod makes a pod, which is removed with the test.
func (h *host) pod(t *testing.T, name string) (id string, config *runtimeapi.PodSandboxConfig) {
	t.Helper()
	config = &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "test"}, LogDirectory: h.logs,
		Labels: map[string]string{"pod": name}, Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
	r, err := h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), world.Patience)
		defer cancel()
		if _, err := h.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil {
			t.Error(err)
		}
	})
	return r.PodSandboxId, config
}

// container makes and starts a container that runs a shell script; change may be nil.
func (h *host) container(t *testing.T, pod string, config *runtimeapi.PodSandboxConfig, name, script string, change func(*runtimeapi.ContainerConfig)) string {
	t.Helper()
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: busybox()}, Command: []string{"sh", "-c", script},
		LogPath: name + ".log", Labels: map[string]string{"container": name}, Linux: &runtimeapi.LinuxContainerConfig{},
	}
	if change != nil {
		change(c)
	}
	r, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config})
	if err == nil {
		_, err = h.StartContainer(h.ctx, &runtimeapi.StartContainerRequest{ContainerId: r.ContainerId})
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.ContainerId
}

// until waits for what comes by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(world.Patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
