// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ociVersion is the oldest that has all that is used here: engines refuse what is newer than they are.
const ociVersion = "1.1.0"

// Generate makes the specification of a container; its root is "rootfs", relative to the bundle. It looks
// at the host (sources of mounts, devices, what the kernel can) and changes nothing. What is wrong
// with an option is errdefs.ErrInvalidArgument.
func Generate(img ocispec.ImageConfig, o Options) (Result, error) {
	if err := o.normalize(); err != nil {
		return Result{}, err
	}
	sec, err := parseSecurity(o.SecurityOpt)
	if err != nil {
		return Result{}, err
	}
	p, err := process(img, o)
	if err != nil {
		return Result{}, err
	}
	p.NoNewPrivileges = sec.noNewPrivileges
	s := &specs.Spec{
		Version:  ociVersion,
		Process:  p,
		Root:     &specs.Root{Path: "rootfs", Readonly: o.ReadOnly},
		Hostname: o.Hostname,
		Linux:    &specs.Linux{CgroupsPath: o.CgroupsPath, Namespaces: namespaces(o)},
	}
	if s.Linux.Resources, err = resources(o); err != nil {
		return Result{}, err
	}
	if err := devices(o, s.Linux); err != nil {
		return Result{}, err
	}
	if s.Linux.Sysctl, err = sysctls(o); err != nil {
		return Result{}, err
	}
	if !o.Privileged && !sec.unmask {
		s.Linux.MaskedPaths = slices.Concat(maskedPaths, thermal())
		s.Linux.ReadonlyPaths = slices.Clone(readonlyPaths)
	}
	r := Result{Spec: s}
	if r.Mkdir, err = addMounts(s, o); err != nil {
		return Result{}, err
	}
	switch {
	case sec.seccomp == "unconfined":
	case sec.seccomp != "":
		if s.Linux.Seccomp, err = loadProfile(sec.seccomp, s); err != nil {
			return Result{}, err
		}
	default:
		r.DefaultSeccomp = !o.Privileged
	}
	return r, nil
}

// maxHostname is the kernel's __NEW_UTS_LEN.
const maxHostname = 64

// normalize checks the options that are one of a few words, and gives the words their short form.
func (o *Options) normalize() error {
	for _, f := range []struct {
		flag  string
		value *string
		words []string // the first is what "" means
	}{
		{"net", &o.Net, []string{"none", "host"}},
		{"pid", &o.PID, []string{"private", "host"}},
		{"ipc", &o.IPC, []string{"private", "host", "none", "shareable"}},
		{"uts", &o.UTS, []string{"private", "host"}},
		{"cgroupns", &o.Cgroupns, []string{"", "host", "private"}},
	} {
		if *f.value == "" {
			*f.value = f.words[0]
		}
		if !slices.Contains(f.words, *f.value) {
			want := slices.DeleteFunc(slices.Clone(f.words), func(w string) bool { return w == "" })
			return invalid(f.flag, *f.value, "want one of: %s", strings.Join(want, ", "))
		}
	}
	if o.Cgroupns == "" {
		o.Cgroupns = "host"
		if unified() && !o.Privileged {
			o.Cgroupns = "private"
		}
	}
	if len(o.Hostname) > maxHostname || strings.ContainsAny(o.Hostname, "\x00/ \t\n") {
		return invalid("hostname", o.Hostname, "want at most 64 characters without blanks")
	}
	if o.UTS == "host" {
		if o.Hostname != "" {
			return invalid("hostname", o.Hostname, "it would change the host: not with --uts host")
		}
		return nil
	}
	if o.Hostname != "" {
		return nil
	}
	o.Hostname = o.ID[:min(len(o.ID), maxHostname)]
	if o.Net == "host" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host's name: %w", err)
		}
		o.Hostname = name
	}
	return nil
}

func namespaces(o Options) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		mode string
	}{
		{specs.PIDNamespace, o.PID},
		{specs.IPCNamespace, o.IPC},
		{specs.UTSNamespace, o.UTS},
		{specs.NetworkNamespace, o.Net},
		{specs.CgroupNamespace, o.Cgroupns},
	} {
		if n.mode != "host" {
			list = append(list, specs.LinuxNamespace{Type: n.kind})
		}
	}
	return list
}

const defaultShm = 64 << 20

