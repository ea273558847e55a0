// SPDX-License-Identifier: Apache-2.0

package ask

// Checkpoint says what a checkpoint is like, and where it is or goes.
type Checkpoint struct {
	Dir       string   `json:"dir"`                  // of criu's images
	Parent    string   `json:"parent,omitempty"`     // an earlier checkpoint to which this one adds, relative to Dir
	Work      string   `json:"work,omitempty"`       // where criu writes its log; empty: Dir
	Exit      bool     `json:"exit,omitempty"`       // the processes end with it
	PreDump   bool     `json:"pre_dump,omitempty"`   // memory alone, as the parent of a later one
	TCP       bool     `json:"tcp,omitempty"`        // with TCP connections that are open
	Unix      bool     `json:"unix,omitempty"`       // with unix sockets whose other end is outside
	ShellJob  bool     `json:"shell_job,omitempty"`  // with a terminal that is not the container's own
	FileLocks bool     `json:"file_locks,omitempty"` // with locks of files
	Empty     []string `json:"empty,omitempty"`      // namespaces whose contents are left out: network
	Cgroups   string   `json:"cgroups,omitempty"`    // soft, full, strict or ignore; empty: criu's choice
}
