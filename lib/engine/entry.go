// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/bpf"
)

// entry says how a process comes into a container of the embedded engine, so that no engine need be started for that: what
// libcontainer has in its state, and a process needs of it. The engine that creates the container writes it.
type entry struct {
	Bootstrap []byte   `json:"bootstrap"` // what libcontainer's C code is told: the namespaces to enter
	Tasks     []string `json:"tasks"`     // files of the v1 hierarchies by which a thread joins the cgroup
	Unified   string   `json:"unified"`   // the cgroup's directory in the v2 hierarchy; empty: it is in none
	Filter    string   `json:"filter"`    // the name of the compiled seccomp filter; empty: there is none
	Process   settings `json:"process"`   // what holds unless the process says otherwise

	config json.RawMessage // libcontainer's configuration of the container, as far as it matters to a process
}

// settings are what libcontainer's init is told of a process (initConfig in libcontainer/init_linux.go), but for the
// container's configuration.
type settings struct {
	Args             []string              `json:"args"`
	Env              []string              `json:"env"`
	UID              int                   `json:"uid"`
	GID              int                   `json:"gid"`
	AdditionalGroups []int                 `json:"additional_groups"`
	Cwd              string                `json:"cwd"`
	CreateConsole    bool                  `json:"create_console"`
	ConsoleWidth     uint16                `json:"console_width"`
	ConsoleHeight    uint16                `json:"console_height"`
	PassedFilesCount int                   `json:"passed_files_count"`
	AppArmorProfile  string                `json:"apparmor_profile"`
	Capabilities     *configs.Capabilities `json:"capabilities"`
	NoNewPrivileges  bool                  `json:"no_new_privileges"`
	ProcessLabel     string                `json:"process_label"`
	Rlimits          []configs.Rlimit      `json:"rlimits"`
	IOPriority       *configs.IOPriority   `json:"io_priority,omitempty"`
	Scheduler        *configs.Scheduler    `json:"scheduler,omitempty"`
	ContainerID      string                `json:"containerid"`
	Cgroup2Path      string                `json:"cgroup2_path,omitempty"`
}

// entryFile is the name of the file, beside libcontainer's own state. Its first line is the entry, its second one the
// configuration, which is handed on as it is.
const entryFile = "entry.json"

// errNoEntry says that it takes an engine to put a process into the container.
var errNoEntry = errors.New("a process comes into the container by an engine alone")

// writeEntry writes the entry of a container that has just been created. One whose processes need more than their
// parent's help has none.
func (e *embedded) writeEntry(c *libcontainer.Container) error {
	config := c.Config()
	if e.root != stateDir || !canJoin || config.RootlessEUID || config.RootlessCgroups || config.IntelRdt != nil || config.ParentDeathSignal != 0 ||
		config.ExecCPUAffinity != nil || config.Seccomp != nil && config.Seccomp.ListenerPath != "" {
		return nil
	}
	state, err := c.State()
	if err != nil {
		return err
	}
	entry := entry{Bootstrap: bootstrap(config, state), Process: settings{
		AppArmorProfile: config.AppArmorProfile, Capabilities: config.Capabilities, ProcessLabel: config.ProcessLabel,
		Rlimits: config.Rlimits, IOPriority: config.IOPriority, Scheduler: config.Scheduler, ContainerID: e.id,
	}}
	for name, dir := range state.CgroupPaths {
		if name == "" {
			entry.Unified = dir
		} else if file := filepath.Join(dir, "tasks"); !slices.Contains(entry.Tasks, file) { // two controllers may share a hierarchy
			entry.Tasks = append(entry.Tasks, file)
		}
	}
	if cgroups.IsCgroup2UnifiedMode() {
		entry.Process.Cgroup2Path = entry.Unified
	}
	if config.Seccomp != nil {
		if entry.Filter, err = bpf.Name(config.Seccomp); err != nil {
			return err
		}
	}
	line, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	inside, err := json.Marshal(forProcess(config))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.root, e.id, entryFile), slices.Concat(line, []byte("\n"), inside), 0o600)
}

