// SPDX-License-Identifier: Apache-2.0

// Package criu has a criu do what it is asked by its RPC: "criu swrk" serves one caller on a socket that it is started with
// (images/rpc.proto there). The messages are written by hand: generated ones, and libcontainer's use of them, cost the
// supervisor 1.6 MB.
package criu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Verb is what criu is asked for: criu_req_type.
type Verb uint64

// What criu can be asked for here.
const (
	Dump    Verb = 1
	Restore Verb = 2
	notify  Verb = 6
	feature Verb = 9
	version Verb = 10
	PreDump Verb = 13 // of one that is not followed by another on the same connection
)

// Cgroups says what criu does about cgroups: criu_cg_mode.
type Cgroups uint64

// Modes have criu's names.
var Modes = map[string]Cgroups{"": 6, "ignore": 0, "soft": 3, "full": 4, "strict": 5}

// logLevel is that at which errors are told with what led to them.
const logLevel = 4

// Options are how criu does it. The names of fields say what criu_opts there calls more at length.
type Options struct {
	Images       *os.File // the directory of the images
	Work         *os.File // where the log goes, and what is needed meanwhile; nil: Images
	Log          string   // the name of the log
	Parent       string   // an earlier dump to which this one adds, relative to Images
	Config       string   // a configuration file, which need not be there
	Root         string   // of the container; of a restore, a mount point
	Pid          int      // of a dump: the container's first process
	LeaveRunning bool
	TCP          bool // tcp_established
	Unix         bool // ext_unix_sk
	ShellJob     bool
	FileLocks    bool
	Freezer      string // the cgroup by which the processes are stopped; empty: by ptrace
	Cgroups      Cgroups
	CgroupRoots  []CgroupRoot

	Mounts          []Mount   // what comes from outside
	External        []string  // other things that do, such as net[INODE]:KEY
	EmptyNamespaces int       // flags of namespaces whose contents are left out
	Inherit         []Inherit // what of that a restore is given
	Join            []Namespace

	EvasiveDevices bool // a restore opens devices by other names when it must
	AnyMode        bool // skip_file_rwx_check: permissions of files may have changed
	Sibling        bool // the restored process is a child of criu's parent
}

// Mount is a mount whose source is outside: of a dump Outside is a name for it, of a restore the path of the source.
type Mount struct{ Inside, Outside string }

// CgroupRoot is the cgroup of a hierarchy in which a restore makes those of the container.
type CgroupRoot struct{ Controller, Path string }

// Inherit is a descriptor of the criu process that stands for something that comes from outside.
type Inherit struct {
	Key string
	Fd  int
}

// Namespace is one that a restore joins. Type is its name below /proc/PID/ns.
type Namespace struct{ Type, Path string }

// Notice is what criu says while it is at it, and waits for the answer to. Pid is that of the container's first process, of
// those that have one.
type Notice struct {
	Name string
	Pid  int
	File *os.File // what came with it, if anything; it is closed afterwards
}

// Process is a criu that has been started and not yet asked.
type Process struct {
	cmd  *exec.Cmd
	conn *net.UnixConn
}

// FirstFile is the descriptor that the first of the files given to [Start] has.
const FirstFile = 4

// Start starts the criu of PATH. The restored processes inherit from it; nil is /dev/null.
func Start(stdio [3]*os.File, files ...*os.File) (*Process, error) {
	fds, err := unix.Socketpair(unix.AF_LOCAL, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "criu"), os.NewFile(uintptr(fds[1]), "criu")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	p := &Process{exec.Command("criu", "swrk", "3"), conn.(*net.UnixConn)}
	// A file that is nil would be one that is closed, and not none.
	if f := stdio[0]; f != nil {
		p.cmd.Stdin = f
	}
	if f := stdio[1]; f != nil {
		p.cmd.Stdout = f
	}
	if f := stdio[2]; f != nil {
		p.cmd.Stderr = f
	}
	p.cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	if err := p.cmd.Start(); err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

// Pid is that of the criu process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Close ends one that is not to be asked.
func (p *Process) Close() {
	p.conn.Close()
	_ = p.cmd.Wait() // its status is that nobody has asked it
}

// Do asks for one thing, answers notices, and waits until criu has ended. A notice that fails makes criu undo what it has done.
func (p *Process) Do(v Verb, o *Options, on func(Notice) error) error {
	_, err := p.do(v, o, on)
	return err
}

func (p *Process) do(v Verb, o *Options, on func(Notice) error) (a answer, err error) {
	var req message
	req.uint(1, uint64(v))
	if v == feature {
		var wanted message
		wanted.bool(1, true) // mem_track
		req.message(5, wanted)
	}
	if o != nil {
		req.message(2, o.marshal())
	}
	if a, err = p.talk(v, req, on); err == nil && !a.ok {
		if err = errors.New("criu has failed"); a.errno != 0 {
			err = fmt.Errorf("%w: %w", err, unix.Errno(a.errno))
		}
	}
	p.conn.Close()
	if werr := p.cmd.Wait(); err == nil && werr != nil && v != version && v != feature {
		err = fmt.Errorf("criu: %w", werr)
	}
	return a, err
}

// talk sends the request and answers notices until the answer to the request comes.
func (p *Process) talk(v Verb, req message, on func(Notice) error) (answer, error) {
	var undone error // why a notice has failed
	for {
		if _, err := p.conn.Write(req); err != nil {
			return answer{}, errors.Join(undone, fmt.Errorf("criu: %w", err))
		}
		a, err := p.receive()
		switch {
		case err != nil:
			return a, errors.Join(undone, err)
		case a.verb == notify:
			err = on(a.notice)
			undone = errors.Join(undone, err)
			if a.notice.File != nil {
				a.notice.File.Close()
			}
			req = nil
			req.uint(1, uint64(notify))
			req.uint(3, boolean(err == nil))
			continue
		case a.verb != v && a.ok:
			return a, errors.Join(undone, fmt.Errorf("criu: it answers %d to %d", a.verb, v))
		}
		return a, undone
	}
}

func boolean(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// maxAnswer bounds a message of criu's.
const maxAnswer = 64 << 10

func (p *Process) receive() (a answer, err error) {
	buf, oob := make([]byte, maxAnswer), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := p.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return a, fmt.Errorf("criu: %w", err)
	}
	var file *os.File
	if all, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(all) == 1 {
		if fds, err := unix.ParseUnixRights(&all[0]); err == nil && len(fds) == 1 {
			unix.CloseOnExec(fds[0])
			file = os.NewFile(uintptr(fds[0]), "of criu")
		}
	}
	if n == 0 {
		err = errors.New("criu has ended without an answer")
	} else if a, err = parse(buf[:n]); err != nil {
		err = fmt.Errorf("criu: its answer: %w", err)
	}
	if file != nil && (err != nil || a.verb != notify) {
		file.Close()
		file = nil
	}
	a.notice.File = file
	return a, err
}

// Version asks for the version of the criu of PATH: 40101 is 4.1.1.
func Version() (int, error) {
	p, err := Start([3]*os.File{})
	if err != nil {
		return 0, err
	}
	a, err := p.do(version, nil, func(Notice) error { return nil })
	if err == nil && a.version <= 0 {
		err = errors.New("criu does not tell its version")
	}
	return a.version, err
}

// TracksMemory tells whether criu finds out what of a process's memory has changed since an earlier dump: the kernel has to tell.
func TracksMemory() (bool, error) {
	p, err := Start([3]*os.File{})
	if err != nil {
		return false, err
	}
	a, err := p.do(feature, nil, func(Notice) error { return nil })
	return a.tracks, err
}
