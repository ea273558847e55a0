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
	ParentPath          string // earlier checkpoint to which this one adds, relative to ImagePath
}

// PreDump is of ctr-shim alone, in place of CheckpointOptions: memory is written, as the parent of a later checkpoint.
type PreDump struct {
	Options []byte // the encoded CheckpointOptions
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
func (*PreDump) typeName() string           { return "dev.ctrd.task.PreDump" }
func (*ProcessDetails) typeName() string    { return "containerd.runc.v1.ProcessDetails" }
func (*ConfigOptions) typeName() string     { return "runtimeoptions.v1.Options" }

func (m *Options) fields(c *codec) {
	c.bool(1, &m.NoPivotRoot)
	c.bool(2, &m.NoNewKeyring)
	c.string(3, &m.ShimCgroup)
	c.uint32(4, &m.IoUID)
	c.uint32(5, &m.IoGID)
	c.string(6, &m.BinaryName)
	c.string(7, &m.Root)
	c.bool(9, &m.SystemdCgroup)
	c.string(10, &m.CriuImagePath)
	c.string(11, &m.CriuWorkPath)
	c.string(12, &m.TaskAPIAddress)
	c.uint32(13, &m.TaskAPIVersion)
}

func (m *CheckpointOptions) fields(c *codec) {
	c.bool(1, &m.Exit)
	c.bool(2, &m.OpenTCP)
	c.bool(3, &m.ExternalUnixSockets)
	c.bool(4, &m.Terminal)
	c.bool(5, &m.FileLocks)
	c.strings(6, &m.EmptyNamespaces)
	c.string(7, &m.CgroupsMode)
	c.string(8, &m.ImagePath)
	c.string(9, &m.WorkPath)
	c.string(10, &m.ParentPath)
}

func (m *PreDump) fields(c *codec) { c.bytes(1, &m.Options) }

func (m *ProcessDetails) fields(c *codec) { c.string(1, &m.ExecID) }

func (m *ConfigOptions) fields(c *codec) {
	c.string(1, &m.TypeURL)
	c.string(2, &m.ConfigPath)
	c.bytes(3, &m.ConfigBody)
}
