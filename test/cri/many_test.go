// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/test/world"
)

// again makes a call until ctrd has lived long enough to answer it.
func again[A any](ctx context.Context, call func() (A, error)) (A, error) {
	for {
		a, err := call()
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return a, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// life is all of a pod: made, execed into, stopped and removed.
func (h *host) life(ctx context.Context, name string) error {
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "test"}, LogDirectory: filepath.Join(h.logs, name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
	pod, err := again(ctx, func() (*runtimeapi.RunPodSandboxResponse, error) {
		return h.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	})
	if err != nil {
		return err
	}
	c, err := again(ctx, func() (*runtimeapi.CreateContainerResponse, error) {
		return h.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox()}, Command: []string{"sleep", "100000"}, LogPath: "c.log",
		}})
	})
	if err != nil {
		return err
	}
	if _, err = again(ctx, func() (*runtimeapi.StartContainerResponse, error) {
		return h.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId})
	}); err != nil {
		return err
	}
	r, err := again(ctx, func() (*runtimeapi.ExecSyncResponse, error) {
		return h.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.ContainerId, Cmd: []string{"echo", name}})
	})
	if err != nil || string(r.Stdout) != name+"\n" {
		return fmt.Errorf("exec in %s: %v, %w", name, r, err)
	}
	if _, err = again(ctx, func() (*runtimeapi.StopPodSandboxResponse, error) {
		return h.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	}); err != nil {
		return err
	}
	_, err = again(ctx, func() (*runtimeapi.RemovePodSandboxResponse, error) {
		return h.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	})
	return err
}

// Many pods live at once while ctrd is killed every second, and nothing of them is left: no process, mount, namespace, cgroup,
// address or directory. CTRD_PODS says how many, which are 10 else.
func TestManyKilled(t *testing.T) {
	pods := asked(t, "CTRD_PODS", 10)
	h := newHost(t)
	h.pull(t)
	ctx, cancel := context.WithTimeout(t.Context(), world.Patience+time.Duration(pods)*5*time.Second)
	defer cancel()
	interfaces := links(t)
	var lives sync.WaitGroup
	for i := range pods {
		lives.Go(func() {
			if err := h.life(ctx, fmt.Sprintf("pod-%d", i)); err != nil {
				t.Errorf("pod %d: %v", i, err)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		lives.Wait()
		close(ended)
	}()
	begun, kills := time.Now(), 0
	for alive := true; alive; {
		select {
		case <-ended:
			alive = false
		case <-time.After(time.Second):
			h.kill(t)
			kills++
		}
	}
	t.Logf("%d pods in %s, ctrd killed %d times", pods, time.Since(begun).Round(time.Millisecond), kills)
	h.nothingLeft(t, interfaces)
}

// nothingLeft wants no process, mount, namespace, cgroup, address or directory of any pod to be there, and as many interfaces of the host as
// there were before.
func (h *host) nothingLeft(t *testing.T, interfaces int) {
	t.Helper()
	h.Must(t, "ctrd", "gc")
	if left := h.Must(t, "ctrd", "fsck"); left != "" {
		t.Errorf("fsck: %s", left)
	}
	for _, where := range []string{"pods/*/*", "tasks/*/*/*", "netns/*/*", "s/*", "trash/*"} {
		if left, _ := filepath.Glob(filepath.Join(h.State, where)); len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	}
	for _, where := range []string{"root/containers/*/*", "root/networks/pods/*", "addresses/pods/10.*"} {
		if left, _ := filepath.Glob(filepath.Join(h.Dir, where)); len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	}
	if cgroups := h.Cgroups(); len(cgroups) > 0 {
		t.Errorf("left are the cgroups %q", cgroups)
	}
	// The kernel ends the namespace of a supervisor that was killed, and with it the pod's interface, when it finds the time.
	until(t, fmt.Sprintf("no more than %d interfaces of the host", interfaces), func() bool { return links(t) <= interfaces })
}

// asked is the number in an environment variable; without that it is usual.
func asked(t *testing.T, name string, usual int) int {
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// links counts the interfaces of the host.
func links(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A pod whose maker is killed while it waits for the network is gone on with, not made anew.
func TestRunResumed(t *testing.T) {
	h := newHost(t)
	locks := lock.Dir{Path: filepath.Join(h.State, "locks"), Wait: world.Patience}
	held, err := locks.Acquire(h.ctx, nil, lock.Network, "pods", lock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	config := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: "test"}}
	run := func() (*runtimeapi.RunPodSandboxResponse, error) {
		return h.RunPodSandbox(h.ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	}
	var made *runtimeapi.RunPodSandboxResponse
	answered := make(chan error, 1)
	go func() {
		var err error
		made, err = again(h.ctx, run)
		answered <- err
	}()
	dirs := func() []string {
		all, _ := filepath.Glob(filepath.Join(h.State, "pods/*/*"))
		return all
	}
	until(t, "the pod's network", func() bool {
		all, _ := filepath.Glob(filepath.Join(h.Dir, "root/networks/pods/*/record.json"))
		return len(all) == 1
	})
	before := dirs()
	for range 3 {
		h.kill(t)
		time.Sleep(300 * time.Millisecond)
	}
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if now := dirs(); len(before) != 1 || !slices.Equal(now, before) {
		t.Errorf("the pod is in %q, and was begun in %q", now, before)
	}
	if _, err := h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
		t.Error(err)
	}
}

// A container is started by the call that comes after one that was killed, at whatever moment that was.
func TestStartKilled(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "killed")
	for i := range 40 {
		c, err := h.CreateContainer(h.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c", Attempt: uint32(i)}, Image: &runtimeapi.ImageSpec{Image: busybox()}, Command: []string{"sleep", "100000"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan error, 1)
		go func() {
			_, err := again(h.ctx, func() (*runtimeapi.StartContainerResponse, error) {
				return h.StartContainer(h.ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId})
			})
			answered <- err
		}()
		time.Sleep(time.Duration(i) * time.Millisecond)
		h.kill(t)
		if err := <-answered; err != nil {
			t.Fatalf("killed %d ms after the call: %v", i, err)
		}
		st, err := h.ContainerStatus(h.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.ContainerId})
		if err != nil || st.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Fatalf("killed %d ms after the call: %v, %v", i, st.GetStatus().GetState(), err)
		}
	}
}
