// SPDX-License-Identifier: Apache-2.0

// Package taskdir is the directory of a task: the names in it and what its files say. The commands and the
// supervisor communicate through it, so both import this package; ARCHITECTURE.md says who writes what.
//
// # On disk
//
// <state>/tasks/<namespace>/<id>/<incarnation>/, and <state>/io.containerd.runtime.v2.task/<namespace>/<id>. An incarnation is random and never used again: whoever names
// a task directory names one start of one container, and an act that comes late meets no directory instead
// of another task.
//
// # Locks
//
// The directory is made and removed under the lock container <namespace>/<id>. Its files are read without.
package taskdir

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/smallfile"
)

// Names in the directory.
const (
	Record     = "task.json"   // Task; the first file of the directory
	StartLock  = "start.lock"  // held by the starter until Create is answered
	SpawnLock  = "spawn.lock"  // held by the supervisor from its first moment on, inherited from the starter
	ShimLock   = "shim.lock"   // held by the supervisor as long as it has the task
	EngineLock = "engine.lock" // held by the supervisor as well, and by each engine that it has started
	// RestartLock is held by the supervisor, and then by the command that it has start the task again.
	RestartLock = "restart.lock"
	ClientLock  = "client.lock"  // held by a client that the task, or an exec, depends on
	Config      = "config.json"  // the OCI bundle's
	Stdin       = "stdin"        // FIFO
	Shim        = "shim.json"    // Supervisor
	Init        = "init.json"    // Process, once it exists: the task is created
	Begun       = "started.json" // Started: the program runs
	End         = "exit.json"    // Exit
	Lost        = "lost.json"    // Dropped, once output could not be written
	Stopping    = "stopping"     // see MarkStopping
	Rootfs      = "rootfs"       // where the engine mounts
	Engine      = "engine"       // the engine's own
	Execs       = "execs"        // a directory for each exec
	ExecIO      = "io.json"      // IO, in the directory of an exec that a client of the API has added
	ShimLog     = "shim.log"     // what the supervisor has to say
	Told        = "told.json"    // Logged: how much of that ctrd has in its own log
	Bundle      = "bundle"       // a directory for containerd's tools; see [Bundles]
)

// Bundles is a directory of the state directory, named as containerd names that of its bundles. NS/ID there is a link to what
// containerd's tools look for in the bundle of a task that a client of the API has made.
const Bundles = "io.containerd.runtime.v2.task"

// Names in such a bundle, as containerd has them. There is config.json as well, but no rootfs, which is mounted where only the
// container sees it. The bundle of a foreign shim has what that puts there, and a file in place of the FIFO.
const (
	BundleLog  = "log"              // FIFO: lines that are written to it go to ShimLog, as long as the task is supervised
	BundleShim = "shim-binary-path" // the path of the shim's program, absolute, with no newline
	BundleInit = "init.pid"         // the pid of the first process
)

// Logged is what told.json says.
type Logged struct {
	Bytes int64 `json:"bytes"`
}

// Incarnation names one start of a container: 13 lower-case letters and digits.
type Incarnation string

// NewIncarnation makes a random one.
func NewIncarnation() Incarnation { return Incarnation(strings.ToLower(rand.Text()[:13])) }

// Owner says who removes a container at the end of its task, and whose death ends it.
type Owner string

// The owners of a task.
const (
	// Client is a foreground `run --rm`. The death of the process that holds ClientLock ends the task. When
	// that process removes the lock file instead, the supervisor is the owner from then on.
	Client Owner = "client"
	// ByShim is `run -d --rm`: the supervisor has the container removed at the end.
	ByShim Owner = "supervisor"
	// Kept is everything durable: nobody removes it at the end, and no process's death ends it.
	Kept Owner = "kept"
)

// Task is what task.json says: what the starter tells whoever cares for the task.
type Task struct {
	Incarnation Incarnation `json:"incarnation"`
	Namespace   string      `json:"namespace"`
	ID          string      `json:"id"`
	UID         string      `json:"uid,omitempty"` // of the container's record
	Owner       Owner       `json:"owner"`
	Cgroup      string      `json:"cgroup,omitempty"` // path below the hierarchies
	Restart     Restart     `json:"restart,omitzero"`
	// Networked says that the task is attached to networks, and must be taken off them when it has ended.
	Networked bool `json:"networked,omitempty"`
	// IO is where the streams go that a client of the API has given; nil: to the container's log.
	IO *IO `json:"io,omitempty"`
	// Shim is the program that a client has asked for in place of the container's runtime.
	Shim    string    `json:"shim,omitempty"`
	Created time.Time `json:"created"`
}

