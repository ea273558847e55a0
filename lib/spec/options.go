// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options are those of ctr-task run and create, as they are typed: the text of a flag is parsed here,
// so that every command and every error agree. The zero value is a container with the image's command,
// the defaults, and a network namespace of its own.
type Options struct {
	Args       []string // after the image: the image's Cmd is replaced
	Entrypoint *string  // --entrypoint: replaces the image's and drops its Cmd; "" is no entrypoint at all
	Env        []string // --env
	EnvFiles   []string // --env-file, before Env
	Workdir    string   // --workdir
	User       string   // --user
	GroupAdd   []string // --group-add
	TTY        bool     // --tty

	Volumes  []string // --volume
	Mounts   []string // --mount
	Tmpfs    []string // --tmpfs
	ReadOnly bool     // --read-only
	ShmSize  string   // --shm-size; "" is 64m
	Devices  []string // --device: of the host, or of CDI
	CDIDirs  []string // --cdi-spec-dir; none: those of lib/cdi
	// DeviceRules are those of --device-cgroup-rule: TYPE MAJOR:MINOR ACCESS.
	DeviceRules []string

	// The kinds of sharing: "host" shares the host's, "container:ID" another container's (see Result.Join).
	Net        string // --net: "host", "container:ID", "none" or "" (none)
	Networked  bool   // with Net "none": it is attached to networks after its creation, see [WriteAddresses]
	Hostname   string // --hostname; "" is the ID, or the host's own name with --net host
	Domainname string // --domainname, the NIS name
	PID        string // --pid: "host", "container:ID", "private" or ""
	IPC        string // --ipc: "host", "container:ID", "none" (no /dev/shm), "private" or ""
	UTS        string // --uts: "host", "container:ID", "private" or ""
	Cgroupns   string // --cgroupns: "host", "private", or "": private where only cgroup v2 is mounted
	// UserNS maps the users of the container to others of the host; the zero value shares the host's.
	UserNS UserNS

	DNS        []string // --dns
	DNSSearch  []string // --dns-search; "." alone is no search domain
	DNSOptions []string // --dns-option
	AddHosts   []string // --add-host

	Privileged bool // --privileged
	// OwnDevices keeps the host's devices out of a privileged container, but those that are named. It may not use others either,
	// unless AllDevices says so.
	OwnDevices, AllDevices bool
	CgroupWritable         bool     // the cgroup may be written to, also where Privileged is not set
	NoImageVolumes         bool     // the volumes that the image names are not made
	BaseCaps               []string // what the container begins with, before CapAdd and CapDrop; nil: docker's
	CapAdd                 []string // --cap-add
	CapDrop                []string // --cap-drop
	SecurityOpt            []string // --security-opt
	Sysctls                []string // --sysctl

	Limits
	Ulimits     []string // --ulimit
	OOMScoreAdj *int     // --oom-score-adj
	Annotations []string // --annotation

	// Init runs InitPath as the first process, which runs the program as its child. See [WriteFiles].
	Init bool

	// ID is the container's; at most 64 characters of it are the default hostname.
	ID string
	// CgroupsPath is linux.cgroupsPath as it is.
	CgroupsPath string
	// Open reads /etc/passwd and /etc/group of the image. Nil stands for an image without them.
	Open Opener
}

// Result is a specification and what its reader must do besides.
type Result struct {
	// Spec has no Linux.Seccomp unless --security-opt named a profile: the default profile is some 40 kB
	// of JSON that follows from the rest.
	Spec *specs.Spec
	// DefaultSeccomp says that WithSeccomp is to be called before the bundle is written.
	DefaultSeccomp bool
	// Mkdir lists sources of --volume that do not exist: directories to make with [MakeDirs] before the
	// start.
	Mkdir []string
	// Volumes are the directories in the container that are to have a directory of its own as their source: those
	// of --volume without a source, and the image's. Before the start each is to be made, with what the image has
	// there, and named with [SetVolumes].
	Volumes []string
	// Join names, for each of "net", "pid", "ipc", "uts" that has the value container:ID, the container. At each
	// start its namespaces are to be filled in with [Join].
	Join map[string]string
	// Etc is what [WriteFiles] needs at each start besides the specification.
	Etc Etc
}

// OptionError tells what is wrong with the value of an option. It is errdefs.ErrInvalidArgument.
type OptionError struct {
	Option string // as ctr-task calls it, without the dashes
	Value  string // of a long one the beginning
	Reason string
}

// Error names the option as it is on a command line.
func (e *OptionError) Error() string {
	return fmt.Sprintf("--%s %q: %s: %v", e.Option, e.Value, e.Reason, errdefs.ErrInvalidArgument)
}

// Unwrap gives the kind of the error.
func (e *OptionError) Unwrap() error { return errdefs.ErrInvalidArgument }

// invalid is the one form of an error about a flag.
func invalid(flag, value, format string, args ...any) error {
	const most = 200
	if len(value) > most {
		value = value[:most] + "..."
	}
	return &OptionError{Option: flag, Value: value, Reason: fmt.Sprintf(format, args...)}
}

// errOnly drops the path of an error whose text names it already.
func errOnly(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
