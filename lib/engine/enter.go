// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/exeseal"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/engine/bpf"
)

// Entering is a process on its way into a running container of the embedded engine, put there by the supervisor itself. It is
// libcontainer's init, as an engine would start it: told the same, over the same sockets, so that what it does in the container is
// the same. An engine process for it would cost as much as all the rest of an exec.
//
// Whatever goes wrong before the program runs is no answer: an engine, which is asked after that, has the words for it.
type Entering struct {
	entry entry
	told  []byte
	about settings

	give []int    // descriptors of the process, in their order
	ours []int    // those of give that are to be closed with [Entering.Close]
	env  []string // its environment until it has read what it is told
	exe  int      // which of give its program is
	line []byte   // what was read from init and is not a line yet

	init, sync, log, status *os.File // our ends
}

// passed is the number of descriptors that libcontainer's init leaves alone: statusFd and filterFd.
const passed = 2

// Enter prepares the start of a process of r in a container, of which bundle is the directory and init the pid of the first process.
// files are as those of a request. The process has lock open until it has become its program. It looks at the program in the container,
// and so waits for whoever serves the file system that has it.
func Enter(bundle, id string, init int, r ask.Request, files []*os.File, lock *os.File) (_ *Entering, err error) {
	st, err := stdioOf(r.Terminal, files)
	if err != nil {
		return nil, err
	}
	e := new(Entering)
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if e.entry, err = readEntry(bundle, id); err != nil {
		return nil, err
	}
	p := new(specs.Process)
	if err = readJSON(r.File, p); err == nil {
		err = checkProcess(p)
	}
	if err == nil {
		err = checkRunnable(init, p)
	}
	if err != nil {
		return nil, err
	}
	if e.told, e.about, err = e.entry.told(p, r.Terminal, passed); err != nil {
		return nil, err
	}
	return e, e.open(filepath.Join(bundle, stateDir, id), r.Filters, st, lock)
}

