// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// One container whose record cannot be read keeps nobody from the others: they are listed and measured, and their events come.
func TestUnreadable(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "p")
	one := h.container(t, pod, config, "one", "sleep 1000", nil)
	db, err := bolt.Open(filepath.Join(h.Dir, "root", "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.Bucket([]byte("containers")).CreateBucketIfNotExists([]byte("k8s.io"))
		if err != nil {
			return err
		}
		return b.Put([]byte("bad"), []byte("no record"))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	events, err := h.GetContainerEvents(h.ctx, &runtimeapi.GetEventsRequest{})
	if err == nil {
		_, err = events.Header() // it listens
	}
	if err != nil {
		t.Fatal(err)
	}
	two := h.container(t, pod, config, "two", "sleep 1000", nil)
	for _, want := range []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT} {
		e, err := events.Recv()
		for err == nil && e.ContainerId == one { // its start may be told after the answer to it
			e, err = events.Recv()
		}
		if err != nil || e.ContainerId != two || e.ContainerEventType != want || len(e.ContainersStatuses) != 2 {
			t.Fatalf("%v, %v; want %s of %s", e, err, want, two)
		}
	}
	if list, err := h.ListContainers(h.ctx, &runtimeapi.ListContainersRequest{}); err != nil || len(list.Containers) != 2 {
		t.Errorf("listed: %v, %v", list, err)
	}
	if list, err := h.ListContainerStats(h.ctx, &runtimeapi.ListContainerStatsRequest{}); err != nil || len(list.Stats) != 2 {
		t.Errorf("measured: %v, %v", list, err)
	}
	if list, err := h.ListPodSandboxStats(h.ctx, &runtimeapi.ListPodSandboxStatsRequest{}); err != nil || len(list.Stats) != 1 {
		t.Errorf("measured: %v, %v", list, err)
	}
	const corrupt = 8
	if r := h.Run(t, nil, "ctr-task", "ls", "-q", "-n", "k8s.io"); r.Status != corrupt || !strings.Contains(r.Stdout, one) || !strings.Contains(r.Stderr, "bad") {
		t.Errorf("ctr-task ls: %+v", r)
	}
}
