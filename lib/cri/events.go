// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/event"
)

// change is what an event of the journal means to the CRI. A pod counts as a container of its own id, as containerd has it.
type change struct {
	kind runtimeapi.ContainerEventType
	id   string
	pod  bool
}

// changeOf translates an event; those that mean nothing here are false.
func changeOf(e event.Event) (c change, ok bool) {
	const (
		created = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
		started = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
		stopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
		deleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
	)
	if e.Namespace != Namespace {
		return c, false
	}
	if p, ok := event.Decode[event.ContainerCreate](e); ok {
		return change{kind: created, id: p.ID}, true
	}
	if p, ok := event.Decode[event.TaskStart](e); ok {
		return change{kind: started, id: p.ContainerID}, true
	}
	if p, ok := event.Decode[event.TaskExit](e); ok && (p.ID == "" || p.ID == p.ContainerID) {
		return change{kind: stopped, id: p.ContainerID}, true
	}
	if p, ok := event.Decode[event.ContainerDelete](e); ok {
		return change{kind: deleted, id: p.ID}, true
	}
	if p, ok := event.Decode[event.SandboxCreate](e); ok {
		return change{created, p.SandboxID, true}, true
	}
	if p, ok := event.Decode[event.SandboxStart](e); ok {
		return change{started, p.SandboxID, true}, true
	}
	if p, ok := event.Decode[event.SandboxExit](e); ok {
		return change{stopped, p.SandboxID, true}, true
	}
	return c, false
}

// podsOfContainers gives the pod of each container, by id.
func (r runtimeService) podsOfContainers(ctx context.Context) (map[string]string, error) {
	list, err := r.s.pods().ListContainers(ctx)
	all := map[string]string{}
	for _, st := range list {
		all[st.ID] = st.Pod
	}
	return all, err
}

// GetContainerEvents sends what happens to pods and their containers from now on, each with the state of the pod and of all
// its containers as it is when the event is sent. What cannot be read of these is left out, and ends no stream. Where events are missing
// that the journal lost, or dropped before they were read, the stream ends with errdefs.ErrDataLoss: the kubelet then lists everything and
// connects again.
func (r runtimeService) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	ctx := stream.Context()
	journal := r.s.d.Journal()
	since, err := journal.Last()
	if err != nil {
		return err
	}
	// What has been removed tells its pod no more.
	podOf, err := r.podsOfContainers(ctx)
	if err != nil {
		return err
	}
	pods, err := r.s.pods().List(ctx)
	if err != nil {
		return err
	}
	for _, st := range pods {
		podOf[st.ID] = st.ID
	}
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	go func() { _ = r.s.pods().RecordEnds(ctx) }() // the client lists, too
	for e, err := range journal.Read(ctx, since, true) {
		if err != nil {
			return err
		}
		if e.Seq != since+1 {
			return fmt.Errorf("events: %d before event %d were lost or dropped; list again: %w", e.Seq-since-1, e.Seq, errdefs.ErrDataLoss)
		}
		since = e.Seq
		c, ok := changeOf(e)
		if !ok {
			continue
		}
		m, err := r.eventMessage(ctx, c, podOf)
		if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
			continue // of a container that is in no pod, or of which that cannot be read
		}
		if err != nil {
			return err
		}
		m.CreatedAt = e.Time.UnixNano()
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// eventMessage describes the pod that a change was in, as far as it is still there.
func (r runtimeService) eventMessage(ctx context.Context, c change, podOf map[string]string) (*runtimeapi.ContainerEventResponse, error) {
	m := &runtimeapi.ContainerEventResponse{ContainerId: c.id, ContainerEventType: c.kind}
	podID := c.id
	if c.pod {
		podOf[podID] = podID
	} else {
		st, err := r.s.pods().ContainerStatus(ctx, c.id)
		switch {
		case err == nil:
			podOf[c.id] = st.Pod
		case !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err):
			return nil, err
		case podOf[c.id] == "":
			return nil, err
		}
		podID = podOf[c.id]
		if c.kind == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
			delete(podOf, c.id)
		}
	}
	st, err := r.s.pods().Status(ctx, podID)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	m.PodSandboxStatus = podStatusMessage(&st)
	m.ContainersStatuses, err = r.statusesOf(ctx, podID)
	return m, err
}

// statusesOf gives the containers of a pod.
func (r runtimeService) statusesOf(ctx context.Context, podID string) (all []*runtimeapi.ContainerStatus, err error) {
	list, err := r.s.pods().ListContainers(ctx)
	if err != nil {
		return nil, err
	}
	for _, one := range list {
		if one.Pod != podID {
			continue
		}
		st, e := r.s.pods().ContainerStatus(ctx, one.ID)
		if errdefs.IsNotFound(e) || errdefs.IsDataLoss(e) {
			continue
		}
		err = errors.Join(err, e)
		all = append(all, containerStatusMessage(&st))
	}
	return all, err
}
