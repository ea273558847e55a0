// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/task"
)

// ContainerConfig is what a container of a pod is made from.
type ContainerConfig struct {
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt,omitempty"`

	Image     string `json:"image"`                // as the client names it
	ImageID   string `json:"image_id,omitempty"`   // digest of its configuration
	ImageRef  string `json:"image_ref,omitempty"`  // a name with a digest
	ImageName string `json:"image_name,omitempty"` // of the record that it is made from

	Command     []string          `json:"command,omitempty"` // in place of the image's entrypoint and arguments
	Args        []string          `json:"args,omitempty"`    // in place of the image's arguments
	Dir         string            `json:"dir,omitempty"`     // where it starts; empty: the image's
	Env         []string          `json:"env,omitempty"`     // KEY=VALUE
	Mounts      []Mount           `json:"mounts,omitempty"`
	Devices     []Device          `json:"devices,omitempty"`
	CDI         []string          `json:"cdi,omitempty"` // names of CDI devices
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	LogPath     string            `json:"log_path,omitempty"` // below the pod's log directory; empty: a log of ctrd's own
	Stdin       bool              `json:"stdin,omitempty"`
	StdinOnce   bool              `json:"stdin_once,omitempty"` // it ends with the first client that leaves
	TTY         bool              `json:"tty,omitempty"`
	StopSignal  string            `json:"stop_signal,omitempty"` // empty: the image's, else TERM
	Resources   *Resources        `json:"resources,omitempty"`
	Security    Security          `json:"security,omitzero"`
}

// Mount is a directory or a file of the host, or the files of an image, at a place in a container.
type Mount struct {
	Destination       string                 `json:"destination"`
	Source            string                 `json:"source,omitempty"`    // of the host; a directory that is not there is made
	Image             string                 `json:"image,omitempty"`     // in place of Source, the name of a record; it is read-only
	Asked             string                 `json:"asked,omitempty"`     // what the client calls that image
	ImageRef          string                 `json:"image_ref,omitempty"` // by which the client is told of it
	SubPath           string                 `json:"sub_path,omitempty"`  // in the image
	ReadOnly          bool                   `json:"read_only,omitempty"`
	RecursiveReadOnly bool                   `json:"recursive_read_only,omitempty"`
	Propagation       string                 `json:"propagation,omitempty"` // "", rslave, rshared
	Options           []string               `json:"options,omitempty"`     // noexec, nodev, nosuid
	Relabel           bool                   `json:"relabel,omitempty"`     // for SELinux
	UIDs              []specs.LinuxIDMapping `json:"uids,omitempty"`
	GIDs              []specs.LinuxIDMapping `json:"gids,omitempty"`
}

// Device is one of the host's.
type Device struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Permissions string `json:"permissions"` // of r, w and m
}

// Resources are bounds; a zero value of a field is none.
type Resources struct {
	CPUPeriod   int64             `json:"cpu_period,omitempty"` // microseconds
	CPUQuota    int64             `json:"cpu_quota,omitempty"`  // microseconds in a period
	CPUShares   int64             `json:"cpu_shares,omitempty"`
	Memory      int64             `json:"memory,omitempty"`      // bytes
	MemorySwap  int64             `json:"memory_swap,omitempty"` // bytes, memory and swap together; -1: no bound
	OOMScoreAdj int64             `json:"oom_score_adj,omitempty"`
	CpusetCPUs  string            `json:"cpuset_cpus,omitempty"`
	CpusetMems  string            `json:"cpuset_mems,omitempty"`
	HugePages   map[string]uint64 `json:"huge_pages,omitempty"` // bytes, by the size of a page, such as 2MB
	Unified     map[string]string `json:"unified,omitempty"`    // files of cgroup v2
}

// Security is what a container may do.
type Security struct {
	Namespaces    Namespaces `json:"namespaces,omitzero"`
	Privileged    bool       `json:"privileged,omitempty"`
	AddCaps       []string   `json:"add_caps,omitempty"`
	DropCaps      []string   `json:"drop_caps,omitempty"`
	AmbientCaps   []string   `json:"ambient_caps,omitempty"`
	UID           *int64     `json:"uid,omitempty"` // nil: Username, else the image's
	GID           *int64     `json:"gid,omitempty"`
	Username      string     `json:"username,omitempty"`
	Groups        []int64    `json:"groups,omitempty"`
	StrictGroups  bool       `json:"strict_groups,omitempty"` // without those that the image's /etc/group gives the user
	ReadOnlyRoot  bool       `json:"read_only_root,omitempty"`
	NoNewPrivs    bool       `json:"no_new_privs,omitempty"`
	MaskedPaths   []string   `json:"masked_paths,omitempty"`    // none: the usual ones
	ReadOnlyPaths []string   `json:"read_only_paths,omitempty"` // likewise
	Seccomp       Profile    `json:"seccomp,omitzero"`
	AppArmor      Profile    `json:"apparmor,omitzero"`
	SELinux       *SELinux   `json:"selinux,omitempty"`
}

