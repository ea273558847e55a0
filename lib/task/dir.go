// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// Names in the task directory.
const (
	startLock  = "start.lock"
	shimLock   = "shim.lock"
	spawnLock  = "spawn.lock"
	clientLock = "client.lock"
	shimFile   = "shim.json"
	initFile   = "init.json"
	exitFile   = "exit.json"
	configFile = "config.json"
	stdinFIFO  = "stdin"
)

// Dir is the directory of a task; it need not exist.
func Dir(d *state.Dir, ns, id string) string { return d.Run("tasks", ns, id) }

// LogPath is the output log of a container.
func LogPath(d *state.Dir, ns, id string) string { return d.Path("containers", ns, id, "log") }

// Process names a process so that a reused pid is not mistaken for it.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, field 22 of /proc/<pid>/stat
}

// Supervisor is what shim.json says.
type Supervisor struct {
	Process
	Address string `json:"address"`
	Version int    `json:"version"`
}

// Exit is how a task ended.
type Exit struct {
	Status   int       `json:"status"` // 128+n when signal n ended it
	ExitedAt time.Time `json:"exited_at"`
	OOM      bool      `json:"oom,omitempty"`
	Reason   string    `json:"reason,omitempty"` // set when it was not the process itself that ended
}

// readJSON reads a file of the task directory; it reports false when the file is not there.
func readJSON(dir, name string, v any) (bool, error) {
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

// live tells whether anybody has the task: its supervisor or the command that is starting it.
func live(dir string) (bool, error) { return anyHeld(dir, shimLock, startLock, spawnLock) }

// supervised tells whether the task's supervisor lives, from its first moment to its last.
func supervised(dir string) (bool, error) { return anyHeld(dir, shimLock, spawnLock) }

func anyHeld(dir string, names ...string) (bool, error) {
	for _, name := range names {
		held, err := lock.IsHeld(filepath.Join(dir, name))
		if held || err != nil {
			return held, err
		}
	}
	return false, nil
}

// open gives a pidfd of the process, or -1 when it has ended.
func (p Process) open() int {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return -1
	}
	if t, err := startTime(p.PID); err != nil || t != p.StartTime {
		unix.Close(fd)
		return -1
	}
	return fd
}

// startTime reads field 22 of /proc/<pid>/stat (proc(5)).
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in field 2 may hold blanks and parentheses.
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// cgroupPath names the cgroup of a container. It is flat: a parent that containers share could be
// removed by one while another is made in it. Another state directory than the usual one marks its
// cgroups, so that two of them never meet.
func cgroupPath(d *state.Dir, parent, ns, id string) string {
	mark := ""
	if d.Run() != state.DefaultState {
		h := sha256.Sum256([]byte(d.Run()))
		mark = "-" + hex.EncodeToString(h[:3])
	}
	return filepath.Join("/", parent, "ctrd"+mark+"--"+ns+"--"+id)
}

// Dirs yields namespace/id of every task directory.
func Dirs(d *state.Dir) iter.Seq2[string, error] { return twoLevels(d.Run("tasks")) }

// LogDirs yields namespace/id of every container's log directory.
func LogDirs(d *state.Dir) iter.Seq2[string, error] { return twoLevels(d.Path("containers")) }

// twoLevels yields the names a/b below a directory, which may be missing.
func twoLevels(dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		outer, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			yield("", err)
			return
		}
		for _, o := range outer {
			inner, err := os.ReadDir(filepath.Join(dir, o.Name()))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				yield("", err)
				return
			}
			for _, i := range inner {
				if !yield(o.Name()+"/"+i.Name(), nil) {
					return
				}
			}
		}
	}
}
