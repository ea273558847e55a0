// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
)

const (
	forwardTime  = 5 * time.Second // for one event
	firstForward = 100 * time.Millisecond
	lastForward  = 5 * time.Second
)

// forward gives events to containerd, in order. While containerd is away it tries again, until the supervisor
// ends. An event whose answer is lost is sent again: containerd can tell by its time.
func (s *server) forward(address string) func(string, []occurrence) error {
	return func(ns string, all []occurrence) error {
		var errs []error
		for pause := firstForward; len(all) > 0; {
			n, err := forwardAll(address, ns, all)
			all = all[n:]
			if err == nil || len(all) == 0 {
				break
			}
			if !errdefs.IsUnavailable(err) && !errors.Is(err, context.DeadlineExceeded) {
				errs, all = append(errs, err), all[1:]
				continue
			}
			select {
			case <-time.After(pause):
				pause = min(2*pause, lastForward)
			case <-s.life.Done():
				return errors.Join(append(errs, fmt.Errorf("%d events were not taken: %w", len(all), err))...)
			}
		}
		return errors.Join(errs...)
	}
}

// forwardAll tells how many events were taken, and why the next one was not.
func forwardAll(address, ns string, all []occurrence) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), forwardTime)
	defer cancel()
	c, err := taskapi.Dial(ctx, address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.Namespace = ns
	for i, p := range all {
		m := message(p.Payload)
		if m == nil {
			continue
		}
		if err := c.Forward(ctx, taskapi.NewEnvelope(p.at, ns, m)); err != nil {
			return i, fmt.Errorf("event %s: %w", p.Topic(), err)
		}
	}
	return len(all), nil
}

// message gives an event of a task as containerd's message; nil for another event.
func message(p event.Payload) taskapi.Event {
	switch e := p.(type) {
	case event.TaskCreate:
		m := &taskapi.TaskCreate{ContainerID: e.ContainerID, Bundle: e.Bundle, Pid: e.Pid, Checkpoint: e.Checkpoint}
		if e.IO != nil {
			m.IO = &taskapi.TaskIO{Stdin: e.IO.Stdin, Stdout: e.IO.Stdout, Stderr: e.IO.Stderr, Terminal: e.IO.Terminal}
		}
		return m
	case event.TaskStart:
		return &taskapi.TaskStart{ContainerID: e.ContainerID, Pid: e.Pid}
	case event.TaskDelete:
		return &taskapi.TaskDelete{ContainerID: e.ContainerID, ID: e.ID, Pid: e.Pid, ExitStatus: e.ExitStatus, ExitedAt: e.ExitedAt}
	case event.TaskExit:
		return &taskapi.TaskExit{ContainerID: e.ContainerID, ID: e.ID, Pid: e.Pid, ExitStatus: e.ExitStatus, ExitedAt: e.ExitedAt}
	case event.TaskOOM:
		return &taskapi.TaskOOM{ContainerID: e.ContainerID}
	case event.TaskExecAdded:
		return &taskapi.TaskExecAdded{ContainerID: e.ContainerID, ExecID: e.ExecID}
	case event.TaskExecStarted:
		return &taskapi.TaskExecStarted{ContainerID: e.ContainerID, ExecID: e.ExecID, Pid: e.Pid}
	case event.TaskPaused:
		return &taskapi.TaskPaused{ContainerID: e.ContainerID}
	case event.TaskResumed:
		return &taskapi.TaskResumed{ContainerID: e.ContainerID}
	case event.TaskCheckpointed:
		return &taskapi.TaskCheckpointed{ContainerID: e.ContainerID, Checkpoint: e.Checkpoint}
	}
	return nil
}
