// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/csv"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/go-units"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Volume is one mount that an option asks for.
type Volume struct {
	Mount specs.Mount
	// Propagation is that of a bind mount: "rprivate" unless the option says otherwise; "" for tmpfs.
	Propagation string
	// IDMap says that the files of a bind mount belong to the users whose numbers they have inside the
	// container's user namespace.
	IDMap bool
	// Create says that a missing source is a directory to make (-v) and not an error (--mount).
	Create bool
	// Anonymous says that the source is a directory of the container's own; see Result.Volumes.
	Anonymous bool
	// flag and text are what was typed.
	flag, text string
}

func (v Volume) invalid(format string, args ...any) error {
	return invalid(v.flag, v.text, format, args...)
}

var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

// ParseVolume parses docker's -v: SOURCE:DESTINATION[:OPTION,...] with ro, rw, the propagations, and z, Z,
// nocopy, cached, delegated and consistent, which say nothing on this system. DESTINATION alone is an anonymous
// volume. Both paths are absolute; named volumes do not exist. The source is not looked at.
func ParseVolume(text string) (Volume, error) {
	v := Volume{flag: "volume", text: text, Create: true, Propagation: "rprivate"}
	parts := strings.Split(text, ":")
	if len(parts) == 1 && text != "" {
		return v.anonymous(text)
	}
	if len(parts) < 2 || len(parts) > 3 {
		return v, v.invalid("want /source:/destination[:ro,rw,rshared,...]")
	}
	src, err := v.source(parts[0])
	if err != nil {
		return v, err
	}
	dst, err := v.destination(parts[1])
	if err != nil {
		return v, err
	}
	seen := map[string]string{}
	once := func(group, o string) error {
		if old, ok := seen[group]; ok {
			return v.invalid("%q and %q exclude each other", old, o)
		}
		seen[group] = o
		return nil
	}
	ro := false
	if len(parts) == 3 {
		for o := range strings.SplitSeq(parts[2], ",") {
			var err error
			switch {
			case o == "ro", o == "rw":
				err = once("mode", o)
				ro = o == "ro"
			case slices.Contains(propagations, o):
				err = once("propagation", o)
				v.Propagation = o
			case o == "idmap":
				err = once("idmap", o)
				v.IDMap = true
			case o == "z", o == "Z":
				err = once("label", o)
			case o == "nocopy", o == "cached", o == "delegated", o == "consistent":
				err = once("other "+o, o)
			default:
				err = v.invalid("option %q is none of ro, rw, idmap, z, Z, %s", o, strings.Join(propagations, ", "))
			}
			if err != nil {
				return v, err
			}
		}
	}
	v.bind(src, dst, true, ro, ro && recursiveReadOnly())
	return v, nil
}

// anonymous makes v a volume at dst.
func (v Volume) anonymous(dst string) (Volume, error) {
	dst, err := v.destination(dst)
	v.Anonymous = true
	v.bind("", dst, true, false, false)
	return v, err
}

func (v *Volume) bind(src, dst string, recursive, ro, rro bool) {
	kind := "bind"
	if recursive {
		kind = "rbind"
	}
	options := []string{kind, v.Propagation}
	if ro {
		options = append(options, "ro")
	}
	if rro {
		options = append(options, "rro")
	}
	if v.IDMap && recursive {
		options = append(options, "ridmap")
	} else if v.IDMap {
		options = append(options, "idmap")
	}
	v.Mount = specs.Mount{Type: "bind", Source: src, Destination: dst, Options: options}
}

// maxPath is the kernel's PATH_MAX, maxPart its NAME_MAX.
const (
	maxPath = 4096
	maxPart = 255
)

// tooLong says whether the kernel takes no path of this length, or with a part of this length.
func tooLong(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > maxPart {
			return true
		}
	}
	return len(p) >= maxPath
}

