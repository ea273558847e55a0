// SPDX-License-Identifier: Apache-2.0

package taskapi

// Options is containerd.runc.v1.Options, the options of CreateTaskRequest for
// shims of runc and its like (containerd's api/types/runc/options/oci.proto).
// An empty name or path leaves the choice to the shim.
type Options struct {
	NoPivotRoot    bool   // move the rootfs to / instead of pivot_root
	NoNewKeyring   bool   // stay in the session keyring of the shim
	ShimCgroup     string // cgroup of the shim itself
	IoUID          uint32 // owner of the pipes of the container's streams
	IoGID          uint32
	BinaryName     string // name or path of the OCI engine
	Root           string // state directory of the OCI engine
	SystemdCgroup  bool   // cgroups are made by systemd
	CriuImagePath  string // directory for checkpoints made without a path
	CriuWorkPath   string // directory for what criu writes beside
	TaskAPIAddress string // task API that is already served elsewhere; deprecated
	TaskAPIVersion uint32 // its version, 2 or 3; deprecated
}

// CheckpointOptions is containerd.runc.v1.CheckpointOptions, the options of
// CheckpointTaskRequest.
type CheckpointOptions struct {
	Exit                bool // the task ends with the checkpoint
	OpenTCP             bool // keep open TCP connections
	ExternalUnixSockets bool // keep unix sockets whose other end is outside
	Terminal            bool // keep terminals
	FileLocks           bool // keep file locks
	EmptyNamespaces     []string
	CgroupsMode         string // soft, full or strict; empty: the engine's choice
	ImagePath           string // where the checkpoint goes
	WorkPath            string // where criu writes beside
	ParentPath          string // earlier checkpoint to which this one adds
}

// ProcessDetails is containerd.runc.v1.ProcessDetails, the Info of a
// ProcessInfo that is an exec.
type ProcessDetails struct{ ExecID string }

// ConfigOptions is runtimeoptions.v1.Options, the options of
// CreateTaskRequest for other shims, kata's and runsc's among them: a
// configuration file, or its content.
type ConfigOptions struct {
	TypeURL    string // says what the file holds
	ConfigPath string
	ConfigBody []byte // used when ConfigPath is empty
}

// RuncOptionsURL is the type of Options in an Any.
const RuncOptionsURL = "containerd.runc.v1.Options"

// ExecID is the exec whose first process p is, where the shim tells that; it is
// empty for init and for what a program has started.
func (p *ProcessInfo) ExecID() string {
	var d ProcessDetails
	if p.Info.To(&d) != nil {
		return ""
	}
	return d.ExecID
}

func (*Options) typeName() string           { return RuncOptionsURL }
func (*CheckpointOptions) typeName() string { return "containerd.runc.v1.CheckpointOptions" }
func (*ProcessDetails) typeName() string    { return "containerd.runc.v1.ProcessDetails" }
func (*ConfigOptions) typeName() string     { return "runtimeoptions.v1.Options" }

func (m *Options) append(b []byte) []byte {
	b = putBool(b, 1, m.NoPivotRoot)
	b = putBool(b, 2, m.NoNewKeyring)
	b = putString(b, 3, m.ShimCgroup)
	b = putUint(b, 4, uint64(m.IoUID))
	b = putUint(b, 5, uint64(m.IoGID))
	b = putString(b, 6, m.BinaryName)
	b = putString(b, 7, m.Root)
	b = putBool(b, 9, m.SystemdCgroup)
	b = putString(b, 10, m.CriuImagePath)
	b = putString(b, 11, m.CriuWorkPath)
	b = putString(b, 12, m.TaskAPIAddress)
	return putUint(b, 13, uint64(m.TaskAPIVersion))
}

func (m *Options) set(f field) error {
	switch f.num {
	case 1:
		return f.bool(&m.NoPivotRoot)
	case 2:
		return f.bool(&m.NoNewKeyring)
	case 3:
		return f.string(&m.ShimCgroup)
	case 4:
		return f.uint32(&m.IoUID)
	case 5:
		return f.uint32(&m.IoGID)
	case 6:
		return f.string(&m.BinaryName)
	case 7:
		return f.string(&m.Root)
	case 9:
		return f.bool(&m.SystemdCgroup)
	case 10:
		return f.string(&m.CriuImagePath)
	case 11:
		return f.string(&m.CriuWorkPath)
	case 12:
		return f.string(&m.TaskAPIAddress)
	case 13:
		return f.uint32(&m.TaskAPIVersion)
	}
	return nil
}

func (m *CheckpointOptions) append(b []byte) []byte {
	b = putBool(b, 1, m.Exit)
	b = putBool(b, 2, m.OpenTCP)
	b = putBool(b, 3, m.ExternalUnixSockets)
	b = putBool(b, 4, m.Terminal)
	b = putBool(b, 5, m.FileLocks)
	b = putStrings(b, 6, m.EmptyNamespaces)
	b = putString(b, 7, m.CgroupsMode)
	b = putString(b, 8, m.ImagePath)
	b = putString(b, 9, m.WorkPath)
	return putString(b, 10, m.ParentPath)
}

func (m *CheckpointOptions) set(f field) error {
	switch f.num {
	case 1:
		return f.bool(&m.Exit)
	case 2:
		return f.bool(&m.OpenTCP)
	case 3:
		return f.bool(&m.ExternalUnixSockets)
	case 4:
		return f.bool(&m.Terminal)
	case 5:
		return f.bool(&m.FileLocks)
	case 6:
		return f.strings(&m.EmptyNamespaces)
	case 7:
		return f.string(&m.CgroupsMode)
	case 8:
		return f.string(&m.ImagePath)
	case 9:
		return f.string(&m.WorkPath)
	case 10:
		return f.string(&m.ParentPath)
	}
	return nil
}

func (m *ProcessDetails) append(b []byte) []byte { return putString(b, 1, m.ExecID) }

func (m *ProcessDetails) set(f field) error { return f.id(&m.ExecID) }

func (m *ConfigOptions) append(b []byte) []byte {
	b = putString(b, 1, m.TypeURL)
	b = putString(b, 2, m.ConfigPath)
	return putBytes(b, 3, m.ConfigBody)
}

func (m *ConfigOptions) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.TypeURL)
	case 2:
		return f.string(&m.ConfigPath)
	case 3:
		return f.bytes(&m.ConfigBody)
	}
	return nil
}
