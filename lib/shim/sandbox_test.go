// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
)

func (k *task) sandboxState() string {
	k.Helper()
	s, err := k.client.SandboxStatus(k.Context(), &taskapi.SandboxStatusRequest{SandboxID: k.id})
	must(k, err)
	return s.State
}

// TestSandbox: the supervisor lives as long as the sandbox, also without containers, and the end of the sandbox
// ends its containers.
func TestSandbox(t *testing.T) {
	c := newContainerd(t)
	pod := bareTask(t, "unused")
	a, b := bareTask(t, "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"), bareTask(t, "sleep", "1000")
	ctx := t.Context()
	c.start(pod)
	pid := pod.supervisor()
	defer func() { unix.Kill(pid, unix.SIGKILL) }()
	create := &taskapi.CreateSandboxRequest{SandboxID: pod.id, BundlePath: pod.dir}
	must(t, pod.client.CreateSandbox(ctx, create))
	if err := pod.client.CreateSandbox(ctx, create); !errdefs.IsAlreadyExists(err) {
		t.Errorf("create again: %v", err)
	}
	if _, err := pod.client.SandboxStatus(ctx, &taskapi.SandboxStatusRequest{SandboxID: "other"}); !errdefs.IsNotFound(err) {
		t.Errorf("another sandbox: %v", err)
	}
	r, err := pod.client.StartSandbox(ctx, &taskapi.StartSandboxRequest{SandboxID: pod.id})
	if err != nil || int(r.Pid) != pid || pod.sandboxState() != taskapi.SandboxReady {
		t.Errorf("start: %+v, %v", r, err)
	}
	if p, err := pod.client.Platform(ctx, &taskapi.PlatformRequest{SandboxID: pod.id}); err != nil || p.Platform.OS != "linux" {
		t.Errorf("platform: %+v, %v", p, err)
	}
	must(t, pod.client.PingSandbox(ctx, &taskapi.PingRequest{SandboxID: pod.id}))
	for _, k := range []*task{a, b} {
		k.spec.Annotations = map[string]string{"io.kubernetes.cri.sandbox-id": pod.id}
		if c.start(k); k.supervisor() != pid {
			t.Fatal("another supervisor")
		}
		k.mustRun()
	}
	a.until("output", func() bool { out, _ := a.output(); return out == "ready\n" })
	must(t, pod.client.Shutdown(ctx, &taskapi.ShutdownRequest{ID: pod.id}))
	ended := make(chan *taskapi.WaitSandboxResponse, 1)
	go func() {
		w, _ := pod.client.WaitSandbox(context.Background(), &taskapi.WaitSandboxRequest{SandboxID: pod.id})
		ended <- w
	}()
	must(t, pod.client.StopSandbox(ctx, &taskapi.StopSandboxRequest{SandboxID: pod.id, TimeoutSecs: 1}))
	if w := <-ended; w == nil || w.ExitedAt.IsZero() {
		t.Errorf("wait: %+v", w)
	}
	if st := pod.sandboxState(); st != taskapi.SandboxNotReady {
		t.Errorf("after stop: %s", st)
	}
	if d := a.mustDelete(); d.ExitStatus != 5 {
		t.Errorf("a: %+v", d)
	}
	if d := b.mustDelete(); d.ExitStatus != 137 {
		t.Errorf("b: %+v", d)
	}
	must(t, pod.client.Shutdown(ctx, &taskapi.ShutdownRequest{ID: pod.id}))
	must(t, pod.client.PingSandbox(ctx, &taskapi.PingRequest{SandboxID: pod.id}))
	must(t, pod.client.ShutdownSandbox(ctx, &taskapi.ShutdownSandboxRequest{SandboxID: pod.id}))
	pod.ends(pid)
	a.nothingLeft()
	b.nothingLeft()
}

// TestSandboxWithContainer: a sandbox with a rootfs is a container, and ends with it. Our own supervisor, too,
// lives until ShutdownSandbox.
func TestSandboxWithContainer(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.serve()
	ctx := t.Context()
	must(t, k.client.CreateSandbox(ctx, &taskapi.CreateSandboxRequest{SandboxID: k.id, BundlePath: k.dir, Rootfs: k.rootfs}))
	if st := k.sandboxState(); st != taskapi.SandboxNotReady {
		t.Errorf("before start: %s", st)
	}
	r, err := k.client.StartSandbox(ctx, &taskapi.StartSandboxRequest{SandboxID: k.id})
	must(t, err)
	if s, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id}); err != nil || s.Pid != r.Pid || s.Status != taskapi.StatusRunning {
		t.Errorf("state: %+v, %v", s, err)
	}
	m, err := k.client.SandboxMetrics(ctx, &taskapi.SandboxMetricsRequest{SandboxID: k.id})
	if err != nil || m.Metrics.Data == nil {
		t.Errorf("metrics: %+v, %v", m, err)
	}
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	w, err := k.client.WaitSandbox(ctx, &taskapi.WaitSandboxRequest{SandboxID: k.id})
	if err != nil || w.ExitStatus != 137 {
		t.Errorf("wait: %+v, %v", w, err)
	}
	must(t, k.client.ShutdownSandbox(ctx, &taskapi.ShutdownSandboxRequest{SandboxID: k.id}))
	if e := k.wait(); e.Status != 137 {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}
