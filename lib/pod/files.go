// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskdir"
)

// shmSize is that of /dev/shm, in bytes, as docker and containerd have it.
const shmSize = 64 << 20

// makeShm mounts /dev/shm of a pod that has an IPC namespace of its own. It is a mount of the host, since it must outlive
// each of the containers.
func makeShm(dir string, c Config) error {
	if c.Namespaces.IPC == Node {
		return nil
	}
	path := filepath.Join(dir, taskdir.PodShm)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	data := fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", shmSize, rootOf(c.Namespaces.UIDs), rootOf(c.Namespaces.GIDs))
	if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return &os.PathError{Op: "mount", Path: path, Err: err}
	}
	return nil
}

// endShm unmounts it, as often as it is mounted.
func endShm(dir string) error {
	path := filepath.Join(dir, taskdir.PodShm)
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// rootOf is what 0 of the pod is on the host.
func rootOf(list []specs.LinuxIDMapping) uint32 {
	for _, m := range list {
		if m.ContainerID == 0 {
			return m.HostID
		}
	}
	return 0
}

const (
	hostHosts  = "/etc/hosts"
	hostResolv = "/etc/resolv.conf"
)

// writeFiles writes the files that the containers have in /etc, readable for every user of theirs.
func writeFiles(dir string, c Config, ips []string) error {
	name := c.Hostname
	if c.Namespaces.Network == Node || name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return err
		}
	}
	hosts, err := hostsText(c, name, ips)
	if err != nil {
		return err
	}
	resolv, err := resolvText(c.DNS)
	if err != nil {
		return err
	}
	for file, text := range map[string]string{taskdir.PodHostname: name + "\n", taskdir.PodHosts: hosts, taskdir.PodResolv: resolv} {
		path := filepath.Join(dir, file)
		err := os.WriteFile(path, []byte(text), 0o644)
		if err == nil {
			err = os.Chmod(path, 0o644) // whatever the umask
		}
		if err == nil && len(c.Namespaces.UIDs) > 0 {
			err = os.Lchown(path, int(rootOf(c.Namespaces.UIDs)), int(rootOf(c.Namespaces.GIDs)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hostsText is /etc/hosts. With the host's network it is the host's.
func hostsText(c Config, name string, ips []string) (string, error) {
	if c.Namespaces.Network == Node {
		text, err := os.ReadFile(hostHosts)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return string(text), err
	}
	text := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, ip := range ips {
		text += ip + "\t" + name + "\n"
	}
	return text, nil
}

// resolvText is /etc/resolv.conf; that of the host where nothing else is said.
func resolvText(d *DNS) (string, error) {
	if d == nil || len(d.Servers)+len(d.Searches)+len(d.Options) == 0 {
		text, err := os.ReadFile(hostResolv)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return string(text), err
	}
	var b strings.Builder
	if len(d.Searches) > 0 {
		b.WriteString("search " + strings.Join(d.Searches, " ") + "\n")
	}
	for _, s := range d.Servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(d.Options) > 0 {
		b.WriteString("options " + strings.Join(d.Options, " ") + "\n")
	}
	return b.String(), nil
}