// Profile names a security profile.
type Profile struct {
	Kind ProfileKind `json:"kind,omitempty"`
	Name string      `json:"name,omitempty"` // of ProfileLocal: a path, or for AppArmor a name
}

// ProfileKind is where a profile comes from.
type ProfileKind string

// The kinds.
const (
	ProfileUnset      ProfileKind = ""           // as unconfined
	ProfileDefault    ProfileKind = "default"    // the runtime's
	ProfileUnconfined ProfileKind = "unconfined" // none
	ProfileLocal      ProfileKind = "local"      // one of the host's
)

// Bounds of the kernel, or of what makes sense.
const (
	minScore, maxScore = -1000, 1000
	maxPath            = 4096
	minMemory          = 4096 // a page
)

// check refuses what makes no sense, and names the field.
func (c ContainerConfig) check() error {
	switch {
	case c.Name == "":
		return bad("metadata.name", "missing")
	case len(c.Name) > maxName || strings.ContainsAny(c.Name, "\x00\n"):
		return bad("metadata.name", "%.300q: want at most %d characters", c.Name, maxName)
	case c.Image == "":
		return bad("image", "missing")
	case c.Dir != "" && !isPath(c.Dir):
		return bad("working_dir", "%.200q is no absolute path", c.Dir)
	case c.LogPath != "" && (!filepath.IsLocal(c.LogPath) || !isPath("/"+c.LogPath)):
		return bad("log_path", "%.200q: want a path below the pod's log directory", c.LogPath)
	case c.StdinOnce && !c.Stdin:
		return bad("stdin_once", "it says something of stdin, which there is none of")
	}
	if c.StopSignal != "" {
		if _, err := task.ParseSignal(c.StopSignal); err != nil {
			return bad("stop_signal", "%v", err)
		}
	}
	for field, list := range inOrder(map[string][]string{"command": c.Command, "args": c.Args}) {
		for _, arg := range list {
			if strings.ContainsRune(arg, 0) {
				return bad(field, "%.200q has a NUL byte", arg)
			}
		}
	}
	for _, env := range c.Env {
		if key, _, ok := strings.Cut(env, "="); !ok || key == "" || strings.ContainsRune(env, 0) {
			return bad("envs", "%.100q: want KEY=VALUE", env)
		}
	}
	for _, m := range c.Mounts {
		if err := m.check(); err != nil {
			return err
		}
	}
	for _, d := range c.Devices {
		if err := d.check(); err != nil {
			return err
		}
	}
	if c.Resources != nil {
		if err := c.Resources.checkNew(); err != nil {
			return err
		}
	}
	return c.Security.check()
}

func (m Mount) check() error {
	for field, p := range inOrder(map[string]string{"container_path": m.Destination, "host_path": m.Source}) {
		if len(p) >= maxPath || strings.ContainsRune(p, 0) || p != "" && !filepath.IsAbs(p) && field == "host_path" {
			return bad("mounts."+field, "%.200q is no absolute path", p)
		}
	}
	switch {
	case m.Destination == "" || filepath.Clean("/"+m.Destination) == "/":
		return bad("mounts.container_path", "%q: want a path below the root", m.Destination)
	case m.Source != "" && m.Image != "":
		return bad("mounts", "host_path %q and image %q exclude each other", m.Source, m.Image)
	case m.Source == "" && m.Image == "":
		return bad("mounts.host_path", "missing, of the mount at %q", m.Destination)
	case m.SubPath != "" && m.Image == "":
		return bad("mounts.image_sub_path", "%q without an image", m.SubPath)
	case m.SubPath != "" && !filepath.IsLocal(m.SubPath):
		return bad("mounts.image_sub_path", "%q is not below the root of the image", m.SubPath)
	case m.RecursiveReadOnly && !m.ReadOnly:
		return bad("mounts.recursive_read_only", "the mount at %q is not readonly", m.Destination)
	case m.RecursiveReadOnly && m.Propagation != "":
		return bad("mounts.recursive_read_only", "the mount at %q has the propagation %s, and needs a private one", m.Destination, m.Propagation)
	case m.Propagation != "" && m.Propagation != "rslave" && m.Propagation != "rshared":
		return bad("mounts.propagation", "%q is none", m.Propagation)
	}
	if len(m.UIDs)+len(m.GIDs) > 0 {
		if err := checkMaps("mounts.uid_mappings", m.UIDs); err != nil {
			return err
		}
		if err := checkMaps("mounts.gid_mappings", m.GIDs); err != nil {
			return err
		}
	}
	for _, o := range m.Options {
		if o != "noexec" && o != "nodev" && o != "nosuid" {
			return bad("mounts.mount_options", "%q is none of noexec, nodev, nosuid", o)
		}
	}
	return nil
}

