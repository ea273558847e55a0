// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MaxLayers is the number of lower directories that the kernel stacks in one overlay (OVL_MAX_STACK).
const MaxLayers = 500

func plain(source, target, fstype string, flags uintptr, data []string) error {
	joined := strings.Join(data, ",")
	if len(joined) >= os.Getpagesize() {
		return fmt.Errorf("options of %d bytes, but the kernel takes %d: %w", len(joined), os.Getpagesize()-1, errdefs.ErrInvalidArgument)
	}
	return unix.Mount(source, target, fstype, flags, joined)
}

// A way mounts an overlay at a directory. Its error is EINVAL, ENOSYS or EPERM when this kernel, or a filter of
// system calls, does not let it.
type way func(source string, at *os.File, flags uintptr, s *stack) error

// ways to mount an overlay whose options do not fit the page that mount(2) takes, in the order in which they are
// tried: [byDescriptor] (Linux 6.13) and [byName] (6.7) add one layer after the other, [byNumber] needs 5.4.
var ways = []way{byDescriptor, byName, byNumber}

// overlay mounts an overlay of any number of layers up to MaxLayers.
func overlay(source string, at *os.File, flags uintptr, data []string) error {
	if flags&unix.MS_REMOUNT != 0 || len(strings.Join(data, ",")) < os.Getpagesize() {
		return plain(source, procPath(at), "overlay", flags, data)
	}
	return stacked(source, at, flags, data)
}

// writable refuses an overlay that the kernel has mounted read-only, though it has an upper directory, because there was no room
// in the work directory: it would stay so when there is room again.
func writable(m Mount, target string, data []string) error {
	s, err := parseStack(data)
	if err != nil {
		return err
	}
	work := slices.IndexFunc(s.layers, func(l layer) bool { return l.key == "workdir" })
	if work < 0 {
		return nil
	}
	at, err := openTarget(target, m.Target) // the mount, not what lies below it
	if err != nil {
		return err
	}
	defer at.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(at.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	made := filepath.Join(s.layers[work].path, "writable")
	if err := os.Mkdir(made, 0o700); err != nil {
		return err
	}
	return errors.Join(fmt.Errorf("the kernel could not make a directory in %s: %w", s.layers[work].path, unix.EAGAIN), os.Remove(made))
}

// stacked mounts an overlay that is not left to mount(2).
func stacked(source string, at *os.File, flags uintptr, data []string) error {
	s, err := parseStack(data)
	if err != nil {
		return err
	}
	return s.mount(source, at, flags)
}

// mount mounts the overlay in the first way that works.
func (s *stack) mount(source string, at *os.File, flags uintptr) error {
	err := s.open()
	if err != nil {
		return err
	}
	defer s.close()
	for _, mount := range ways {
		err = mount(source, at, flags, s)
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			break
		}
	}
	return err
}

// stack is an overlay's list of options, taken apart.
type stack struct {
	layers []layer  // lower directories, the top first, then upper and work
	lower  int      // how many of them are lower ones
	rest   []string // other options: key=value or a word
}

// layer is a directory of an overlay.
type layer struct {
	key  string // as fsconfig(2) takes it: lowerdir+, datadir+, upperdir, workdir
	path string
	file *os.File // opened with O_PATH
}

// parseStack understands what the kernel does: options in one string or in several, lowerdir with escaped
// colons, data-only layers behind a double colon, and layers one by one (lowerdir+).
func parseStack(data []string) (*stack, error) {
	s := new(stack)
	var below []layer // upper and work
	for _, o := range splitOptions(strings.Join(data, ",")) {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			s.layers = splitLower(value)
		case "lowerdir+", "datadir+":
			s.layers = append(s.layers, layer{key: key, path: value})
		case "upperdir", "workdir":
			below = append(below, layer{key: key, path: unescape(value)})
		case "":
		default:
			s.rest = append(s.rest, o)
		}
	}
	s.lower = len(s.layers)
	s.layers = append(s.layers, below...)
	if s.lower > MaxLayers {
		return nil, fmt.Errorf("overlay of %d layers, but the kernel stacks %d: %w", s.lower, MaxLayers, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// open opens the directories, so that no path is too long to be named.
func (s *stack) open() error {
	for i := range s.layers {
		l := &s.layers[i]
		fd, err := unix.Open(l.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			s.close()
			return &os.PathError{Op: "open layer", Path: l.path, Err: err}
		}
		l.file = os.NewFile(uintptr(fd), l.path)
	}
	return nil
}

func (s *stack) close() {
	for _, l := range s.layers {
		if l.file != nil {
			l.file.Close()
		}
	}
}

// splitOptions splits at the commas that no backslash escapes, as overlayfs does.
func splitOptions(s string) []string { return splitEscaped(s, ',') }

func splitEscaped(s string, at byte) []string {
	var all []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case at:
			all = append(all, s[start:i])
			start = i + 1
		}
	}
	return append(all, s[start:])
}

// splitLower gives the layers that a value of lowerdir names. Those behind a double colon are data-only.
func splitLower(list string) []layer {
	var all []layer
	key := "lowerdir+"
	for _, name := range splitEscaped(list, ':') {
		if name == "" {
			key = "datadir+"
			continue
		}
		all = append(all, layer{key: key, path: unescape(name)})
	}
	return all
}

// parameters has the defaults of the kernel's overlayfs.
var parameters = "/sys/module/overlay/parameters"

// Plain gives the options with which the upper directory of an overlay can be read as a layer, whatever the defaults of
// the kernel are: a renamed directory is copied and not an empty one that says where the rest is (redirect_dir), and
// so is a file of which only the owner was changed (metacopy). Options that say what the default is are left out,
// because clients know few of them.
func Plain() []string {
	all := []string{"index=off"}
	for _, name := range []string{"redirect_dir", "metacopy"} {
		if set, err := os.ReadFile(filepath.Join(parameters, name)); err != nil || strings.TrimSpace(string(set)) != "N" {
			all = append(all, name+"=off")
		}
	}
	return all
}

// Escape writes a path as overlayfs reads it in a mount option.
func Escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace(path)
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Layers gives the directories that the options of an overlay name: the upper one, which may be none, and the lower ones,
// the top first. Data-only layers are errdefs.ErrNotImplemented.
func Layers(options []string) (upper string, lower []string, err error) {
	s, err := parseStack(options)
	if err != nil {
		return "", nil, err
	}
	for _, l := range s.layers {
		switch l.key {
		case "lowerdir+":
			lower = append(lower, l.path)
		case "upperdir":
			upper = l.path
		case "datadir+":
			return "", nil, fmt.Errorf("layer %s of data alone: %w", l.path, errdefs.ErrNotImplemented)
		}
	}
	return upper, lower, nil
}
