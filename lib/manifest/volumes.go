// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Prepare makes the volumes of a pod in its directory: what is there already stays as it is.
func (p *Pod) Prepare(h Home) error {
	for i := range p.Pod.Spec.Volumes {
		v := &p.Pod.Spec.Volumes[i]
		if err := p.prepare(v, h.volume(v.Name), p.fsGroup()); err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	return nil
}

// fsGroup is the group that volumes of the pod's own have; -1: root's.
func (p *Pod) fsGroup() int {
	if sc := p.Pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		return int(*sc.FSGroup)
	}
	return -1
}

// own gives a file or directory to a group, which gets the permissions in more. A directory is the group's to search, and hands the group on.
func own(path string, group int, more fs.FileMode) error {
	if group < 0 {
		return nil
	}
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if st.IsDir() {
		more |= 0o110 | fs.ModeSetgid
	}
	if err := os.Lchown(path, -1, group); err != nil {
		return err
	}
	return os.Chmod(path, st.Mode()|more) // after the owner, whose change takes bits away
}

func (p *Pod) prepare(v *corev1.Volume, dir string, group int) error {
	switch {
	case v.HostPath != nil:
		return prepareHostPath(v.HostPath)
	case v.EmptyDir != nil:
		if err := prepareEmpty(v.EmptyDir, dir); err != nil {
			return err
		}
		return own(dir, group, 0o660)
	case v.ConfigMap != nil:
		data, err := p.configMap(v.ConfigMap.Name, isSet(v.ConfigMap.Optional))
		if err != nil {
			return err
		}
		return writeFiles(dir, data, v.ConfigMap.Items, v.ConfigMap.DefaultMode, isSet(v.ConfigMap.Optional), group)
	case v.Secret != nil:
		data, err := p.secret(v.Secret.SecretName, isSet(v.Secret.Optional))
		if err != nil {
			return err
		}
		return writeFiles(dir, data, v.Secret.Items, v.Secret.DefaultMode, isSet(v.Secret.Optional), group)
	}
	return nil // an image, which the runtime mounts
}

// prepareHostPath checks that the path is what its type says, or makes it.
func prepareHostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(h.Path, 0o755); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_RDONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	}
	st, err := os.Stat(h.Path)
	if err != nil {
		return err
	}
	mode := st.Mode()
	fits, ok := map[corev1.HostPathType]bool{
		corev1.HostPathUnset: true, corev1.HostPathDirectoryOrCreate: mode.IsDir(), corev1.HostPathDirectory: mode.IsDir(),
		corev1.HostPathFileOrCreate: mode.IsRegular(), corev1.HostPathFile: mode.IsRegular(), corev1.HostPathSocket: mode&fs.ModeSocket != 0,
		corev1.HostPathCharDev: mode&fs.ModeCharDevice != 0, corev1.HostPathBlockDev: mode&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice,
	}[kind]
	switch {
	case !ok:
		return fmt.Errorf("hostPath.type %q: there is no such type: %w", kind, errdefs.ErrInvalidArgument)
	case !fits:
		return fmt.Errorf("hostPath %q is no %s: %w", h.Path, kind, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// prepareEmpty makes a directory that everybody may write to, in memory if that is asked for.
func prepareEmpty(e *corev1.EmptyDirVolumeSource, dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // the umask
		return err
	}
	if e.Medium != corev1.StorageMediumMemory {
		return nil
	}
	if mounted, err := mount.Mounted(dir); err != nil || mounted {
		return err
	}
	options := []string{"mode=0777"}
	if e.SizeLimit != nil && e.SizeLimit.Value() > 0 {
		options = append(options, "size="+strconv.FormatInt(e.SizeLimit.Value(), 10))
	}
	return mount.All([]mount.Mount{{Type: "tmpfs", Source: "tmpfs", Options: options}}, dir)
}

// writeFiles makes a directory with a file for each key, or for each item. It appears whole.
func writeFiles(dir string, data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional bool, group int) (err error) {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	making, err := os.MkdirTemp(filepath.Dir(dir), ".making-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(making))
		}
	}()
	if items == nil {
		for _, k := range slices.Sorted(maps.Keys(data)) {
			items = append(items, corev1.KeyToPath{Key: k, Path: k})
		}
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("there is no key %q: %w", item.Key, errdefs.ErrNotFound)
		}
		if !filepath.IsLocal(item.Path) {
			return fmt.Errorf("item %q: path %q leaves the volume: %w", item.Key, item.Path, errdefs.ErrInvalidArgument)
		}
		perm := fs.FileMode(0o644)
		for _, m := range []*int32{mode, item.Mode} {
			if m != nil {
				perm = fs.FileMode(*m) & 0o777
			}
		}
		at := filepath.Join(making, item.Path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, content, 0o600); err != nil {
			return err
		}
		if err := os.Chmod(at, perm); err != nil {
			return err
		}
	}
	if err := os.Chmod(making, 0o755); err != nil {
		return err
	}
	err = filepath.WalkDir(making, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return own(path, group, 0o440)
	})
	if err != nil {
		return err
	}
	// What is there is not written again: so it must be whole after a power cut.
	if err := syncTree(making); err != nil {
		return err
	}
	if err := os.Rename(making, dir); err != nil {
		return err
	}
	return state.SyncDir(filepath.Dir(dir))
}

