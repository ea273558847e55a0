// SPDX-License-Identifier: Apache-2.0

package taskapi

// empty is google.protobuf.Empty.
type empty struct{}

func (*empty) fields(*codec) {}

func (m *Any) fields(c *codec) {
	c.string(1, &m.TypeURL)
	c.bytes(2, &m.Value)
}

// mountMessage is a Mount on the wire.
type mountMessage Mount

func (m *mountMessage) fields(c *codec) {
	c.string(1, &m.Type)
	c.string(2, &m.Source)
	c.string(3, &m.Target)
	c.strings(4, &m.Options)
}

func (m *ProcessInfo) fields(c *codec) {
	c.uint32(1, &m.Pid)
	c.any(2, &m.Info)
}

func (m *CreateTaskRequest) fields(c *codec) {
	c.string(1, &m.ID)
	c.string(2, &m.Bundle)
	c.mounts(3, &m.Rootfs)
	c.bool(4, &m.Terminal)
	c.string(5, &m.Stdin)
	c.string(6, &m.Stdout)
	c.string(7, &m.Stderr)
	c.string(8, &m.Checkpoint)
	c.string(9, &m.ParentCheckpoint)
	c.any(10, &m.Options)
}

func (m *CreateTaskResponse) fields(c *codec) { c.uint32(1, &m.Pid) }

func (m *StartRequest) fields(c *codec) { c.process(&m.ID, &m.ExecID) }

func (m *StartResponse) fields(c *codec) { c.uint32(1, &m.Pid) }

func (m *DeleteRequest) fields(c *codec) { c.process(&m.ID, &m.ExecID) }

func (m *DeleteResponse) fields(c *codec) {
	c.uint32(1, &m.Pid)
	c.uint32(2, &m.ExitStatus)
	c.time(3, &m.ExitedAt)
}

func (m *ExecProcessRequest) fields(c *codec) {
	c.process(&m.ID, &m.ExecID)
	c.bool(3, &m.Terminal)
	c.string(4, &m.Stdin)
	c.string(5, &m.Stdout)
	c.string(6, &m.Stderr)
	c.any(7, &m.Spec)
}

func (m *ResizePtyRequest) fields(c *codec) {
	c.process(&m.ID, &m.ExecID)
	c.uint32(3, &m.Width)
	c.uint32(4, &m.Height)
}

func (m *StateRequest) fields(c *codec) { c.process(&m.ID, &m.ExecID) }

func (m *StateResponse) fields(c *codec) {
	c.string(1, &m.ID)
	c.string(2, &m.Bundle)
	c.uint32(3, &m.Pid)
	c.int32(4, (*int32)(&m.Status))
	c.string(5, &m.Stdin)
	c.string(6, &m.Stdout)
	c.string(7, &m.Stderr)
	c.bool(8, &m.Terminal)
	c.uint32(9, &m.ExitStatus)
	c.time(10, &m.ExitedAt)
	c.string(11, &m.ExecID)
}

func (m *KillRequest) fields(c *codec) {
	c.process(&m.ID, &m.ExecID)
	c.uint32(3, &m.Signal)
	c.bool(4, &m.All)
}

func (m *CloseIORequest) fields(c *codec) {
	c.process(&m.ID, &m.ExecID)
	c.bool(3, &m.Stdin)
}

func (m *PidsRequest) fields(c *codec) { c.string(1, &m.ID) }

func (m *PidsResponse) fields(c *codec) {
	repeated(c, 1, &m.Processes, 0, func(p *ProcessInfo) message { return p })
}

func (m *CheckpointTaskRequest) fields(c *codec) {
	c.string(1, &m.ID)
	c.string(2, &m.Path)
	c.any(3, &m.Options)
}

func (m *UpdateTaskRequest) fields(c *codec) {
	c.string(1, &m.ID)
	c.any(2, &m.Resources)
	c.strmap(3, &m.Annotations)
}

func (m *WaitRequest) fields(c *codec) { c.process(&m.ID, &m.ExecID) }

func (m *WaitResponse) fields(c *codec) {
	c.uint32(1, &m.ExitStatus)
	c.time(2, &m.ExitedAt)
}

func (m *StatsRequest) fields(c *codec) { c.string(1, &m.ID) }

func (m *StatsResponse) fields(c *codec) { c.any(1, &m.Stats) }

func (m *ConnectRequest) fields(c *codec) { c.string(1, &m.ID) }

func (m *ConnectResponse) fields(c *codec) {
	c.uint32(1, &m.ShimPid)
	c.uint32(2, &m.TaskPid)
	c.string(3, &m.Version)
}

func (m *ShutdownRequest) fields(c *codec) {
	c.string(1, &m.ID)
	c.bool(2, &m.Now)
}

func (m *PauseRequest) fields(c *codec) { c.string(1, &m.ID) }

func (m *ResumeRequest) fields(c *codec) { c.string(1, &m.ID) }
