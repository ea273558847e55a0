// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// empty is google.protobuf.Empty.
type empty struct{}

func (*empty) append(b []byte) []byte { return b }
func (*empty) set(field) error        { return nil }

func (m *Any) append(b []byte) []byte {
	b = putString(b, 1, m.TypeURL)
	return putBytes(b, 2, m.Value)
}

func (m *Any) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.TypeURL)
	case 2:
		return f.bytes(&m.Value)
	}
	return nil
}

// mountMessage is a Mount on the wire.
type mountMessage Mount

func (m *mountMessage) append(b []byte) []byte {
	b = putString(b, 1, m.Type)
	b = putString(b, 2, m.Source)
	b = putString(b, 3, m.Target)
	return putStrings(b, 4, m.Options)
}

func (m *mountMessage) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.Type)
	case 2:
		return f.string(&m.Source)
	case 3:
		return f.string(&m.Target)
	case 4:
		return f.strings(&m.Options)
	}
	return nil
}

func (m *ProcessInfo) append(b []byte) []byte {
	b = putUint(b, 1, uint64(m.Pid))
	return putAny(b, 2, m.Info)
}

func (m *ProcessInfo) set(f field) error {
	switch f.num {
	case 1:
		return f.uint32(&m.Pid)
	case 2:
		return f.any(&m.Info)
	}
	return nil
}

func (m *CreateTaskRequest) append(b []byte) []byte {
	b = putString(b, 1, m.ID)
	b = putString(b, 2, m.Bundle)
	b = putMounts(b, 3, m.Rootfs)
	b = putBool(b, 4, m.Terminal)
	b = putString(b, 5, m.Stdin)
	b = putString(b, 6, m.Stdout)
	b = putString(b, 7, m.Stderr)
	b = putString(b, 8, m.Checkpoint)
	b = putString(b, 9, m.ParentCheckpoint)
	return putAny(b, 10, m.Options)
}

func (m *CreateTaskRequest) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.ID)
	case 2:
		return f.string(&m.Bundle)
	case 3:
		return f.mount(&m.Rootfs)
	case 4:
		return f.bool(&m.Terminal)
	case 5:
		return f.string(&m.Stdin)
	case 6:
		return f.string(&m.Stdout)
	case 7:
		return f.string(&m.Stderr)
	case 8:
		return f.string(&m.Checkpoint)
	case 9:
		return f.string(&m.ParentCheckpoint)
	case 10:
		return f.any(&m.Options)
	}
	return nil
}

func (m *CreateTaskResponse) append(b []byte) []byte { return putUint(b, 1, uint64(m.Pid)) }

func (m *CreateTaskResponse) set(f field) error { return f.only(1, &m.Pid) }

func (m *StartRequest) append(b []byte) []byte { return putProcess(b, m.ID, m.ExecID) }

func (m *StartRequest) set(f field) error { return f.process(&m.ID, &m.ExecID) }

func (m *StartResponse) append(b []byte) []byte { return putUint(b, 1, uint64(m.Pid)) }

func (m *StartResponse) set(f field) error { return f.only(1, &m.Pid) }

func (m *DeleteRequest) append(b []byte) []byte { return putProcess(b, m.ID, m.ExecID) }

func (m *DeleteRequest) set(f field) error { return f.process(&m.ID, &m.ExecID) }

func (m *DeleteResponse) append(b []byte) []byte {
	b = putUint(b, 1, uint64(m.Pid))
	b = putUint(b, 2, uint64(m.ExitStatus))
	return putTime(b, 3, m.ExitedAt)
}

func (m *DeleteResponse) set(f field) error {
	switch f.num {
	case 1:
		return f.uint32(&m.Pid)
	case 2:
		return f.uint32(&m.ExitStatus)
	case 3:
		return f.time(&m.ExitedAt)
	}
	return nil
}

func (m *ExecProcessRequest) append(b []byte) []byte {
	b = putProcess(b, m.ID, m.ExecID)
	b = putBool(b, 3, m.Terminal)
	b = putString(b, 4, m.Stdin)
	b = putString(b, 5, m.Stdout)
	b = putString(b, 6, m.Stderr)
	return putAny(b, 7, m.Spec)
}

func (m *ExecProcessRequest) set(f field) error {
	switch f.num {
	case 3:
		return f.bool(&m.Terminal)
	case 4:
		return f.string(&m.Stdin)
	case 5:
		return f.string(&m.Stdout)
	case 6:
		return f.string(&m.Stderr)
	case 7:
		return f.any(&m.Spec)
	}
	return f.process(&m.ID, &m.ExecID)
}

func (m *ResizePtyRequest) append(b []byte) []byte {
	b = putProcess(b, m.ID, m.ExecID)
	b = putUint(b, 3, uint64(m.Width))
	return putUint(b, 4, uint64(m.Height))
}

func (m *ResizePtyRequest) set(f field) error {
	switch f.num {
	case 3:
		return f.uint32(&m.Width)
	case 4:
		return f.uint32(&m.Height)
	}
	return f.process(&m.ID, &m.ExecID)
}

func (m *StateRequest) append(b []byte) []byte { return putProcess(b, m.ID, m.ExecID) }

func (m *StateRequest) set(f field) error { return f.process(&m.ID, &m.ExecID) }