// syncTree makes the files and directories in dir durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// mounts are a container's.
func (p *Pod) mounts(c *corev1.Container, h Home, f Facts) (out []*runtimeapi.Mount, err error) {
	volumes := map[string]*corev1.Volume{}
	for i := range p.Pod.Spec.Volumes {
		volumes[p.Pod.Spec.Volumes[i].Name] = &p.Pod.Spec.Volumes[i]
	}
	for i, m := range c.VolumeMounts {
		v := volumes[m.Name]
		mounted := &runtimeapi.Mount{ContainerPath: m.MountPath, Readonly: m.ReadOnly, Propagation: propagation(m.MountPropagation)}
		if r := m.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled {
			mounted.RecursiveReadOnly = m.ReadOnly
		}
		if v.Image != nil {
			mounted.Image = &runtimeapi.ImageSpec{Image: v.Image.Reference, UserSpecifiedImage: v.Image.Reference}
			mounted.ImageSubPath, mounted.Readonly = m.SubPath, true
			out = append(out, mounted)
			continue
		}
		if mounted.HostPath, err = h.source(v, c.Name, m.SubPath, i); err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		mounted.Readonly = m.ReadOnly || v.ConfigMap != nil || v.Secret != nil
		out = append(out, mounted)
	}
	if len(p.Pod.Spec.HostAliases) > 0 {
		path, err := p.writeHosts(h, f)
		if err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	return out, nil
}

func propagation(m *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	if m == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	return map[corev1.MountPropagationMode]runtimeapi.MountPropagation{
		corev1.MountPropagationHostToContainer: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		corev1.MountPropagationBidirectional:   runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL,
	}[*m]
}

// source is the path of a volume, or of a part of it, which is made where it is not there. A part is bound to a place of
// its own, so that no program in a pod can put a link in its place before the runtime mounts it.
func (h Home) source(v *corev1.Volume, container, sub string, place int) (string, error) {
	dir := h.volume(v.Name)
	if v.HostPath != nil {
		dir = v.HostPath.Path
	}
	if sub == "" {
		return dir, nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if err := makePart(root, sub); err != nil {
		return "", fmt.Errorf("subPath: %w", err)
	}
	f, err := root.OpenFile(sub, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a FIFO
	if err != nil {
		return "", fmt.Errorf("subPath: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	at := filepath.Join(string(h), dirParts, container, strconv.Itoa(place))
	if err := mount.Unmount(at, unix.MNT_DETACH); err != nil {
		return "", err
	}
	if err := os.RemoveAll(at); err != nil {
		return "", err
	}
	if err := makeLike(st, at); err != nil {
		return "", err
	}
	return at, mount.All([]mount.Mount{{Type: "rbind", Source: fmt.Sprintf("/proc/self/fd/%d", f.Fd()), Options: []string{"rbind"}}}, at)
}

// makePart makes a directory of a volume where it is not there, with the permissions of the volume's own: who may write to that may write
// to the part.
func makePart(root *os.Root, sub string) error {
	st, err := root.Stat(".")
	if err != nil {
		return err
	}
	all := strings.Split(path.Clean(sub), "/")
	for i := range all {
		part := strings.Join(all[:i+1], "/")
		for try := 0; ; try++ {
			if _, err := root.Stat(part); !errors.Is(err, fs.ErrNotExist) {
				break // what is wrong with it shows where it is opened
			}
			err := makeWhole(root, part, st.Mode()&(fs.ModePerm|fs.ModeSetgid))
			if err == nil || errors.Is(err, fs.ErrExist) {
				break
			}
			if try >= partTries || !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// partTries bounds the tries to make a directory where others, such as the programs of the pod, remove what is being made.
const partTries = 100

// makeWhole makes a directory that has its mode when it appears. Programs of the pod may write to the volume meanwhile: so the mode
// is set by a descriptor of what was made.
func makeWhole(root *os.Root, part string, mode fs.FileMode) error {
	making := path.Join(path.Dir(part), ".ctrd-making")
	if err := root.RemoveAll(making); err != nil { // of one that was killed
		return err
	}
	if err := root.Mkdir(making, 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(making, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o777 != 0o700 {
		return fmt.Errorf("somebody has put something else in the place of %s: %w", making, errdefs.ErrAborted)
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	err = root.Rename(making, part)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOTEMPTY) {
		err = fs.ErrExist
	}
	if err != nil {
		return errors.Join(err, root.RemoveAll(making))
	}
	return nil
}

// makeLike makes a place that something can be bound to.
func makeLike(st fs.FileInfo, at string) error {
	if st.IsDir() {
		return os.MkdirAll(at, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.WriteFile(at, nil, 0o644)
}

const hostsOfHost = "/etc/hosts"

// writeHosts writes the pod's /etc/hosts, with the names that the manifest adds.
func (p *Pod) writeHosts(h Home, f Facts) (string, error) {
	text := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, ip := range f.IPs {
		text += ip + "\t" + p.hostname() + "\n"
	}
	if p.Pod.Spec.HostNetwork { // it has the host's name and names
		own, err := os.ReadFile(hostsOfHost)
		if err != nil {
			return "", err
		}
		text = strings.TrimRight(string(own), "\n") + "\n"
	}
	for _, a := range p.Pod.Spec.HostAliases {
		text += a.IP
		for _, name := range a.Hostnames {
			text += "\t" + name
		}
		text += "\n"
	}
	path := filepath.Join(string(h), "hosts")
	return path, state.WriteFile(path, []byte(text), false)
}
