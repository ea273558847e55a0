// SPDX-License-Identifier: Apache-2.0

package event

import "time"

// A Payload is one of containerd's event messages (containerd/api/events/*.proto). Its JSON form has the
// proto field names.
type Payload interface {
	Topic() string // as containerd names it: /tasks/exit
	Type() string  // full protobuf name: containerd.events.TaskExit; those of images are in containerd.services.images.v1
}

// The payloads, grouped as the proto files are.
type (
	ContainerCreate struct {
		ID      string            `json:"id"`
		Image   string            `json:"image,omitempty"`
		Runtime *ContainerRuntime `json:"runtime,omitempty"`
	}
	// ContainerRuntime is ContainerCreate.Runtime.
	ContainerRuntime struct {
		Name string `json:"name"`
	}
	ContainerUpdate struct {
		ID          string            `json:"id"`
		Image       string            `json:"image,omitempty"`
		Labels      map[string]string `json:"labels,omitempty"`
		SnapshotKey string            `json:"snapshot_key,omitempty"`
	}
	ContainerDelete struct {
		ID string `json:"id"`
	}

	ContentCreate struct {
		Digest string `json:"digest"`
		Size   int64  `json:"size,omitempty"`
	}
	ContentDelete struct {
		Digest string `json:"digest"`
	}

	ImageCreate struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels,omitempty"`
	}
	ImageUpdate struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels,omitempty"`
	}
	ImageDelete struct {
		Name string `json:"name"`
	}

	NamespaceCreate struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels,omitempty"`
	}
	NamespaceUpdate struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels,omitempty"`
	}
	NamespaceDelete struct {
		Name string `json:"name"`
	}

	SnapshotPrepare struct {
		Key         string `json:"key"`
		Parent      string `json:"parent,omitempty"`
		Snapshotter string `json:"snapshotter"`
	}
	SnapshotCommit struct {
		Key         string `json:"key"`
		Name        string `json:"name"`
		Snapshotter string `json:"snapshotter"`
	}
	SnapshotRemove struct {
		Key         string `json:"key"`
		Snapshotter string `json:"snapshotter"`
	}

	SandboxCreate struct {
		SandboxID string `json:"sandbox_id"`
	}
	SandboxStart struct {
		SandboxID string `json:"sandbox_id"`
	}
	SandboxExit struct {
		SandboxID  string    `json:"sandbox_id"`
		ExitStatus uint32    `json:"exit_status"`
		ExitedAt   time.Time `json:"exited_at"`
	}

	// TaskIO is TaskCreate.IO.
	TaskIO struct {
		Stdin    string `json:"stdin,omitempty"`
		Stdout   string `json:"stdout,omitempty"`
		Stderr   string `json:"stderr,omitempty"`
		Terminal bool   `json:"terminal,omitempty"`
	}
	TaskCreate struct {
		ContainerID string  `json:"container_id"`
		Bundle      string  `json:"bundle"`
		IO          *TaskIO `json:"io,omitempty"`
		Checkpoint  string  `json:"checkpoint,omitempty"` // directory of what it is restored from
		Pid         uint32  `json:"pid"`
	}
	TaskStart struct {
		ContainerID string `json:"container_id"`
		Pid         uint32 `json:"pid"`
	}
	TaskDelete struct {
		ContainerID string    `json:"container_id"`
		ID          string    `json:"id,omitempty"`
		Pid         uint32    `json:"pid"`
		ExitStatus  uint32    `json:"exit_status"`
		ExitedAt    time.Time `json:"exited_at,omitzero"`
	}
	TaskExit struct {
		ContainerID string    `json:"container_id"`
		ID          string    `json:"id"`
		Pid         uint32    `json:"pid"`
		ExitStatus  uint32    `json:"exit_status"`
		ExitedAt    time.Time `json:"exited_at"`
	}
	TaskOOM struct {
		ContainerID string `json:"container_id"`
	}
	TaskExecAdded struct {
		ContainerID string `json:"container_id"`
		ExecID      string `json:"exec_id"`
	}
	TaskExecStarted struct {
		ContainerID string `json:"container_id"`
		ExecID      string `json:"exec_id"`
		Pid         uint32 `json:"pid"`
	}
	TaskPaused struct {
		ContainerID string `json:"container_id"`
	}
	TaskResumed struct {
		ContainerID string `json:"container_id"`
	}
	TaskCheckpointed struct {
		ContainerID string `json:"container_id"`
		Checkpoint  string `json:"checkpoint"`
	}
)