func (m *StateResponse) append(b []byte) []byte {
	b = putString(b, 1, m.ID)
	b = putString(b, 2, m.Bundle)
	b = putUint(b, 3, uint64(m.Pid))
	// A negative enum value is sign-extended to ten bytes on the wire.
	b = putUint(b, 4, uint64(int64(m.Status)))
	b = putString(b, 5, m.Stdin)
	b = putString(b, 6, m.Stdout)
	b = putString(b, 7, m.Stderr)
	b = putBool(b, 8, m.Terminal)
	b = putUint(b, 9, uint64(m.ExitStatus))
	b = putTime(b, 10, m.ExitedAt)
	return putString(b, 11, m.ExecID)
}

func (m *StateResponse) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.ID)
	case 2:
		return f.string(&m.Bundle)
	case 3:
		return f.uint32(&m.Pid)
	case 4:
		return f.int32((*int32)(&m.Status))
	case 5:
		return f.string(&m.Stdin)
	case 6:
		return f.string(&m.Stdout)
	case 7:
		return f.string(&m.Stderr)
	case 8:
		return f.bool(&m.Terminal)
	case 9:
		return f.uint32(&m.ExitStatus)
	case 10:
		return f.time(&m.ExitedAt)
	case 11:
		return f.string(&m.ExecID)
	}
	return nil
}

func (m *KillRequest) append(b []byte) []byte {
	b = putProcess(b, m.ID, m.ExecID)
	b = putUint(b, 3, uint64(m.Signal))
	return putBool(b, 4, m.All)
}

func (m *KillRequest) set(f field) error {
	switch f.num {
	case 3:
		return f.uint32(&m.Signal)
	case 4:
		return f.bool(&m.All)
	}
	return f.process(&m.ID, &m.ExecID)
}

func (m *CloseIORequest) append(b []byte) []byte {
	b = putProcess(b, m.ID, m.ExecID)
	return putBool(b, 3, m.Stdin)
}

func (m *CloseIORequest) set(f field) error {
	if f.num == 3 {
		return f.bool(&m.Stdin)
	}
	return f.process(&m.ID, &m.ExecID)
}

func (m *PidsRequest) append(b []byte) []byte { return putString(b, 1, m.ID) }

func (m *PidsRequest) set(f field) error { return f.id(&m.ID) }

func (m *PidsResponse) append(b []byte) []byte {
	for i := range m.Processes {
		b = putMessage(b, 1, &m.Processes[i])
	}
	return b
}

func (m *PidsResponse) set(f field) error {
	if f.num != 1 || f.typ != protowire.BytesType {
		return nil
	}
	m.Processes = append(m.Processes, ProcessInfo{})
	return decode(f.b, &m.Processes[len(m.Processes)-1])
}

func (m *CheckpointTaskRequest) append(b []byte) []byte {
	b = putString(b, 1, m.ID)
	b = putString(b, 2, m.Path)
	return putAny(b, 3, m.Options)
}

func (m *CheckpointTaskRequest) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.ID)
	case 2:
		return f.string(&m.Path)
	case 3:
		return f.any(&m.Options)
	}
	return nil
}

func (m *UpdateTaskRequest) append(b []byte) []byte {
	b = putString(b, 1, m.ID)
	b = putAny(b, 2, m.Resources)
	return putMap(b, 3, m.Annotations)
}

func (m *UpdateTaskRequest) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.ID)
	case 2:
		return f.any(&m.Resources)
	case 3:
		return f.strmap(&m.Annotations)
	}
	return nil
}

func (m *WaitRequest) append(b []byte) []byte { return putProcess(b, m.ID, m.ExecID) }

func (m *WaitRequest) set(f field) error { return f.process(&m.ID, &m.ExecID) }

func (m *WaitResponse) append(b []byte) []byte {
	b = putUint(b, 1, uint64(m.ExitStatus))
	return putTime(b, 2, m.ExitedAt)
}

func (m *WaitResponse) set(f field) error {
	switch f.num {
	case 1:
		return f.uint32(&m.ExitStatus)
	case 2:
		return f.time(&m.ExitedAt)
	}
	return nil
}

func (m *StatsRequest) append(b []byte) []byte { return putString(b, 1, m.ID) }

func (m *StatsRequest) set(f field) error { return f.id(&m.ID) }

func (m *StatsResponse) append(b []byte) []byte { return putAny(b, 1, m.Stats) }

func (m *StatsResponse) set(f field) error {
	if f.num == 1 {
		return f.any(&m.Stats)
	}
	return nil
}

func (m *ConnectRequest) append(b []byte) []byte { return putString(b, 1, m.ID) }

func (m *ConnectRequest) set(f field) error { return f.id(&m.ID) }

func (m *ConnectResponse) append(b []byte) []byte {
	b = putUint(b, 1, uint64(m.ShimPid))
	b = putUint(b, 2, uint64(m.TaskPid))
	return putString(b, 3, m.Version)
}

func (m *ConnectResponse) set(f field) error {
	switch f.num {
	case 1:
		return f.uint32(&m.ShimPid)
	case 2:
		return f.uint32(&m.TaskPid)
	case 3:
		return f.string(&m.Version)
	}
	return nil
}

func (m *ShutdownRequest) append(b []byte) []byte {
	b = putString(b, 1, m.ID)
	return putBool(b, 2, m.Now)
}

func (m *ShutdownRequest) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.ID)
	case 2:
		return f.bool(&m.Now)
	}
	return nil
}

func (m *PauseRequest) append(b []byte) []byte { return putString(b, 1, m.ID) }

func (m *PauseRequest) set(f field) error { return f.id(&m.ID) }

func (m *ResumeRequest) append(b []byte) []byte { return putString(b, 1, m.ID) }

func (m *ResumeRequest) set(f field) error { return f.id(&m.ID) }