func (v Volume) source(p string) (string, error) {
	if strings.ContainsRune(p, 0) {
		return "", v.invalid("a NUL byte in the source")
	}
	if !filepath.IsAbs(p) {
		return "", v.invalid("the source %q is not an absolute path; give one, such as \"$PWD/%s\"", p, filepath.Clean(p))
	}
	if tooLong(p) {
		return "", v.invalid("the source is longer than a path can be")
	}
	return filepath.Clean(p), nil
}

func (v Volume) destination(p string) (string, error) {
	if strings.ContainsRune(p, 0) {
		return "", v.invalid("a NUL byte in the destination")
	}
	if !filepath.IsAbs(p) {
		return "", v.invalid("the destination %q is not an absolute path", p)
	}
	if p = filepath.Clean(p); p == "/" {
		return "", v.invalid("the destination cannot be /")
	}
	if tooLong(p) {
		return "", v.invalid("the destination is longer than a path can be")
	}
	return p, nil
}

// ParseMount parses docker's --mount, a CSV record of key=value: type=bind with src, dst, ro,
// bind-propagation, bind-recursive; type=tmpfs with dst, ro, tmpfs-size, tmpfs-mode; type=volume with dst. The
// source is not looked at.
func ParseMount(text string) (Volume, error) {
	v := Volume{flag: "mount", text: text}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return v, v.invalid("want type=bind,src=/source,dst=/destination or type=tmpfs,dst=/destination")
	}
	values := map[string]string{}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if alias, there := mountAliases[key]; there {
			key = alias
		}
		if !slices.Contains(mountKeys, key) {
			return v, v.invalid("unknown key %q; there are %s", key, strings.Join(mountKeys, ", "))
		}
		if !ok {
			if key != "readonly" && key != "idmap" {
				return v, v.invalid("key %q wants a value", key)
			}
			value = "true"
		}
		if _, twice := values[key]; twice {
			return v, v.invalid("key %q is given twice", key)
		}
		values[key] = value
	}
	ro := false
	if value, there := values["readonly"]; there {
		if ro, err = strconv.ParseBool(value); err != nil {
			return v, v.invalid("readonly wants true or false")
		}
	}
	if values["dst"] == "" {
		return v, v.invalid("no dst=/destination")
	}
	if values["dst"], err = v.destination(values["dst"]); err != nil {
		return v, err
	}
	switch values["type"] {
	case "bind":
		return v.parseBind(values, ro)
	case "tmpfs":
		return v.parseTmpfs(values, ro)
	case "volume":
		return v.parseAnonymous(values, ro)
	}
	return v, v.invalid("want type=bind, type=tmpfs or type=volume")
}

var (
	mountKeys    = []string{"type", "src", "dst", "readonly", "consistency", "bind-propagation", "bind-recursive", "idmap", "tmpfs-size", "tmpfs-mode"}
	mountAliases = map[string]string{"source": "src", "destination": "dst", "target": "dst", "ro": "readonly"}
)

// foreign refuses keys that belong to the other type.
func (v Volume) foreign(values map[string]string, prefix string) error {
	for key := range values {
		if strings.HasPrefix(key, prefix) {
			return v.invalid("key %q does not belong to type=%s", key, values["type"])
		}
	}
	return nil
}

func (v Volume) parseBind(values map[string]string, ro bool) (Volume, error) {
	if err := v.foreign(values, "tmpfs-"); err != nil {
		return v, err
	}
	if values["src"] == "" {
		return v, v.invalid("no src=/source")
	}
	src, err := v.source(values["src"])
	if err != nil {
		return v, err
	}
	if value, there := values["idmap"]; there {
		if v.IDMap, err = strconv.ParseBool(value); err != nil {
			return v, v.invalid("idmap wants true or false")
		}
	}
	v.Propagation = "rprivate"
	if p, there := values["bind-propagation"]; there {
		if !slices.Contains(propagations, p) {
			return v, v.invalid("bind-propagation %q is none of %s", p, strings.Join(propagations, ", "))
		}
		v.Propagation = p
	}
	recursive, rro := true, ro && recursiveReadOnly()
	switch r := values["bind-recursive"]; r {
	case "", "enabled":
	case "disabled":
		recursive, rro = false, false
	case "writable":
		rro = false
	case "readonly":
		if !ro {
			return v, v.invalid("bind-recursive=readonly wants readonly too")
		}
		rro = true
	default:
		return v, v.invalid("bind-recursive %q is none of enabled, disabled, writable, readonly", r)
	}
	v.bind(src, values["dst"], recursive, ro, rro)
	return v, nil
}

