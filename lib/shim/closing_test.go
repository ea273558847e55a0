// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
)

// TestEndBesideCreate: what ends everything also ends a container whose Create is under way.
func TestEndBesideCreate(t *testing.T) {
	for name, end := range map[string]func(k *task) error{
		"shutdown": func(k *task) error {
			return k.client.Shutdown(k.Context(), &taskapi.ShutdownRequest{ID: k.id, Now: true})
		},
		"sandbox": func(k *task) error {
			return k.client.ShutdownSandbox(k.Context(), &taskapi.ShutdownSandboxRequest{SandboxID: "pod"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTask(t, "sleep", "1000")
			begun, goOn := filepath.Join(k.state, "begun"), filepath.Join(k.state, "go-on")
			k.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
				Path: "/bin/sh", Args: []string{"sh", "-c", ": >" + begun + "; until [ -e " + goOn + " ]; do sleep 0.01; done"},
				Env: []string{"PATH=/bin:/usr/bin"},
			}}}
			k.serve()
			if name == "sandbox" {
				must(t, k.client.CreateSandbox(t.Context(), &taskapi.CreateSandboxRequest{SandboxID: "pod", BundlePath: k.dir}))
			}
			created := make(chan error, 1)
			go func() {
				_, err := k.client.Create(t.Context(), k.request())
				created <- err
			}()
			k.until("the engine", func() bool { _, err := os.Lstat(begun); return err == nil })
			must(t, end(k))
			must(t, os.WriteFile(goOn, nil, 0o600))
			must(t, <-created)
			if e := k.wait(); e.Status != 137 || e.Reason == "" {
				t.Errorf("exit %+v", e)
			}
			k.nothingLeft()
		})
	}
}

// TestCreateInStoppedSandbox: no container begins in a sandbox that was stopped.
func TestCreateInStoppedSandbox(t *testing.T) {
	c := newContainerd(t)
	pod, k := bareTask(t, "unused"), bareTask(t, "sleep", "1000")
	ctx := t.Context()
	c.start(pod)
	pid := pod.supervisor()
	defer func() { unix.Kill(pid, unix.SIGKILL) }()
	must(t, pod.client.CreateSandbox(ctx, &taskapi.CreateSandboxRequest{SandboxID: pod.id, BundlePath: pod.dir}))
	must(t, pod.client.StopSandbox(ctx, &taskapi.StopSandboxRequest{SandboxID: pod.id}))
	k.spec.Annotations = map[string]string{"io.kubernetes.cri.sandbox-id": pod.id}
	c.start(k)
	if _, err := k.client.Create(ctx, k.request()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("create: %v", err)
	}
	must(t, pod.client.ShutdownSandbox(ctx, &taskapi.ShutdownSandboxRequest{SandboxID: pod.id}))
	pod.ends(pid)
	k.nothingLeft()
}
