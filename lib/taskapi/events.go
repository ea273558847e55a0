// SPDX-License-Identifier: Apache-2.0

package taskapi

import "time"

// Event is one of the events that a shim publishes, a pointer to one of the
// messages below (containerd's api/events/task.proto).
type Event interface {
	typed
	// Topic is the topic under which containerd publishes it, as /tasks/exit.
	Topic() string
}

// NewEnvelope packs an event that happened at a time in a namespace.
func NewEnvelope(at time.Time, namespace string, e Event) Envelope {
	return Envelope{Timestamp: at, Namespace: namespace, Topic: e.Topic(), Event: NewAny(e)}
}

// TaskCreate: a task was created, its init process not yet started.
type TaskCreate struct {
	ContainerID string
	Bundle      string
	Rootfs      []Mount
	IO          *TaskIO
	Checkpoint  string // the directory from which it was restored, or empty
	Pid         uint32
}

// TaskIO has the streams of TaskCreate, as they were in the request.
type TaskIO struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// TaskStart: the init process of a task was started.
type TaskStart struct {
	ContainerID string
	Pid         uint32
}

// TaskDelete: a stopped task (ID empty) or an exec was deleted.
type TaskDelete struct {
	ContainerID string
	Pid         uint32
	ExitStatus  uint32
	ExitedAt    time.Time
	ID          string
}

// TaskExit: a process ended. ID is the exec's, or the container's for init.
type TaskExit struct {
	ContainerID string
	ID          string
	Pid         uint32
	ExitStatus  uint32
	ExitedAt    time.Time
}

// TaskOOM: the kernel killed a process of the task for lack of memory.
type TaskOOM struct{ ContainerID string }

// TaskExecAdded: an exec was created, not yet started.
type TaskExecAdded struct{ ContainerID, ExecID string }

// TaskExecStarted: an exec was started.
type TaskExecStarted struct {
	ContainerID string
	ExecID      string
	Pid         uint32
}

// TaskPaused: all processes of a task were frozen.
type TaskPaused struct{ ContainerID string }

// TaskResumed: a paused task was thawed.
type TaskResumed struct{ ContainerID string }

// TaskCheckpointed: a checkpoint of a task was made in directory Checkpoint.
type TaskCheckpointed struct{ ContainerID, Checkpoint string }

// Topic is /tasks/create.
func (*TaskCreate) Topic() string { return "/tasks/create" }

// Topic is /tasks/start.
func (*TaskStart) Topic() string { return "/tasks/start" }

// Topic is /tasks/delete.
func (*TaskDelete) Topic() string { return "/tasks/delete" }

// Topic is /tasks/exit.
func (*TaskExit) Topic() string { return "/tasks/exit" }

// Topic is /tasks/oom.
func (*TaskOOM) Topic() string { return "/tasks/oom" }

// Topic is /tasks/exec-added.
func (*TaskExecAdded) Topic() string { return "/tasks/exec-added" }

// Topic is /tasks/exec-started.
func (*TaskExecStarted) Topic() string { return "/tasks/exec-started" }

// Topic is /tasks/paused.
func (*TaskPaused) Topic() string { return "/tasks/paused" }

// Topic is /tasks/resumed.
func (*TaskResumed) Topic() string { return "/tasks/resumed" }

// Topic is /tasks/checkpointed.
func (*TaskCheckpointed) Topic() string { return "/tasks/checkpointed" }

func (*TaskCreate) typeName() string       { return "containerd.events.TaskCreate" }
func (*TaskStart) typeName() string        { return "containerd.events.TaskStart" }
func (*TaskDelete) typeName() string       { return "containerd.events.TaskDelete" }
func (*TaskExit) typeName() string         { return "containerd.events.TaskExit" }
func (*TaskOOM) typeName() string          { return "containerd.events.TaskOOM" }
func (*TaskExecAdded) typeName() string    { return "containerd.events.TaskExecAdded" }
func (*TaskExecStarted) typeName() string  { return "containerd.events.TaskExecStarted" }
func (*TaskPaused) typeName() string       { return "containerd.events.TaskPaused" }
func (*TaskResumed) typeName() string      { return "containerd.events.TaskResumed" }
func (*TaskCheckpointed) typeName() string { return "containerd.events.TaskCheckpointed" }

func (m *TaskCreate) fields(c *codec) {
	c.string(1, &m.ContainerID)
	c.string(2, &m.Bundle)
	c.mounts(3, &m.Rootfs)
	optional(c, 4, &m.IO)
	c.string(5, &m.Checkpoint)
	c.uint32(6, &m.Pid)
}

func (m *TaskIO) fields(c *codec) {
	c.string(1, &m.Stdin)
	c.string(2, &m.Stdout)
	c.string(3, &m.Stderr)
	c.bool(4, &m.Terminal)
}

func (m *TaskStart) fields(c *codec) {
	c.string(1, &m.ContainerID)
	c.uint32(2, &m.Pid)
}

func (m *TaskDelete) fields(c *codec) {
	c.string(1, &m.ContainerID)
	c.uint32(2, &m.Pid)
	c.uint32(3, &m.ExitStatus)
	c.time(4, &m.ExitedAt)
	c.string(5, &m.ID)
}

func (m *TaskExit) fields(c *codec) {
	c.process(&m.ContainerID, &m.ID)
	c.uint32(3, &m.Pid)
	c.uint32(4, &m.ExitStatus)
	c.time(5, &m.ExitedAt)
}

func (m *TaskOOM) fields(c *codec) { c.string(1, &m.ContainerID) }

func (m *TaskExecAdded) fields(c *codec) { c.process(&m.ContainerID, &m.ExecID) }

func (m *TaskExecStarted) fields(c *codec) {
	c.process(&m.ContainerID, &m.ExecID)
	c.uint32(3, &m.Pid)
}

func (m *TaskPaused) fields(c *codec) { c.string(1, &m.ContainerID) }

func (m *TaskResumed) fields(c *codec) { c.string(1, &m.ContainerID) }

func (m *TaskCheckpointed) fields(c *codec) { c.process(&m.ContainerID, &m.Checkpoint) }