func (v Volume) parseAnonymous(values map[string]string, ro bool) (Volume, error) {
	for _, prefix := range []string{"bind-", "tmpfs-", "idmap"} {
		if err := v.foreign(values, prefix); err != nil {
			return v, err
		}
	}
	switch {
	case values["src"] != "":
		return v, v.invalid("there are no named volumes; leave src out, or use type=bind")
	case ro:
		return v, v.invalid("a volume that nobody can write to")
	}
	return v.anonymous(values["dst"])
}

func (v Volume) parseTmpfs(values map[string]string, ro bool) (Volume, error) {
	if err := v.foreign(values, "bind-"); err != nil {
		return v, err
	}
	if values["src"] != "" {
		return v, v.invalid("a tmpfs has no src")
	}
	if values["idmap"] != "" {
		return v, v.invalid("key \"idmap\" does not belong to type=tmpfs")
	}
	options := slices.Clone(tmpfsDefaults)
	if ro {
		options = append(options, "ro")
	}
	if s, there := values["tmpfs-size"]; there {
		n, err := units.RAMInBytes(s)
		if err != nil || n < 0 {
			return v, v.invalid("tmpfs-size %q: want a size such as 64m", s)
		}
		options = append(options, "size="+strconv.FormatInt(n, 10))
	}
	if s, there := values["tmpfs-mode"]; there {
		mode, err := strconv.ParseUint(s, 8, 12)
		if err != nil {
			return v, v.invalid("tmpfs-mode %q: want an octal number such as 1777", s)
		}
		options = append(options, "mode="+strconv.FormatUint(mode, 8))
	}
	v.Mount = specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: values["dst"], Options: options}
	return v, nil
}

// recursiveReadOnly says whether the kernel can make a whole tree of mounts read-only
// (mount_setattr, Linux 5.12), which is what a person means by ro.
var recursiveReadOnly = sync.OnceValue(func() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	return !errors.Is(err, unix.ENOSYS)
})

// check looks at the source: it says whether it is to be made, and refuses what cannot work.
func (v Volume) check() (mkdir bool, err error) {
	if v.Mount.Type != "bind" || v.Anonymous {
		return false, nil
	}
	src := v.Mount.Source
	_, err = os.Stat(src)
	switch {
	case err == nil:
		return false, v.checkShared()
	case !errors.Is(err, fs.ErrNotExist):
		return false, v.invalid("source %s: %v", src, errOnly(err))
	case !v.Create:
		return false, v.invalid("the source %s does not exist", src)
	}
	if _, err := os.Lstat(src); err == nil {
		return false, v.invalid("the source %s is a link to nothing", src)
	}
	return true, nil
}

// checkShared refuses a propagation that would silently do nothing: what is mounted below a private mount
// goes nowhere.
func (v Volume) checkShared() error {
	shared := strings.HasSuffix(v.Propagation, "shared")
	if !shared && !strings.HasSuffix(v.Propagation, "slave") {
		return nil
	}
	real, err := filepath.EvalSymlinks(v.Mount.Source)
	if err != nil {
		return v.invalid("%v", err)
	}
	above, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return v.invalid("%v", err)
	}
	var at *mountinfo.Info
	for _, m := range above {
		// The last of equals is the one on top.
		if at == nil || len(m.Mountpoint) >= len(at.Mountpoint) {
			at = m
		}
	}
	if at == nil || strings.Contains(at.Optional, "shared:") || !shared && strings.Contains(at.Optional, "master:") {
		return nil
	}
	return v.invalid("%s lies on %s, which is a private mount; make that shared first: mount --make-shared %s", v.Mount.Source, at.Mountpoint, at.Mountpoint)
}