func (d Device) check() error {
	for field, p := range inOrder(map[string]string{"container_path": d.Destination, "host_path": d.Source}) {
		if !isPath(p) {
			return bad("devices."+field, "%.200q is no absolute path", p)
		}
	}
	if strings.Trim(d.Permissions, "rwm") != "" || d.Permissions == "" {
		return bad("devices.permissions", "%q: want some of r, w, m", d.Permissions)
	}
	return nil
}

func (r Resources) check() error {
	limits := spec.Limits{CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota, CPUShares: r.CPUShares, CpusetCPUs: r.CpusetCPUs, CpusetMems: r.CpusetMems}
	if _, err := limits.Resources(); err != nil {
		return namedResource(err)
	}
	switch {
	case r.Memory < 0:
		return bad("resources.memory_limit_in_bytes", "%d is negative", r.Memory)
	case r.Memory > 0 && r.Memory < minMemory:
		return bad("resources.memory_limit_in_bytes", "%d: want a page at least", r.Memory)
	case r.MemorySwap < -1 || r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return bad("resources.memory_swap_limit_in_bytes", "%d: it counts memory and swap together", r.MemorySwap)
	case r.OOMScoreAdj < minScore || r.OOMScoreAdj > maxScore:
		return bad("resources.oom_score_adj", "%d: want a number from %d to %d", r.OOMScoreAdj, minScore, maxScore)
	}
	for name := range r.Unified {
		if name == "" || strings.ContainsAny(name, "/\x00") {
			return bad("resources.unified", "%q is no file of a cgroup", name)
		}
	}
	return nil
}

// checkNew refuses bounds that a container cannot begin with.
func (r Resources) checkNew() error {
	switch {
	case r.MemorySwap > 0 && r.Memory == 0:
		return bad("resources.memory_swap_limit_in_bytes", "%d without memory_limit_in_bytes", r.MemorySwap)
	case len(r.Unified) > 0 && !spec.Unified():
		return bad("resources.unified", "%q: this machine has cgroup v1", slices.Sorted(maps.Keys(r.Unified))[0])
	}
	return r.check()
}

// namedResource has an error about an option of lib/spec name the field that it was made of.
func namedResource(err error) error {
	var o *spec.OptionError
	if !errors.As(err, &o) {
		return err
	}
	return bad("resources."+strings.ReplaceAll(o.Option, "-", "_"), "%.100q: %s", o.Value, o.Reason)
}

func (s Security) check() error {
	if err := s.Namespaces.check(); err != nil {
		return err
	}
	return s.Check()
}

// Check refuses users, paths and profiles that make no sense, and names the field. A door calls it for what it is told of a pod alone,
// of which nothing runs.
func (s Security) Check() error {
	const lastID = 1<<32 - 2
	for field, id := range inOrder(map[string]*int64{"run_as_user": s.UID, "run_as_group": s.GID}) {
		if id != nil && (*id < 0 || *id > lastID) {
			return bad("security_context."+field, "%d is no id", *id)
		}
	}
	for _, g := range s.Groups {
		if g < 0 || g > lastID {
			return bad("security_context.supplemental_groups", "%d is no id", g)
		}
	}
	for field, list := range inOrder(map[string][]string{"masked_paths": s.MaskedPaths, "readonly_paths": s.ReadOnlyPaths}) {
		for _, p := range list {
			if !isPath(p) {
				return bad("security_context."+field, "%.200q is no absolute path", p)
			}
		}
	}
	switch {
	case s.UID != nil && s.Username != "":
		return bad("security_context.run_as_username", "%q beside run_as_user %d", s.Username, *s.UID)
	case s.GID != nil && s.UID == nil && s.Username == "":
		return bad("security_context.run_as_group", "%d without run_as_user or run_as_username", *s.GID)
	case s.Seccomp.Kind == ProfileLocal && !filepath.IsAbs(s.Seccomp.Name):
		return bad("security_context.seccomp.localhost_ref", "%q: want an absolute path", s.Seccomp.Name)
	case s.AppArmor.Kind == ProfileLocal && s.AppArmor.Name == "":
		return bad("security_context.apparmor.localhost_ref", "missing")
	}
	return nil
}

// user is the user in the form USER[:GROUP]; empty: the image's.
func (s Security) user() string {
	who := s.Username
	if s.UID != nil {
		who = strconv.FormatInt(*s.UID, 10)
	}
	if s.GID != nil {
		who += ":" + strconv.FormatInt(*s.GID, 10)
	}
	return who
}