// IO says where the streams of a process go: each to the path of a FIFO, to a URL that containerd's shims know, or,
// when it is empty, nowhere.
type IO struct {
	Terminal bool   `json:"terminal,omitempty"`
	Stdin    string `json:"stdin,omitempty"`
	Stdout   string `json:"stdout,omitempty"`
	Stderr   string `json:"stderr,omitempty"`
}

// Restart is a restart policy and how often it has been applied in a row.
type Restart struct {
	Policy string `json:"policy,omitempty"` // "", no, always, on-failure, unless-stopped
	Max    int    `json:"max,omitempty"`    // of on-failure; 0: no bound
	Count  int    `json:"count,omitempty"`  // restarts that led to this incarnation
}

// SettledAfter is how long a program must have run for its restarts to be counted anew.
const SettledAfter = 10 * time.Second

// Again tells whether the policy wants a task that ended with e started again, and how many restarts in a row have
// led to it. A task that was not started, or was ended by its supervisor, is not.
func (r Restart) Again(e Exit, started time.Time) (count int, ok bool) {
	if started.IsZero() || e.Reason != "" {
		return 0, false
	}
	if count = r.Count; e.ExitedAt.Sub(started) >= SettledAfter {
		count = 0
	}
	switch r.Policy {
	case "always", "unless-stopped":
		return count, true
	case "on-failure":
		return count, e.Status != 0 && (r.Max <= 0 || count < r.Max)
	}
	return count, false
}

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
	// Foreign says that it is not ctr-shim: it holds no lock and records no exit.
	Foreign bool `json:"foreign,omitempty"`
}

// Started is what started.json says.
type Started struct {
	At time.Time `json:"at"`
}

// Dropped is what lost.json says: output that did not reach the log.
type Dropped struct {
	Bytes uint64 `json:"bytes"`
	Error string `json:"error"` // of the first write that failed
}

// Exit is how a task, or an exec, ended.
type Exit struct {
	Status   int       `json:"status"` // 128+n when signal n ended it
	ExitedAt time.Time `json:"exited_at"`
	OOM      bool      `json:"oom,omitempty"`
	Reason   string    `json:"reason,omitempty"` // set when it was not the process itself that ended
	Lost     uint64    `json:"lost,omitempty"`   // bytes of its output that could not be written to the log
}

// Checkpointed is the reason in the exit record of a container that has ended with its checkpoint. No restart policy
// applies to it.
const Checkpointed = "checkpointed"

// Current gives the incarnation of the container whose tasks are in the directory base, or the empty one.
func Current(base string) (Incarnation, error) {
	entries, err := os.ReadDir(base)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			return Incarnation(e.Name()), nil
		}
	}
	return "", nil
}

// BeingMade tells whether somebody is making a task in the directory base, which has none yet.
func BeingMade(base string) (bool, error) {
	entries, err := os.ReadDir(base)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if held, err := lock.IsHeld(filepath.Join(base, e.Name(), StartLock)); held || err != nil {
			return held, err
		}
	}
	return false, err
}

// Read reads a file of the directory into v; it reports false when the file is not there.
func Read(dir, name string, v any) (bool, error) {
	data, err := smallfile.Read(filepath.Join(dir, name))
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

// Hooks reads the hooks of a bundle's config.json, of which nothing else is looked at. There are none where it is not there or
// cannot be decoded; that is an error as well.
func Hooks(bundle string) (*specs.Hooks, error) {
	data, err := smallfile.Read(filepath.Join(bundle, Config))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil || !bytes.Contains(data, []byte(`"hooks"`)) {
		return nil, err
	}
	var s struct {
		Hooks *specs.Hooks `json:"hooks"`
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", Config, err)
	}
	return s.Hooks, nil
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

// exitRoom is what is set aside for the exit record, in bytes.
const exitRoom = 4096

// ReserveExit sets aside the room for the exit record, so that a file system that is full at the end of the
// task does not lose its status.
func ReserveExit(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, End+".tmp"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, exitRoom))
	return errors.Join(err, f.Close())
}

// WriteExit records an exit in one step, in the room that ReserveExit has set aside.
func WriteExit(dir string, e Exit) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, End)
	// Not truncated first: that would give the room away.
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Truncate(int64(len(data)) + 1)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
