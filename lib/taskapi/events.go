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

func (m *TaskCreate) append(b []byte) []byte {
	b = putString(b, 1, m.ContainerID)
	b = putString(b, 2, m.Bundle)
	b = putMounts(b, 3, m.Rootfs)
	if m.IO != nil {
		b = putMessage(b, 4, m.IO)
	}
	b = putString(b, 5, m.Checkpoint)
	return putUint(b, 6, uint64(m.Pid))
}

func (m *TaskCreate) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.ContainerID)
	case 2:
		return f.string(&m.Bundle)
	case 3:
		return f.mount(&m.Rootfs)
	case 4:
		return sub(f, &m.IO)
	case 5:
		return f.string(&m.Checkpoint)
	case 6:
		return f.uint32(&m.Pid)
	}
	return nil
}

func (m *TaskIO) append(b []byte) []byte {
	b = putString(b, 1, m.Stdin)
	b = putString(b, 2, m.Stdout)
	b = putString(b, 3, m.Stderr)
	return putBool(b, 4, m.Terminal)
}

func (m *TaskIO) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.Stdin)
	case 2:
		return f.string(&m.Stdout)
	case 3:
		return f.string(&m.Stderr)
	case 4:
		return f.bool(&m.Terminal)
	}
	return nil
}

func (m *TaskStart) append(b []byte) []byte {
	return putUint(putString(b, 1, m.ContainerID), 2, uint64(m.Pid))
}

func (m *TaskStart) set(f field) error {
	if f.num == 2 {
		return f.uint32(&m.Pid)
	}
	return f.id(&m.ContainerID)
}

func (m *TaskDelete) append(b []byte) []byte {
	b = putString(b, 1, m.ContainerID)
	b = putUint(b, 2, uint64(m.Pid))
	b = putUint(b, 3, uint64(m.ExitStatus))
	b = putTime(b, 4, m.ExitedAt)
	return putString(b, 5, m.ID)
}

func (m *TaskDelete) set(f field) error {
	switch f.num {
	case 2:
		return f.uint32(&m.Pid)
	case 3:
		return f.uint32(&m.ExitStatus)
	case 4:
		return f.time(&m.ExitedAt)
	case 5:
		return f.string(&m.ID)
	}
	return f.id(&m.ContainerID)
}

func (m *TaskExit) append(b []byte) []byte {
	b = putProcess(b, m.ContainerID, m.ID)
	b = putUint(b, 3, uint64(m.Pid))
	b = putUint(b, 4, uint64(m.ExitStatus))
	return putTime(b, 5, m.ExitedAt)
}

func (m *TaskExit) set(f field) error {
	switch f.num {
	case 3:
		return f.uint32(&m.Pid)
	case 4:
		return f.uint32(&m.ExitStatus)
	case 5:
		return f.time(&m.ExitedAt)
	}
	return f.process(&m.ContainerID, &m.ID)
}

func (m *TaskOOM) append(b []byte) []byte { return putString(b, 1, m.ContainerID) }

func (m *TaskOOM) set(f field) error { return f.id(&m.ContainerID) }

func (m *TaskExecAdded) append(b []byte) []byte { return putProcess(b, m.ContainerID, m.ExecID) }

func (m *TaskExecAdded) set(f field) error { return f.process(&m.ContainerID, &m.ExecID) }

func (m *TaskExecStarted) append(b []byte) []byte {
	return putUint(putProcess(b, m.ContainerID, m.ExecID), 3, uint64(m.Pid))
}

func (m *TaskExecStarted) set(f field) error {
	if f.num == 3 {
		return f.uint32(&m.Pid)
	}
	return f.process(&m.ContainerID, &m.ExecID)
}

func (m *TaskPaused) append(b []byte) []byte { return putString(b, 1, m.ContainerID) }

func (m *TaskPaused) set(f field) error { return f.id(&m.ContainerID) }

func (m *TaskResumed) append(b []byte) []byte { return putString(b, 1, m.ContainerID) }

func (m *TaskResumed) set(f field) error { return f.id(&m.ContainerID) }

func (m *TaskCheckpointed) append(b []byte) []byte { return putProcess(b, m.ContainerID, m.Checkpoint) }

func (m *TaskCheckpointed) set(f field) error { return f.process(&m.ContainerID, &m.Checkpoint) }