// defaultMounts are docker's, in the order in which they must be made.
func defaultMounts(o Options) ([]specs.Mount, error) {
	shm, err := size("shm-size", o.ShmSize)
	if err != nil {
		return nil, err
	}
	if shm == 0 {
		if o.ShmSize != "" {
			return nil, invalid("shm-size", o.ShmSize, "want a size above 0")
		}
		shm = defaultShm
	}
	// Privileged means that these may be written to; a read-only container stays one.
	lock := []string{"ro"}
	if o.Privileged && !o.ReadOnly {
		lock = []string{"rw"}
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append([]string{"nosuid", "noexec", "nodev"}, lock...)},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append([]string{"nosuid", "noexec", "nodev", "relatime"}, lock...)},
	}
	// A queue file system shows the queues of the namespace that it is mounted from, the host's too.
	list = append(list, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	switch o.IPC {
	case "none":
	case "host":
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "nosuid", "noexec", "nodev"}})
	default:
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)}})
	}
	// As docker has it, these are files of the container's own that it may write. Their sources lie in the
	// bundle: see Files.
	list = append(list, specs.Mount{Destination: "/etc/hostname", Type: "bind", Source: hostnameFile, Options: []string{"rbind", "rprivate"}})
	if o.Net != "host" {
		list = append(list, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: hostsFile, Options: []string{"rbind", "rprivate"}})
	} else {
		for _, p := range []string{"/etc/hosts", "/etc/resolv.conf"} {
			if _, err := os.Stat(p); err == nil {
				list = append(list, specs.Mount{Destination: p, Type: "bind", Source: p, Options: []string{"rbind", "rprivate", "ro"}})
			}
		}
	}
	return list, nil
}

// Names, relative to the bundle, of files that mounts of a specification refer to.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
)

// Files gives what the files must hold that Generate has mounted from the bundle, by their names there.
func Files(s *specs.Spec) map[string]string {
	name := s.Hostname
	if name == "" { // it shares the host's
		name, _ = os.Hostname()
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if name != "localhost" {
		hosts += "127.0.0.1\t" + name + "\n"
	}
	files := map[string]string{}
	for _, m := range s.Mounts {
		switch m.Source {
		case hostsFile:
			files[hostsFile] = hosts
		case hostnameFile:
			files[hostnameFile] = name + "\n"
		}
	}
	return files
}

// addMounts sets all mounts: the defaults but those that an option replaces, then those of the options,
// parents before children.
func addMounts(s *specs.Spec, o Options) (mkdir []string, err error) {
	if s.Mounts, err = defaultMounts(o); err != nil {
		return nil, err
	}
	volumes, err := parseMounts(o)
	if err != nil {
		return nil, err
	}
	asked := map[string]bool{}
	for _, v := range volumes {
		dst := v.Mount.Destination
		if asked[dst] {
			return nil, v.invalid("something else is mounted at %s too", dst)
		}
		asked[dst] = true
		missing, err := v.check()
		if err != nil {
			return nil, err
		}
		if missing && !slices.Contains(mkdir, v.Mount.Source) {
			mkdir = append(mkdir, v.Mount.Source)
		}
		s.Linux.RootfsPropagation = wider(s.Linux.RootfsPropagation, v.Propagation)
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		below := func(dir string) bool { return asked[dir] && strings.HasPrefix(m.Destination, dir+"/") }
		return asked[m.Destination] || below("/dev") || below("/sys") || below("/etc")
	})
	slices.SortStableFunc(volumes, func(a, b Volume) int {
		return strings.Count(a.Mount.Destination, "/") - strings.Count(b.Mount.Destination, "/")
	})
	for _, v := range volumes {
		s.Mounts = append(s.Mounts, v.Mount)
	}
	return mkdir, nil
}

// wider gives the propagation that the root needs so that a volume's own has an effect: a mount made below
// a private root reaches nobody.
func wider(root, volume string) string {
	switch {
	case strings.HasSuffix(volume, "shared"):
		return "shared"
	case strings.HasSuffix(volume, "slave") && root == "":
		return "rslave"
	}
	return root
}

func parseMounts(o Options) ([]Volume, error) {
	var list []Volume
	for _, f := range []struct {
		values []string
		parse  func(string) (Volume, error)
	}{{o.Volumes, ParseVolume}, {o.Mounts, ParseMount}, {o.Tmpfs, ParseTmpfs}} {
		for _, text := range f.values {
			v, err := f.parse(text)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
	}
	return list, nil
}