func (ContainerCreate) Topic() string  { return "/containers/create" }
func (ContainerCreate) Type() string   { return "containerd.events.ContainerCreate" }
func (ContainerUpdate) Topic() string  { return "/containers/update" }
func (ContainerUpdate) Type() string   { return "containerd.events.ContainerUpdate" }
func (ContainerDelete) Topic() string  { return "/containers/delete" }
func (ContainerDelete) Type() string   { return "containerd.events.ContainerDelete" }
func (ContentCreate) Topic() string    { return "/content/create" }
func (ContentCreate) Type() string     { return "containerd.events.ContentCreate" }
func (ContentDelete) Topic() string    { return "/content/delete" }
func (ContentDelete) Type() string     { return "containerd.events.ContentDelete" }
func (ImageCreate) Topic() string      { return "/images/create" }
func (ImageCreate) Type() string       { return "containerd.services.images.v1.ImageCreate" }
func (ImageUpdate) Topic() string      { return "/images/update" }
func (ImageUpdate) Type() string       { return "containerd.services.images.v1.ImageUpdate" }
func (ImageDelete) Topic() string      { return "/images/delete" }
func (ImageDelete) Type() string       { return "containerd.services.images.v1.ImageDelete" }
func (NamespaceCreate) Topic() string  { return "/namespaces/create" }
func (NamespaceCreate) Type() string   { return "containerd.events.NamespaceCreate" }
func (NamespaceUpdate) Topic() string  { return "/namespaces/update" }
func (NamespaceUpdate) Type() string   { return "containerd.events.NamespaceUpdate" }
func (NamespaceDelete) Topic() string  { return "/namespaces/delete" }
func (NamespaceDelete) Type() string   { return "containerd.events.NamespaceDelete" }
func (SnapshotPrepare) Topic() string  { return "/snapshot/prepare" }
func (SnapshotPrepare) Type() string   { return "containerd.events.SnapshotPrepare" }
func (SnapshotCommit) Topic() string   { return "/snapshot/commit" }
func (SnapshotCommit) Type() string    { return "containerd.events.SnapshotCommit" }
func (SnapshotRemove) Topic() string   { return "/snapshot/remove" }
func (SnapshotRemove) Type() string    { return "containerd.events.SnapshotRemove" }
func (SandboxCreate) Topic() string    { return "/sandboxes/create" }
func (SandboxCreate) Type() string     { return "containerd.events.SandboxCreate" }
func (SandboxStart) Topic() string     { return "/sandboxes/start" }
func (SandboxStart) Type() string      { return "containerd.events.SandboxStart" }
func (SandboxExit) Topic() string      { return "/sandboxes/exit" }
func (SandboxExit) Type() string       { return "containerd.events.SandboxExit" }
func (TaskCreate) Topic() string       { return "/tasks/create" }
func (TaskCreate) Type() string        { return "containerd.events.TaskCreate" }
func (TaskStart) Topic() string        { return "/tasks/start" }
func (TaskStart) Type() string         { return "containerd.events.TaskStart" }
func (TaskDelete) Topic() string       { return "/tasks/delete" }
func (TaskDelete) Type() string        { return "containerd.events.TaskDelete" }
func (TaskExit) Topic() string         { return "/tasks/exit" }
func (TaskExit) Type() string          { return "containerd.events.TaskExit" }
func (TaskOOM) Topic() string          { return "/tasks/oom" }
func (TaskOOM) Type() string           { return "containerd.events.TaskOOM" }
func (TaskExecAdded) Topic() string    { return "/tasks/exec-added" }
func (TaskExecAdded) Type() string     { return "containerd.events.TaskExecAdded" }
func (TaskExecStarted) Topic() string  { return "/tasks/exec-started" }
func (TaskExecStarted) Type() string   { return "containerd.events.TaskExecStarted" }
func (TaskPaused) Topic() string       { return "/tasks/paused" }
func (TaskPaused) Type() string        { return "containerd.events.TaskPaused" }
func (TaskResumed) Topic() string      { return "/tasks/resumed" }
func (TaskResumed) Type() string       { return "containerd.events.TaskResumed" }
func (TaskCheckpointed) Topic() string { return "/tasks/checkpointed" }
func (TaskCheckpointed) Type() string  { return "containerd.events.TaskCheckpointed" }
