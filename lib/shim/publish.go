// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
)

const (
	forwardTime  = 5 * time.Second // for one event
	firstForward = 100 * time.Millisecond
	lastForward  = 5 * time.Second
)

// forward gives events to containerd, in order. While containerd is away it tries again, until the supervisor
// ends.
func (s *server) forward(address string) func(string, ...event.Payload) error {
	return func(ns string, all ...event.Payload) error {
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
func forwardAll(address, ns string, all []event.Payload) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), forwardTime)
	defer cancel()
	c, err := taskapi.Dial(ctx, address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.Namespace = ns
	for i, p := range all {
		e := taskapi.Envelope{Timestamp: time.Now(), Namespace: ns, Topic: p.Topic(), Event: &taskapi.Any{TypeURL: p.Type(), Value: encode(p)}}
		if err := c.Forward(ctx, e); err != nil {
			return i, fmt.Errorf("event %s: %w", p.Topic(), err)
		}
	}
	return len(all), nil
}

// fields is the encoding of a message (containerd/api/events/task.proto), built field by field.
type fields []byte

func (b fields) text(num protowire.Number, s string) fields {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func (b fields) number(num protowire.Number, n uint32) fields {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(n))
}

func (b fields) message(num protowire.Number, m fields) fields {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), m)
}

// time adds a google.protobuf.Timestamp.
func (b fields) time(num protowire.Number, t time.Time) fields {
	if t.IsZero() {
		return b
	}
	m := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(t.Unix()))
	return b.message(num, fields(m).number(2, uint32(t.Nanosecond())))
}

// encode gives an event of a task as a protobuf message.
func encode(p event.Payload) []byte {
	var b fields
	switch e := p.(type) {
	case event.TaskCreate:
		b = b.text(1, e.ContainerID).text(2, e.Bundle)
		if o := e.IO; o != nil {
			terminal := uint32(0)
			if o.Terminal {
				terminal = 1
			}
			b = b.message(4, fields(nil).text(1, o.Stdin).text(2, o.Stdout).text(3, o.Stderr).number(4, terminal))
		}
		return b.number(6, e.Pid)
	case event.TaskStart:
		return b.text(1, e.ContainerID).number(2, e.Pid)
	case event.TaskDelete:
		return b.text(1, e.ContainerID).number(2, e.Pid).number(3, e.ExitStatus).time(4, e.ExitedAt).text(5, e.ID)
	case event.TaskExit:
		return b.text(1, e.ContainerID).text(2, e.ID).number(3, e.Pid).number(4, e.ExitStatus).time(5, e.ExitedAt)
	case event.TaskOOM:
		return b.text(1, e.ContainerID)
	case event.TaskExecAdded:
		return b.text(1, e.ContainerID).text(2, e.ExecID)
	case event.TaskExecStarted:
		return b.text(1, e.ContainerID).text(2, e.ExecID).number(3, e.Pid)
	case event.TaskPaused:
		return b.text(1, e.ContainerID)
	case event.TaskResumed:
		return b.text(1, e.ContainerID)
	case event.TaskCheckpointed:
		return b.text(1, e.ContainerID).text(2, e.Checkpoint)
	}
	return nil
}
