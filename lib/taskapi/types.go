// SPDX-License-Identifier: Apache-2.0

package taskapi

import "time"

// Any is google.protobuf.Any: a value whose meaning its type URL gives.
type Any struct {
	TypeURL string
	Value   []byte
}

// Mount is containerd.types.Mount. Target is a path below the rootfs, empty
// for the rootfs itself.
type Mount struct {
	Type, Source, Target string
	Options              []string
}

// Status is the state of a process, with the numbers of
// containerd.v1.types.Status.
type Status int32

// The states of a process.
const (
	StatusUnknown Status = 0
	StatusCreated Status = 1
	StatusRunning Status = 2
	StatusStopped Status = 3
	StatusPaused  Status = 4
	StatusPausing Status = 5
)

// String gives the state in lower case; a number that has no name is "unknown".
func (s Status) String() string {
	switch s {
	case StatusCreated:
		return "created"
	case StatusRunning:
		return "running"
	case StatusStopped:
		return "stopped"
	case StatusPaused:
		return "paused"
	case StatusPausing:
		return "pausing"
	}
	return "unknown"
}

// ProcessInfo is one process of a task. Pid is seen from the host.
type ProcessInfo struct {
	Pid  uint32
	Info *Any
}

// CreateTaskRequest asks for the container of a bundle to be set up, its init
// process not yet running.
type CreateTaskRequest struct {
	ID               string
	Bundle           string // directory with config.json
	Rootfs           []Mount
	Terminal         bool
	Stdin            string // FIFO path, or empty
	Stdout           string // FIFO path or URL, or empty
	Stderr           string
	Checkpoint       string // directory of a checkpoint to restore, or empty
	ParentCheckpoint string
	Options          *Any
}

// CreateTaskResponse has the pid of init, seen from the host.
type CreateTaskResponse struct {
	Pid uint32
}

// StartRequest asks for the init process (ExecID empty) or an exec to run.
type StartRequest struct {
	ID     string
	ExecID string
}

// StartResponse has the pid of the started process, seen from the host.
type StartResponse struct {
	Pid uint32
}

// DeleteRequest asks for a stopped task (ExecID empty) or exec to be removed.
type DeleteRequest struct {
	ID     string
	ExecID string
}

// DeleteResponse tells how the removed process ended.
type DeleteResponse struct {
	Pid        uint32
	ExitStatus uint32
	ExitedAt   time.Time
}

// ExecProcessRequest adds a process to a task; StartRequest runs it. The value
// of Spec is the JSON of an OCI runtime process.
type ExecProcessRequest struct {
	ID       string
	ExecID   string
	Terminal bool
	Stdin    string
	Stdout   string
	Stderr   string
	Spec     *Any
}

// ResizePtyRequest sets the size of a process's terminal, in characters.
type ResizePtyRequest struct {
	ID     string
	ExecID string
	Width  uint32
	Height uint32
}

// StateRequest asks for the state of init (ExecID empty) or an exec.
type StateRequest struct {
	ID     string
	ExecID string
}

// StateResponse is the state of one process. ExitStatus and ExitedAt mean
// something once Status is StatusStopped.
type StateResponse struct {
	ID         string
	Bundle     string
	Pid        uint32
	Status     Status
	Stdin      string
	Stdout     string
	Stderr     string
	Terminal   bool
	ExitStatus uint32
	ExitedAt   time.Time
	ExecID     string
}

// KillRequest sends a signal to init (ExecID empty), an exec, or, with All,
// every process of the task.
type KillRequest struct {
	ID     string
	ExecID string
	Signal uint32
	All    bool
}

// CloseIORequest closes streams of a process; Stdin is the only one there is.
type CloseIORequest struct {
	ID     string
	ExecID string
	Stdin  bool
}

// PidsRequest asks for all processes of a task.
type PidsRequest struct {
	ID string
}

// PidsResponse has all processes of a task.
type PidsResponse struct {
	Processes []ProcessInfo
}

// CheckpointTaskRequest asks for a checkpoint of the task in directory Path.
type CheckpointTaskRequest struct {
	ID      string
	Path    string
	Options *Any
}

// UpdateTaskRequest changes the limits of a running task. The value of
// Resources is the JSON of OCI runtime linux resources.
type UpdateTaskRequest struct {
	ID          string
	Resources   *Any
	Annotations map[string]string
}

// WaitRequest asks for the end of init (ExecID empty) or an exec.
type WaitRequest struct {
	ID     string
	ExecID string
}

// WaitResponse tells how a process ended.
type WaitResponse struct {
	ExitStatus uint32
	ExitedAt   time.Time
}

// StatsRequest asks for what a task uses.
type StatsRequest struct {
	ID string
}

// StatsResponse has what a task uses, see MetricsV1 and MetricsV2.
type StatsResponse struct {
	Stats *Any
}

// ConnectRequest asks a shim who it is.
type ConnectRequest struct {
	ID string
}

// ConnectResponse tells who the shim is.
type ConnectResponse struct {
	ShimPid uint32
	TaskPid uint32
	Version string
}

// ShutdownRequest asks the shim to end; with Now also when tasks are left.
type ShutdownRequest struct {
	ID  string
	Now bool
}

// PauseRequest freezes all processes of a task.
type PauseRequest struct {
	ID string
}

// ResumeRequest thaws a paused task.
type ResumeRequest struct {
	ID string
}
