// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	defaultShm = 64 << 20
	ttyGroup   = 5 // the group "tty" of every distribution
)

// defaultMounts are docker's, in the order in which they must be made.
func defaultMounts(o Options, e Etc) ([]specs.Mount, error) {
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
	group := lock
	if o.CgroupWritable {
		group = []string{"rw"}
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if !o.UserNS.Private() || mapsTo(o.UserNS.GIDs, ttyGroup) {
		pts = append(pts, "gid="+itoa(ttyGroup))
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append([]string{"nosuid", "noexec", "nodev"}, lock...)},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append([]string{"nosuid", "noexec", "nodev", "relatime"}, group...)},
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
	list = append(list, etcMounts(o, e)...)
	if o.Init {
		list = append(list, specs.Mount{Destination: InitPath, Type: "bind", Source: initFile, Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev"}})
	}
	return list, nil
}

// addMounts sets all mounts: the defaults but those that an option replaces, then the volumes, parents before
// children.
func addMounts(s *specs.Spec, o Options, e Etc, volumes []Volume) (mkdir []string, err error) {
	if s.Mounts, err = defaultMounts(o, e); err != nil {
		return nil, err
	}
	asked := map[string]bool{}
	for _, v := range volumes {
		dst := v.Mount.Destination
		if asked[dst] {
			return nil, v.invalid("something else is mounted at %s too", dst)
		}
		asked[dst] = true
		if v.IDMap && !o.UserNS.Private() {
			return nil, v.invalid("idmap wants --userns: there is nothing to map")
		}
		missing, err := v.check()
		if err != nil {
			return nil, err
		}
		if missing && !slices.Contains(mkdir, v.Mount.Source) {
			mkdir = append(mkdir, v.Mount.Source)
		}
		s.Linux.RootfsPropagation = wider(s.Linux.RootfsPropagation, v.Propagation)
	}
	// What is made for every container goes over a volume, and not away with it.
	var under []specs.Mount
	volumes = slices.DeleteFunc(slices.Clone(volumes), func(v Volume) bool {
		dst := v.Mount.Destination
		if !v.Anonymous || !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, dst+"/") }) {
			return false
		}
		delete(asked, dst)
		under = append(under, v.Mount)
		return true
	})
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		below := func(dir string) bool { return asked[dir] && strings.HasPrefix(m.Destination, dir+"/") }
		return asked[m.Destination] || below("/dev") || below("/sys") || below("/etc")
	})
	s.Mounts = slices.Concat(under, s.Mounts)
	for _, v := range sorted(volumes) {
		s.Mounts = append(s.Mounts, v.Mount)
	}
	for _, dir := range []string{InitPath, path.Dir(InitPath)} {
		if o.Init && asked[dir] {
			return nil, invalid("init", "true", "something else is mounted at %s", dir)
		}
	}
	return mkdir, nil
}

// maxVolumes bounds what an image can ask for.
const maxVolumes = 1000

// volumesDir is, relative to the bundle, where the sources of anonymous volumes are named; see [SetVolumes].
const volumesDir = "volumes"

// addVolumes adds the volumes of the image where nothing else is mounted, and names the sources of those that are
// anonymous. Their destinations are the result. What an image says of the kernel's file systems does not count.
func addVolumes(img ocispec.ImageConfig, volumes []Volume) ([]Volume, []string, error) {
	if len(img.Volumes) > maxVolumes {
		return nil, nil, fmt.Errorf("the image has more than %d volumes: %w", maxVolumes, errdefs.ErrInvalidArgument)
	}
	asked := map[string]bool{}
	for _, v := range volumes {
		asked[v.Mount.Destination] = true
	}
	for _, text := range slices.Sorted(maps.Keys(img.Volumes)) {
		v, err := Volume{flag: "volume", text: text, Propagation: "rprivate"}.anonymous(path.Join("/", text))
		if err != nil {
			return nil, nil, fmt.Errorf("the image's volumes: %w", err)
		}
		dst := v.Mount.Destination
		kernels := slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool {
			return dst == dir || strings.HasPrefix(dst, dir+"/")
		})
		if !asked[dst] && !kernels {
			asked[dst] = true
			volumes = append(volumes, v)
		}
	}
	var made []string
	for i, v := range volumes {
		if v.Anonymous {
			volumes[i].Mount.Source = path.Join(volumesDir, strconv.Itoa(len(made)))
			made = append(made, v.Mount.Destination)
		}
	}
	return volumes, made, nil
}

// SetVolumes gives the anonymous volumes of s their sources: the directory dir/N for the one that is at N in
// Result.Volumes. Any other source, which a client of the API may have given, stays as it is.
func SetVolumes(s *specs.Spec, dir string) {
	for i, m := range s.Mounts {
		name, ok := strings.CutPrefix(m.Source, volumesDir+"/")
		if n, err := strconv.Atoi(name); ok && err == nil && n >= 0 && strconv.Itoa(n) == name && m.Type == "bind" {
			s.Mounts[i].Source = filepath.Join(dir, name)
		}
	}
}

// Volumes gives back Result.Volumes of a spec whose sources [SetVolumes] has not set.
func Volumes(s *specs.Spec) []string {
	var all []string
	for n := 0; ; n++ {
		i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "bind" && m.Source == volumesDir+"/"+strconv.Itoa(n) })
		if i < 0 {
			return all
		}
		all = append(all, s.Mounts[i].Destination)
	}
}

// sorted puts parents before children.
func sorted(volumes []Volume) []Volume {
	return slices.SortedStableFunc(slices.Values(volumes), func(a, b Volume) int {
		return strings.Count(a.Mount.Destination, "/") - strings.Count(b.Mount.Destination, "/")
	})
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

// parseMounts gives the volumes of all options, as they were given.
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
