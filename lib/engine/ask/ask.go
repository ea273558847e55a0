// SPDX-License-Identifier: Apache-2.0

// Package ask is what the supervisor and the engine say to each other: one request and one result, over a
// SOCK_SEQPACKET socket pair, whose far end is descriptor [Fd] of the engine process.
package ask

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/mount"
)

// Descriptors of the engine process.
const (
	// Fd is the engine's end of the socket pair.
	Fd = 3
	// LockFd, which may be absent, is the open file of a lock: as long as it is held, an engine may work on the container,
	// also when its supervisor was killed.
	LockFd = 4
)

// The verbs: what argv of the engine process names.
const (
	Create  = "create"     // a container from config.json of the working directory; its init waits to be started
	Start   = "start"      // init becomes the program; only for engines that give no Result.FIFO
	Exec    = "exec"       // one more process in a running container
	Dump    = "checkpoint" // what a running container's processes are, into a directory
	Restore = "restore"    // a container from config.json and a checkpoint; it runs then
	Update  = "update"     // new limits for a running container
	Delete  = "delete"     // remove what is left of a stopped container, and run its poststop hooks
)

// Engine says which engine makes a container. It is the same in all requests for that container.
type Engine struct {
	Binary        string `json:"binary,omitempty"`         // an OCI engine, by path or by name on PATH; empty: the one that is linked in
	Root          string `json:"root,omitempty"`           // where it keeps its state; empty: engine/ of the bundle
	SystemdCgroup bool   `json:"systemd_cgroup,omitempty"` // systemd makes the cgroup: the spec has SLICE:PREFIX:NAME
}

// Request asks for one thing. The files that go with Create, Restore and Exec are the process's stdin, stdout and
// stderr, or, with Terminal, one socket on which the terminal's master is to be sent.
//
// An engine whose requester closes the socket gives up and ends.
type Request struct {
	Engine
	Mounts       []mount.Mount `json:"mounts,omitempty"` // Create: what rootfs/ is made of; the engine has a mount namespace of its own
	Terminal     bool          `json:"terminal,omitempty"`
	NoNewKeyring bool          `json:"no_new_keyring,omitempty"` // Create: the session keyring is inherited
	NoPivotRoot  bool          `json:"no_pivot_root,omitempty"`  // Create
	Filters      string        `json:"filters,omitempty"`        // Create, Exec: the directory of compiled seccomp filters; empty: none are kept
	File         string        `json:"file,omitempty"`           // Exec: JSON of an OCI process; Update: of OCI resources
	Checkpoint   *Checkpoint   `json:"checkpoint,omitempty"`     // Dump, Restore
	Timeout      time.Duration `json:"timeout,omitempty"`        // of a call of an OCI engine, beside its hooks; 0: DefaultTimeout
}

// DefaultTimeout bounds a call of an OCI engine when the request does not.
const DefaultTimeout = time.Minute

// Hello comes from the engine before anything else with Create and Restore, so that the parent need not read
// config.json itself. What is wrong with the file is told by the Result.
type Hello struct {
	CgroupsPath string `json:"cgroups_path,omitempty"` // where the container's cgroup will be, in every hierarchy
	// HookTime is what the hooks have of Create and Start, and PoststopTime those of Delete, beside the time of the engine. See the
	// functions.
	HookTime     time.Duration `json:"hook_time,omitempty"`
	PoststopTime time.Duration `json:"poststop_time,omitempty"`
}

// Kind sorts failures as a shell does.
type Kind string

// The kinds of failure.
const (
	Other         Kind = ""
	NotFound      Kind = "not found"      // the program is not in the container
	NotExecutable Kind = "not executable" // it is there and cannot be run
	TimedOut      Kind = "timed out"      // the engine did not answer in time and was killed
)

// Result is the answer: a pid, seen from the engine, or what went wrong.
//
// One file may come with the Result of a Create: it is at its end once init has become the program, and if
// that fails it first has the reason, for [Unrunnable] to read.
type Result struct {
	Pid    int    `json:"pid,omitempty"`
	FIFO   string `json:"fifo,omitempty"`   // Create: init starts when this is opened for reading; empty: ask for Start
	Delete bool   `json:"delete,omitempty"` // Create: ask for Delete at the end, there is more than files and cgroups to remove
	Error  string `json:"error,omitempty"`
	Kind   Kind   `json:"kind,omitempty"`
}

const (
	maxText  = 16 << 10
	maxFiles = 3
	// maxRequest bounds the messages that wait in a socket, in bytes with what the kernel adds.
	maxRequest = 4 << 20
)

// Pair makes the socket pair; both ends are close-on-exec, ours does not block.
func Pair() (ours, theirs *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	// A request names up to 500 layers. Where this is not allowed, shorter ones do.
	unix.SetsockoptInt(p[0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, maxRequest)
	if err := unix.SetNonblock(p[0], true); err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return nil, nil, os.NewSyscallError("set nonblocking", err)
	}
	return os.NewFile(uintptr(p[0]), "engine"), os.NewFile(uintptr(p[1]), "engine"), nil
}

// Send writes v and the files as one message. The files stay the caller's.
func Send(s *os.File, v any, files ...*os.File) error {
	if r, ok := v.(Result); ok && len(r.Error) > maxText {
		r.Error = r.Error[:maxText]
		v = r
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	conn, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Write(func(fd uintptr) bool {
		serr = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_NOSIGNAL)
		return serr != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", serr)
}

// Receive reads one message into v and gives the files that came with it. The other end being gone
// is io.EOF.
func Receive(s *os.File, v any) ([]*os.File, error) {
	size, err := next(s)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, size)
	n, files, err := ReceiveFiles(s, buf)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(buf[:n], v); err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("message between supervisor and engine: %w", err)
	}
	return files, nil
}

// next waits for a message and tells its size, so that no more memory is taken than it needs.
func next(s *os.File) (size int, err error) {
	conn, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	var rerr error
	var none [1]byte
	err = conn.Read(func(fd uintptr) bool {
		size, _, rerr = unix.Recvfrom(int(fd), none[:], unix.MSG_PEEK|unix.MSG_TRUNC)
		return rerr != unix.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case rerr == unix.ECONNRESET || rerr == nil && size == 0:
		return 0, io.EOF
	case rerr != nil:
		return 0, os.NewSyscallError("recvfrom", rerr)
	}
	return size, nil
}

// AwaitEnd waits until the other end is gone. Nothing more may be expected from it.
func AwaitEnd(s *os.File) {
	for {
		if _, err := next(s); err != nil {
			return
		}
		// A message that nobody asked for.
		if _, _, err := ReceiveFiles(s, nil); err != nil {
			return
		}
	}
}

// ReceiveFiles reads one message into buf and gives the files that came with it; no more than three are
// taken.
func ReceiveFiles(s *os.File, buf []byte) (int, []*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	conn, err := s.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	var n, oobn int
	var rerr error
	err = conn.Read(func(fd uintptr) bool {
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return rerr != unix.EAGAIN
	})
	if err != nil {
		return 0, nil, err
	}
	if rerr == unix.ECONNRESET {
		return 0, nil, io.EOF
	}
	if rerr != nil {
		return 0, nil, os.NewSyscallError("recvmsg", rerr)
	}
	var files []*os.File
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, os.NewSyscallError("control message", err)
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return n, files, nil
}