// open opens all that the process is given.
func (e *Entering) open(dir, filters string, st stdio, lock *os.File) error {
	null := -1
	for i := range 3 {
		if st.terminal == nil {
			e.give = append(e.give, int(st.files[i].Fd()))
			continue
		}
		if null < 0 {
			fd, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			e.ours, null = append(e.ours, fd), fd
		}
		e.give = append(e.give, null)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	e.add("", p[1])
	e.status = ourEnd(p[0], "status")
	filter, err := e.filter(filters)
	if err != nil {
		return err
	}
	e.add("", filter)
	if st.terminal != nil {
		e.env = append(e.env, "_LIBCONTAINER_CONSOLE="+strconv.Itoa(len(e.give)))
		e.give = append(e.give, int(st.terminal.Fd()))
	}
	if e.init, err = e.pair("_LIBCONTAINER_INITPIPE", unix.SOCK_STREAM); err != nil {
		return err
	}
	if e.sync, err = e.pair("_LIBCONTAINER_SYNCPIPE", unix.SOCK_SEQPACKET); err != nil {
		return err
	}
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	e.add("_LIBCONTAINER_LOGPIPE", p[1])
	e.log = ourEnd(p[0], "log")
	e.env = append(e.env, "_LIBCONTAINER_LOGLEVEL="+strconv.Itoa(int(logrus.WarnLevel)), "_LIBCONTAINER_INITTYPE=setns", "GOMAXPROCS=1")
	self, err := exeseal.CloneSelfExe(dir)
	if err != nil {
		return err
	}
	defer self.Close()
	exe, err := unix.FcntlInt(self.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	e.exe = len(e.give)
	e.add("", exe)
	if lock != nil {
		e.give = append(e.give, int(lock.Fd()))
	}
	return e.join()
}

// join opens the cgroups for the process.
func (e *Entering) join() error {
	var all []string
	for _, name := range e.entry.Tasks {
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		all = append(all, strconv.Itoa(len(e.give)))
		e.add("", fd)
	}
	if len(all) > 0 {
		e.env = append(e.env, "_CTRD_JOIN="+strings.Join(all, ","))
	}
	dir := e.entry.Unified
	if dir == "" {
		return nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	e.add("_CTRD_BIRTH", fd)
	return nil
}

// filter opens the compiled seccomp filter for filterFd.
func (e *Entering) filter(dir string) (int, error) {
	if e.entry.Filter == "" {
		return unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	fd, err := bpf.Find(dir, e.entry.Filter)
	if errors.Is(err, os.ErrNotExist) {
		err = errNoEntry
	}
	return fd, err
}

// pair makes a socket pair of which the process gets one end, and a variable that names it.
func (e *Entering) pair(variable string, kind int) (*os.File, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	e.add(variable, p[1])
	return ourEnd(p[0], variable), nil
}

func (e *Entering) add(variable string, fd int) {
	if variable != "" {
		e.env = append(e.env, variable+"="+strconv.Itoa(len(e.give)))
	}
	e.give, e.ours = append(e.give, fd), append(e.ours, fd)
}

// ourEnd is our end of a pipe or socket, with deadlines.
func ourEnd(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// Spawn starts the process, in a process group of its own. What comes into the container is a child of ours like this one,
// which is about to end.
func (e *Entering) Spawn() (pid int, err error) {
	files := make([]uintptr, len(e.give))
	for i, fd := range e.give {
		files[i] = uintptr(fd)
	}
	pid, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(e.exe), []string{"ctr-shim", "init"}, &syscall.ProcAttr{
		Dir: "/", Env: e.env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	e.closeTheirs()
	return pid, err
}

func (e *Entering) closeTheirs() {
	for _, fd := range e.ours {
		unix.Close(fd)
	}
	e.ours = nil
}

// Close gives the process up. One that has not become its program by then does not.
func (e *Entering) Close() {
	e.closeTheirs()
	for _, f := range []*os.File{e.init, e.sync, e.log, e.status} {
		if f != nil {
			f.Close()
		}
	}
}

// Interrupt ends what waits for the process.
func (e *Entering) Interrupt() {
	for _, f := range []*os.File{e.init, e.sync, e.log, e.status} {
		f.SetDeadline(time.Unix(1, 0))
	}
}

// Join waits until the process is in the container's cgroups, and gives the pid of the one that goes on from there, in its process
// group: in the v2 hierarchy that is another one.
func (e *Entering) Join(pid int) (int, error) {
	if e.entry.Unified == "" {
		return pid, nil
	}
	line, err := e.read(false)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(line))
}

// Fork has the process enter the namespaces, which takes two more. The last one is in all of them, and waits.
func (e *Entering) Fork() (first, last int, err error) {
	if _, err := e.init.Write(e.entry.Bootstrap); err != nil {
		return 0, 0, err
	}
	line, err := e.read(true)
	if err != nil {
		return 0, 0, err
	}
	var pids struct {
		First int `json:"stage1_pid"`
		Last  int `json:"stage2_pid"`
	}
	err = json.Unmarshal(line, &pids)
	return pids.First, pids.Last, err
}

// read reads a line that comes by init: JSON of libcontainer's, or a number of Join's.
func (e *Entering) read(isJSON bool) ([]byte, error) {
	for {
		line, rest, whole := bytes.Cut(e.line, []byte("\n"))
		if whole && bytes.HasPrefix(line, []byte("{")) == isJSON {
			e.line = rest
			return line, nil
		}
		if len(e.line) > maxLine {
			return nil, fmt.Errorf("init says %q", e.line)
		}
		var b [maxLine]byte
		n, err := e.init.Read(b[:])
		if err != nil {
			return nil, err
		}
		e.line = append(e.line, b[:n]...)
	}
}

// Become has the last process become the program, and waits for that. said is what libcontainer has to say besides. with calls a
// function with the pid of that process, as long as no other process can have it.
func (e *Entering) Become(with func(func(pid int) error) error) (said string, err error) {
	err = with(func(pid int) error {
		resetAffinity(pid)
		return nil
	})
	if err != nil {
		return "", err
	}
	if _, err := e.init.Write(e.told); err != nil {
		return "", err
	}
	if err := e.follow(with); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(e.log, maxLog))
	if err != nil {
		return "", err
	}
	switch kind, failure, err := ask.Unrunnable(e.status); {
	case err != nil:
		return "", err
	case failure != "":
		return "", &unrunnable{kind, failure}
	}
	return strings.TrimSpace(string(text)), nil
}

const (
	maxLine   = 256
	maxLog    = 16 << 10
	maxPacket = 16 << 10
)

// follow is our side of what libcontainer's init says (libcontainer/sync.go), until it is about to become the program.
func (e *Entering) follow(with func(func(pid int) error) error) error {
	ready := false
	b := make([]byte, maxPacket)
	for {
		n, err := e.sync.Read(b)
		if err == io.EOF || err == nil && n == 0 {
			break
		}
		if err != nil {
			return err
		}
		var m struct {
			Type string          `json:"type"`
			Arg  json.RawMessage `json:"arg"`
		}
		if err := json.Unmarshal(b[:n], &m); err != nil {
			return err
		}
		if m.Type != "procReady" {
			return fmt.Errorf("init says %s %s", m.Type, m.Arg)
		}
		ready = true
		if err := with(func(pid int) error { return limit(pid, e.about.Rlimits) }); err != nil {
			return err
		}
		if _, err := e.sync.WriteString(`{"type":"procRun","flags":0}`); err != nil {
			return err
		}
	}
	if !ready {
		return errors.New("init has died")
	}
	return nil
}

// limit sets the limits of a process, which it may no longer do itself in a user namespace.
func limit(pid int, all []configs.Rlimit) error {
	for _, l := range all {
		if err := unix.Prlimit(pid, l.Type, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return os.NewSyscallError("prlimit", err)
		}
	}
	return nil
}
