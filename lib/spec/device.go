// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cdi"
)

// Device is one value of --device that is no CDI device.
type Device struct {
	Source, Destination string
	Access              string // some of "rwm"
}

// ParseDevice parses docker's --device: /SOURCE[:/DESTINATION][:rwm].
func ParseDevice(text string) (Device, error) {
	const want = "want /dev/source[:/dev/destination][:rwm]"
	parts := strings.Split(text, ":")
	d := Device{Source: parts[0], Destination: parts[0], Access: "rwm"}
	switch len(parts) {
	case 1:
	case 2:
		if validAccess(parts[1]) {
			d.Access = parts[1]
		} else {
			d.Destination = parts[1]
		}
	case 3:
		d.Destination, d.Access = parts[1], parts[2]
	default:
		return d, invalid("device", text, want)
	}
	if !filepath.IsAbs(d.Source) || !filepath.IsAbs(d.Destination) || !validAccess(d.Access) || strings.ContainsRune(text, 0) {
		return d, invalid("device", text, want)
	}
	d.Source, d.Destination = filepath.Clean(d.Source), filepath.Clean(d.Destination)
	return d, nil
}

// ParseDeviceRule parses docker's --device-cgroup-rule: a, b or c, MAJOR:MINOR of which each may be *, and some of
// rwm, as in "c 1:3 mr".
func ParseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	fields := strings.Fields(text)
	want := func() (specs.LinuxDeviceCgroup, error) {
		return specs.LinuxDeviceCgroup{}, invalid("device-cgroup-rule", text, "want a type, numbers and access such as \"c 1:3 mr\" or \"b 8:* rwm\"")
	}
	if len(fields) != 3 || !slices.Contains([]string{"a", "b", "c"}, fields[0]) || !validAccess(fields[2]) {
		return want()
	}
	r := specs.LinuxDeviceCgroup{Allow: true, Type: fields[0], Access: fields[2]}
	major, minor, ok := strings.Cut(fields[1], ":")
	if !ok {
		return want()
	}
	for _, n := range []struct {
		text string
		to   **int64
	}{{major, &r.Major}, {minor, &r.Minor}} {
		if n.text == "*" {
			continue
		}
		v, err := strconv.ParseUint(n.text, 10, 20) // the kernel's minors have 20 bits
		if err != nil {
			return want()
		}
		number := int64(v)
		*n.to = &number
	}
	return r, nil
}

func validAccess(s string) bool {
	seen := ""
	for _, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(seen, c) {
			return false
		}
		seen += string(c)
	}
	return s != ""
}

// devices fills in what --device and --privileged ask for. The engines add the devices that every
// container has, with their rules, and let a device of the same path take their place.
func devices(o Options, l *specs.Linux) error {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	allowed := o.Privileged && (!o.OwnDevices || o.AllDevices)
	if allowed {
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	if o.Privileged && !o.OwnDevices {
		all, err := devicesBelow("/dev", "/dev")
		if err != nil {
			return invalid("privileged", "true", "%v", err)
		}
		l.Devices = all
	}
	for _, text := range o.Devices {
		if cdi.IsName(text) {
			continue // see giveCDI
		}
		d, err := ParseDevice(text)
		if err != nil {
			return err
		}
		found, err := hostDevices(d)
		if err != nil {
			return invalid("device", text, "%v", err)
		}
		if len(found) == 0 {
			return invalid("device", text, "%s is no device and has none below it", d.Source)
		}
		for _, dev := range found {
			l.Devices = slices.DeleteFunc(l.Devices, func(old specs.LinuxDevice) bool { return old.Path == dev.Path })
			l.Devices = append(l.Devices, dev)
			if !allowed {
				rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: d.Access})
			}
		}
	}
	for _, text := range o.DeviceRules {
		r, err := ParseDeviceRule(text)
		if err != nil {
			return err
		}
		rules = append(rules, r)
	}
	l.Resources.Devices = rules
	return nil
}

// giveCDI changes a specification as the CDI devices among those of --device, and of annotations, want it.
func giveCDI(s *specs.Spec, o Options) error {
	var names []string
	for _, text := range o.Devices {
		if cdi.IsName(text) {
			names = append(names, text)
		}
	}
	more, err := cdi.Annotated(s.Annotations)
	if err != nil {
		return err
	}
	dirs := o.CDIDirs
	if len(dirs) == 0 {
		dirs = cdi.Dirs()
	}
	return cdi.Inject(s, dirs, append(names, more...))
}

func hostDevices(d Device) ([]specs.LinuxDevice, error) {
	// A link such as /dev/disk/by-id/x names a device as well.
	st, err := os.Stat(d.Source)
	if err != nil {
		return nil, errOnly(err)
	}
	if !st.IsDir() {
		dev, ok, err := hostDevice(d.Source, d.Destination)
		if err != nil || !ok {
			return nil, err
		}
		return []specs.LinuxDevice{dev}, nil
	}
	return devicesBelow(d.Source, d.Destination)
}

// notOfHost are the directories of /dev that a container has of its own.
var notOfHost = []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"}

// devicesBelow lists the device nodes of a tree; links are not followed. The console is the
// container's own.
func devicesBelow(from, to string) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) && p != from {
				return nil
			}
			return err
		}
		if e.IsDir() {
			if p != from && slices.Contains(notOfHost, e.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 || p == "/dev/console" {
			return nil
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		dev, ok, err := hostDevice(p, filepath.Join(to, rel))
		if ok {
			list = append(list, dev)
		}
		return err
	})
	return list, err
}

// hostDevice describes a node; ok is false for what is no device or has gone.
func hostDevice(from, to string) (d specs.LinuxDevice, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		if err == unix.ENOENT {
			err = nil
		}
		return d, false, err
	}
	mode := os.FileMode(st.Mode & 0o777)
	d = specs.LinuxDevice{
		Path: to, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, false, nil
	}
	return d, true, nil
}
