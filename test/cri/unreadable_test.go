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
	const some, corrupt = 7, 8
	if r := h.Run(t, nil, "ctr-task", "ls", "-q", "-n", "k8s.io"); r.Status != corrupt || !strings.Contains(r.Stdout, one) || !strings.Contains(r.Stderr, "bad") {
		t.Errorf("ctr-task ls: %+v", r)
	}
	if r := h.Run(t, nil, "ctrd", "status"); r.Status != corrupt || !strings.Contains(r.Stdout, "containers") || !strings.Contains(r.Stdout, "running") || !strings.Contains(r.Stderr, "bad") {
		t.Errorf("ctrd status: %+v", r)
	}
	// The same with a bad record of each other kind: what lists, counts or measures tells the rest.
	db, err = bolt.Open(filepath.Join(h.Dir, "root", "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, kind := range []string{"images", "content", "snapshots/overlayfs", "sandboxes", "leases"} {
			b, err := tx.CreateBucketIfNotExists([]byte(kind))
			if err == nil {
				b, err = b.CreateBucketIfNotExists([]byte("k8s.io"))
			}
			if err == nil {
				err = b.Put([]byte("bad"), []byte("no record"))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"ctrd status", "ctrd du", "ctrd du --explain", "ctrd ns ls", "ctr-image blob ls -n k8s.io", "ctr-snap tree -n k8s.io", "ctr-snap usage -n k8s.io", "ctr-image ls -n k8s.io", "ctr-snap ls -n k8s.io", "ctr-task ls -n k8s.io",
		"ctr-cri ps", "ctr-cri pods", "ctr-cri images", "ctr-cri stats", "ctr-cri statsp", "ctr-cri info", "ctr-cri imagefsinfo",
	} {
		if r := h.Run(t, nil, strings.Fields(line)...); r.Status != 0 && r.Status != corrupt && r.Status != some || r.Stdout == "" {
			t.Errorf("%s: %+v", line, r)
		}
	}
	h.runPod(t, "", onNode(h, "q"))
}