// forProcess is what libcontainer's init looks at when it has not to make a container.
func forProcess(c configs.Config) *configs.Config {
	out := &configs.Config{
		NoNewKeyring: c.NoNewKeyring, Umask: c.Umask, Personality: c.Personality, MemoryPolicy: c.MemoryPolicy, Seccomp: c.Seccomp,
		Cgroups: &cgroups.Cgroup{Resources: new(cgroups.Resources)},
	}
	if c.Cgroups != nil && c.Cgroups.Resources != nil {
		out.Cgroups.CpusetCpus = c.Cgroups.CpusetCpus
	}
	return out
}

// bootstrap is libcontainer's message to its C code (libcontainer/message_linux.go): a netlink header and attributes.
func bootstrap(config configs.Config, state *libcontainer.State) []byte {
	var paths []string
	for _, kind := range configs.NamespaceTypes() { // in the order in which they are entered
		if path := state.NamespacePaths[kind]; path != "" && config.Namespaces.Contains(kind) {
			paths = append(paths, configs.NsName(kind)+":"+path)
		}
	}
	flags := libcontainer.Int32msg{Type: libcontainer.CloneFlagsAttr}
	attributes := flags.Serialize()
	add := func(kind uint16, text string) {
		m := libcontainer.Bytemsg{Type: kind, Value: []byte(text)}
		attributes = append(attributes, m.Serialize()...)
	}
	if len(paths) > 0 {
		add(libcontainer.NsPathsAttr, strings.Join(paths, ","))
	}
	if config.OomScoreAdj != nil {
		add(libcontainer.OomScoreAdjAttr, strconv.Itoa(*config.OomScoreAdj))
	}
	rootless := libcontainer.Boolmsg{Type: libcontainer.RootlessEUIDAttr}
	attributes = append(attributes, rootless.Serialize()...)
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(attributes)))
	b = binary.NativeEndian.AppendUint16(b, libcontainer.InitMsg)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	return append(append(b, make([]byte, 8)...), attributes...)
}

// readEntry reads the entry of a container from its bundle.
func readEntry(bundle, id string) (e entry, err error) {
	b, err := os.ReadFile(filepath.Join(bundle, stateDir, id, entryFile))
	if errors.Is(err, os.ErrNotExist) {
		return e, errNoEntry
	}
	if err != nil {
		return e, err
	}
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	e.config = rest
	if err := json.Unmarshal(line, &e); err != nil {
		return e, fmt.Errorf("%s: %w", entryFile, err)
	}
	return e, nil
}

// told gives what init is told of a process.
func (e entry) told(sp *specs.Process, terminal bool, passed int) ([]byte, settings, error) {
	if sp.ExecCPUAffinity != nil {
		return nil, settings{}, errNoEntry
	}
	p, err := newProcess(sp)
	if err != nil {
		return nil, settings{}, err
	}
	s := e.Process
	s.Args, s.Env, s.UID, s.GID, s.AdditionalGroups, s.Cwd = p.Args, p.Env, p.UID, p.GID, p.AdditionalGroups, p.Cwd
	s.CreateConsole, s.ConsoleWidth, s.ConsoleHeight = terminal, p.ConsoleWidth, p.ConsoleHeight
	s.PassedFilesCount, s.NoNewPrivileges = passed, sp.NoNewPrivileges
	if p.Capabilities != nil {
		s.Capabilities = p.Capabilities
	}
	if p.AppArmorProfile != "" {
		s.AppArmorProfile = p.AppArmorProfile
	}
	if p.Label != "" {
		s.ProcessLabel = p.Label
	}
	if len(p.Rlimits) > 0 {
		s.Rlimits = p.Rlimits
	}
	if p.IOPriority != nil {
		s.IOPriority = p.IOPriority
	}
	if p.Scheduler != nil {
		s.Scheduler = p.Scheduler
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, s, err
	}
	return slices.Concat([]byte(`{"config":`), e.config, []byte(","), b[1:]), s, nil
}
