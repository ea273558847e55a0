// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"path/filepath"
	"testing"

	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A sandbox of containerd's API: its record, and a supervisor that is started, waited for and shut down.
func TestSandbox(t *testing.T) {
	h := newHost(t)
	conn, err := grpc.NewClient("unix://"+filepath.Join(h.State, "ctrd.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(h.ctx, "containerd-namespace", "default")
	store, control := sandboxapi.NewStoreClient(conn), sandboxapi.NewControllerClient(conn)
	if _, err := control.Start(ctx, &sandboxapi.ControllerStartRequest{SandboxID: "s"}); status.Code(err) != codes.NotFound {
		t.Errorf("start without a record: %v", err)
	}
	_, err = store.Create(ctx, &sandboxapi.StoreCreateRequest{Sandbox: &types.Sandbox{SandboxID: "s", Labels: map[string]string{"a": "1", "b": "2"}}})
	if err == nil {
		_, err = store.Update(ctx, &sandboxapi.StoreUpdateRequest{Sandbox: &types.Sandbox{SandboxID: "s", Labels: map[string]string{"a": "3"}}, Fields: []string{"labels.a"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := store.List(ctx, &sandboxapi.StoreListRequest{Filters: []string{"labels.a==3"}})
	if err != nil || len(list.List) != 1 || list.List[0].Labels["b"] != "2" {
		t.Errorf("by a label: %v, %v", list, err)
	}
	started, err := control.Start(ctx, &sandboxapi.ControllerStartRequest{SandboxID: "s"})
	if err != nil || started.Pid == 0 || started.Address == "" {
		t.Fatalf("start: %v, %v", started, err)
	}
	if _, err := control.Start(ctx, &sandboxapi.ControllerStartRequest{SandboxID: "s"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("started twice: %v", err)
	}
	if _, err := store.Delete(ctx, &sandboxapi.StoreDeleteRequest{SandboxID: "s"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete of one that runs: %v", err)
	}
	st, err := control.Status(ctx, &sandboxapi.ControllerStatusRequest{SandboxID: "s"})
	if err != nil || st.State != "SANDBOX_READY" || st.Pid != started.Pid {
		t.Errorf("status: %v, %v", st, err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := control.Wait(ctx, &sandboxapi.ControllerWaitRequest{SandboxID: "s"})
		waited <- err
	}()
	for range 2 {
		if _, err := control.Shutdown(ctx, &sandboxapi.ControllerShutdownRequest{SandboxID: "s"}); err != nil {
			t.Error(err)
		}
	}
	if err := <-waited; err != nil {
		t.Errorf("wait: %v", err)
	}
	if st, err := control.Status(ctx, &sandboxapi.ControllerStatusRequest{SandboxID: "s"}); err != nil || st.State != "SANDBOX_NOTREADY" {
		t.Errorf("after the end: %v, %v", st, err)
	}
	if _, err := store.Delete(ctx, &sandboxapi.StoreDeleteRequest{SandboxID: "s"}); err != nil {
		t.Error(err)
	}
	if _, err := store.Get(ctx, &sandboxapi.StoreGetRequest{SandboxID: "s"}); status.Code(err) != codes.NotFound {
		t.Errorf("after it was deleted: %v", err)
	}
}
