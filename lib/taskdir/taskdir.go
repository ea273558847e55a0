// SPDX-License-Identifier: Apache-2.0

// Package taskdir is the directory of a task: the names in it and what its files say. The commands and the
// supervisor speak by it, so it is what both import; ARCHITECTURE.md has who writes what, and what follows.
package taskdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Names in the directory.
const (
	StartLock  = "start.lock"  // held by the starter
	SpawnLock  = "spawn.lock"  // held by the supervisor from its first moment on, inherited from the starter
	ShimLock   = "shim.lock"   // held by the supervisor
	ClientLock = "client.lock" // held by a client that ends the input, and removes what is transient, itself; also of an exec
	Config     = "config.json" // the OCI bundle's
	Stdin      = "stdin"       // FIFO
	Shim       = "shim.json"   // Supervisor, once it listens
	Init       = "init.json"   // Process, once it exists
	End        = "exit.json"   // Exit
	Rootfs     = "rootfs"      // where the supervisor mounts
	Engine     = "engine"      // the engine's own
	ShimLog    = "shim.log"    // what the supervisor has to say
)

// Process names a process so that a reused pid is not mistaken for it.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, field 22 of /proc/<pid>/stat
}

// Supervisor is what shim.json says.
type Supervisor struct {
	Process
	Address string `json:"address"`
	Version int    `json:"version"` // of the task API
}

// Exit is how a task, or an exec, ended.
type Exit struct {
	Status   int       `json:"status"` // 128+n when signal n ended it
	ExitedAt time.Time `json:"exited_at"`
	OOM      bool      `json:"oom,omitempty"`
	Reason   string    `json:"reason,omitempty"` // set when it was not the process itself that ended
	Lost     uint64    `json:"lost,omitempty"`   // bytes of its output that could not be written to the log
}

// Read reads a file of the directory into v; it reports false when the file is not there.
func Read(dir, name string, v any) (bool, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return false, fmt.Errorf("task file %s: %w", filepath.Join(dir, name), err)
	}
	return true, nil
}

// Write puts a file in place in one step. The directory is of this boot only, so nothing is synced. Each
// file has one writer at a time.
func Write(dir, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
