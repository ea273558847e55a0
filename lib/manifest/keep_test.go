// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// troubled is a CRI runtime with one pod, some of whose answers are errors. It stands in for one that is restarted or hangs at a certain
// moment, and time passes quickly beside it; that the pod of a real one is kept is tested end to end.
type troubled struct {
	Runtime
	mu     sync.Mutex
	ready  bool
	info   string // of the pod, once it is not ready
	all    []*runtimeapi.Container
	status map[string]*runtimeapi.ContainerStatus
	refuse map[string]int // how many calls of a kind fail
	deeds  []string
	ill    bool // what probes say
}

func (r *troubled) call(kind string) error {
	if r.refuse[kind] == 0 {
		return nil
	}
	r.refuse[kind]--
	return errdefs.ErrUnavailable
}

// change changes the runtime while nobody calls it.
func (r *troubled) change(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

func (r *troubled) PodSandboxStatus(context.Context, *runtimeapi.PodSandboxStatusRequest, ...grpc.CallOption) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}}
	if r.ready {
		a.Status.State = runtimeapi.PodSandboxState_SANDBOX_READY
	}
	if r.info != "" {
		a.Info = map[string]string{"info": r.info}
	}
	return a, nil
}

func (r *troubled) ListContainers(_ context.Context, q *runtimeapi.ListContainersRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &runtimeapi.ListContainersResponse{}
	for _, c := range r.all {
		if want := q.Filter.LabelSelector[LabelContainerName]; r.status[c.Id] != nil && (want == "" || want == c.Metadata.Name) {
			a.Containers = append(a.Containers, &runtimeapi.Container{Id: c.Id, Metadata: c.Metadata, State: r.status[c.Id].State})
		}
	}
	return a, nil
}

func (r *troubled) ContainerStatus(_ context.Context, q *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.call("status"); err != nil {
		return nil, err
	}
	s := r.status[q.ContainerId]
	if s == nil {
		return nil, errdefs.ErrNotFound
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, ExitCode: s.ExitCode, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
	}}, nil
}

func (r *troubled) ImageStatus(context.Context, *runtimeapi.ImageStatusRequest, ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "image"}}, nil
}

func (r *troubled) CreateContainer(_ context.Context, q *runtimeapi.CreateContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CreateContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := fmt.Sprintf("%s-%d", q.Config.Metadata.Name, q.Config.Metadata.Attempt)
	r.all = append(r.all, &runtimeapi.Container{Id: id, Metadata: q.Config.Metadata})
	r.status[id] = &runtimeapi.ContainerStatus{Id: id, Metadata: q.Config.Metadata}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (r *troubled) StartContainer(_ context.Context, q *runtimeapi.StartContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StartContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.call("start"); err != nil {
		return nil, err
	}
	r.deeds = append(r.deeds, "start "+q.ContainerId)
	s := r.status[q.ContainerId]
	s.State, s.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	return &runtimeapi.StartContainerResponse{}, nil
}

func (r *troubled) StopContainer(_ context.Context, q *runtimeapi.StopContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StopContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.call("stop"); err != nil {
		return nil, err
	}
	r.deeds = append(r.deeds, "stop "+q.ContainerId)
	r.end(q.ContainerId, 143)
	return &runtimeapi.StopContainerResponse{}, nil
}

func (r *troubled) end(id string, status int32) {
	s := r.status[id]
	s.State, s.ExitCode, s.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, status, time.Now().UnixNano()
}

func (r *troubled) RemoveContainer(_ context.Context, q *runtimeapi.RemoveContainerRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.status, q.ContainerId)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (r *troubled) ExecSync(_ context.Context, q *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.Cmd[0] == "hook" {
		r.deeds = append(r.deeds, "hook")
	}
	if r.ill {
		return &runtimeapi.ExecSyncResponse{ExitCode: 1}, nil
	}
	return &runtimeapi.ExecSyncResponse{}, nil
}

// TestTrouble: what goes wrong for a moment while a pod is kept costs it nothing, and what is not done is done later.
func TestTrouble(t *testing.T) {
	const hooked = ", lifecycle: {postStart: {exec: {command: [hook]}}}"
	for name, c := range map[string]struct {
		policy, more string
		trouble      func(*troubled)
		deeds        []string // besides the start of main-0
		err          error    // of the attempt, which goes on else
	}{
		"a status":             {"Always", hooked, func(r *troubled) { r.refuse["status"] = 3 }, []string{"hook"}, nil},
		"a status, never":      {"Never", hooked, func(r *troubled) { r.refuse["status"] = 3 }, []string{"hook"}, nil},
		"starts":               {"Always", "", func(r *troubled) { r.refuse["start"] = 1; r.end("main-0", 0) }, []string{"start main-1"}, nil},
		"stops":                {"Always", ", livenessProbe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [live]}}", func(r *troubled) { r.ill, r.refuse["stop"] = true, 2 }, []string{"stop main-0", "start main-1"}, nil},
		"a removal":            {"OnFailure", "", func(r *troubled) { delete(r.status, "main-0") }, []string{"start main-1"}, nil},
		"lost":                 {"Always", "", func(r *troubled) { r.refuse["start"] = 9; r.end("main-0", 0); r.ready, r.info = false, `{"lost":true}` }, nil, errLost},
		"stopped":              {"Always", "", func(r *troubled) { r.ready, r.info = false, `{"lost":false}` }, nil, errStopped},
		"lost, other runtime":  {"Always", "", func(r *troubled) { r.ready = false }, nil, errLost},
		"stopped, other too":   {"Always", "", func(r *troubled) { r.refuse["start"] = 9; r.end("main-0", 0); r.ready = false }, nil, errStopped},
		"a probe beside death": {"Always", ", livenessProbe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [live]}}", func(r *troubled) { r.ill, r.ready, r.info = true, false, `{"lost":true}` }, nil, errLost},
	} {
		t.Run(name, func(t *testing.T) {
			p := read(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  hostNetwork: true\n  restartPolicy: "+c.policy+
				"\n  containers:\n  - {name: main, image: b"+c.more+"}\n")
			h := Home(filepath.Join(t.TempDir(), "u"))
			if err := p.Prepare(h); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				r := &troubled{ready: true, status: map[string]*runtimeapi.ContainerStatus{}, refuse: map[string]int{}}
				k := &keeper{r: r, h: h, p: p, log: slog.New(slog.DiscardHandler), ready: map[string]bool{}, told: func(string, error) {}}
				ctx, cancel := context.WithCancel(t.Context())
				end := make(chan error, 1)
				go func() { end <- k.attempt(ctx) }()
				time.Sleep(10*time.Second + lookEvery/2)
				r.change(func() { c.trouble(r) })
				time.Sleep(25 * time.Second)
				var deeds []string
				r.change(func() { deeds = slices.Clone(r.deeds) })
				if c.err == nil && len(end) > 0 {
					t.Errorf("it is kept no more: %v", <-end)
				}
				cancel()
				if c.err != nil {
					if err := <-end; err != c.err {
						t.Errorf("it ends by %v, want %v", err, c.err)
					}
				}
				synctest.Wait()
				if want := append([]string{"start main-0"}, c.deeds...); len(deeds) < len(want) || !slices.Equal(deeds[:len(want)], want) || len(deeds) > len(want) && c.more == "" {
					t.Errorf("it did %q, want %q", deeds, want)
				}
			})
		})
	}
}
