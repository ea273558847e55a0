// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/ask"
)

// An engine's init finds the program on PATH and waits. That the kernel refuses the program shows in execve(2)
// alone, after that wait, and external engines tell it with a status of their own. So the file is looked at
// while init waits, as the kernel's binfmt_script and binfmt_elf will, and a refusal that is certain is an
// error of Create or Exec.

// unrunnable says why a program cannot be run. The kind follows what shells do (bash, dash, busybox and zsh
// agree): 127 where the interpreter is missing, 126 for all else. A script whose first line ends in CR LF is
// a broken file, not a missing interpreter.
type unrunnable struct {
	kind ask.Kind
	text string
}

func (e *unrunnable) Error() string { return e.text }

// checkInit is checkRunnable for an init that waits. Hooks may still change the files.
func checkInit(pid int, spec *specs.Spec) error {
	if spec.Hooks != nil && len(spec.Hooks.StartContainer) > 0 {
		return nil
	}
	if args := spec.Process.Args; len(args) > 3 && args[0] == initPath {
		p := *spec.Process
		p.Args = args[3:] // behind "pid1" and "--"
		if err := checkThere(pid, &p); err != nil {
			return err
		}
	}
	return checkRunnable(pid, spec.Process)
}

// initPath is that of lib/spec: the first process of a container with --init. It looks for the program when it runs,
// and could tell nobody but the container's log that there is none.
const initPath = "/sbin/ctr-init"

// checkThere tells that a program is certainly not there; see checkRunnable.
func checkThere(pid int, p *specs.Process) error {
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer root.Close()
	in := files{root: root, cwd: p.Cwd}
	name := p.Args[0]
	names, why := []string{name}, "no such file or directory"
	if !strings.Contains(name, "/") {
		names, why = nil, "executable file not found in $PATH"
		for _, dir := range pathOf(p) {
			names = append(names, path.Join(cmp.Or(dir, "."), name))
		}
	}
	for _, n := range names {
		f, _, err := in.open(n)
		if f != nil {
			f.Close()
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return nil
		}
	}
	return &unrunnable{ask.NotFound, fmt.Sprintf("exec: %q: %s", name, why)}
}

// pathOf gives the directories of the program's PATH.
func pathOf(p *specs.Process) []string {
	var dirs string
	for _, v := range p.Env {
		if s, ok := strings.CutPrefix(v, "PATH="); ok {
			dirs = s
		}
	}
	return strings.Split(dirs, ":")
}

// checkRunnable tells why the kernel will not run a program, seen in the mount namespace of process pid. It
// gives nil when that is not certain: the engine, or the kernel, has the last word.
func checkRunnable(pid int, p *specs.Process) error {
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer root.Close()
	in := files{root: root, cwd: p.Cwd}
	name, f := in.program(p)
	if f == nil {
		return nil
	}
	defer f.Close()
	u := in.check(f, 0)
	if st, err := f.Stat(); err == nil && st.Mode()&0o111 == 0 { // not even root may run it
		u = &unrunnable{ask.NotExecutable, "permission denied"}
	}
	if u != nil {
		return &unrunnable{u.kind, fmt.Sprintf("exec: %q: %s", name, u.text)}
	}
	return nil
}

// files are the files of a container.
type files struct {
	root *os.File
	cwd  string
}

// open opens a regular file; nothing else is touched.
func (in files) open(name string) (*os.File, os.FileMode, error) {
	if !path.IsAbs(name) {
		name = path.Join(in.cwd, name)
	}
	fd, err := unix.Openat2(int(in.root.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, 0, errNotRegular
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	return f, os.FileMode(st.Mode & 0o777), err
}

var errNotRegular = errors.New("not a regular file")

// program finds the file that the engine will run, nil when the engine will not find any.
func (in files) program(p *specs.Process) (string, *os.File) {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		f, _, _ := in.open(name)
		return name, f
	}
	for _, dir := range pathOf(p) {
		name := path.Join(cmp.Or(dir, "."), name)
		if f, mode, err := in.open(name); err == nil {
			if mode&0o111 != 0 {
				return name, f
			}
			f.Close()
		}
	}
	return "", nil
}

const (
	headSize = 256 // BINPRM_BUF_SIZE: what the kernel judges a file by
	maxDepth = 5   // a script's interpreter may be a script, so often
)

func (in files) check(f *os.File, depth int) *unrunnable {
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil
	}
	// The kernel sees zeros behind the end of a short file.
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		return in.checkScript(head, depth)
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		st, err := f.Stat()
		if err != nil {
			return nil
		}
		return in.checkELF(f, head, st.Size())
	case otherFormats():
		return nil
	case n == 0:
		return &unrunnable{ask.NotExecutable, "exec format error: the file is empty"}
	}
	return &unrunnable{ask.NotExecutable, "exec format error: neither an ELF program nor a script that begins with #!"}
}

func (in files) checkScript(head []byte, depth int) *unrunnable {
	name, ok := interpreter(head)
	if !ok {
		return &unrunnable{ask.NotExecutable, "exec format error: no interpreter in its first line"}
	}
	if depth == maxDepth {
		return &unrunnable{ask.NotExecutable, "too many interpreters that are scripts"}
	}
	f, u := in.openInterpreter(name)
	if u != nil || f == nil {
		return u
	}
	defer f.Close()
	if u = in.check(f, depth+1); u != nil {
		return &unrunnable{u.kind, fmt.Sprintf("interpreter %q: %s", name, u.text)}
	}
	return nil
}

// interpreter gives the interpreter that a script names, as binfmt_script does.
func interpreter(head []byte) (string, bool) {
	line, _, ended := bytes.Cut(head[2:], []byte("\n"))
	line, _, zero := bytes.Cut(line, []byte{0})
	line = bytes.TrimLeft(line, " \t")
	i := bytes.IndexAny(line, " \t")
	switch {
	case i >= 0:
		line = line[:i]
	case !ended && !zero:
		return "", false // it does not end within what the kernel reads
	}
	return string(line), len(line) > 0
}

// openInterpreter opens the interpreter of a script or a program; nil, nil when it is not to be judged.
func (in files) openInterpreter(name string) (*os.File, *unrunnable) {
	f, mode, err := in.open(name)
	switch {
	case errors.Is(err, unix.ENOENT) && strings.HasSuffix(name, "\r"):
		return nil, &unrunnable{ask.NotExecutable,
			fmt.Sprintf("bad interpreter %q: the line ends in CR LF, as on Windows", name)}
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, &unrunnable{ask.NotFound, fmt.Sprintf("its interpreter %q: no such file or directory", name)}
	case errors.Is(err, errNotRegular):
		return nil, &unrunnable{ask.NotExecutable, fmt.Sprintf("bad interpreter %q: not a file", name)}
	case err != nil:
		return nil, nil
	case mode&0o111 == 0:
		f.Close()
		return nil, &unrunnable{ask.NotExecutable, fmt.Sprintf("bad interpreter %q: permission denied", name)}
	}
	return f, nil
}

// machines are the e_machine values of programs that this kernel runs, and, after them, of those that it may
// run when it was built so.
var machines = map[string]struct{ native, maybe uint16 }{
	"386":     {3, 3},
	"amd64":   {62, 3},
	"arm":     {40, 40},
	"arm64":   {183, 40},
	"ppc64le": {21, 21},
	"riscv64": {243, 243},
	"s390x":   {22, 22},
}

// machineNames name the e_machine values that people meet.
var machineNames = map[uint16]string{
	3: "386", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv", 258: "loong64",
}

// elfHead is what the kernel reads of an ELF header (elf(5)), of either class.
type elfHead struct {
	wide    bool // ELFCLASS64
	machine uint16
	kind    uint16
	phoff   uint64
	phsize  uint16
	phnum   uint16
}

func parseELF(head []byte) elfHead {
	e := binary.NativeEndian
	h := elfHead{wide: head[4] == 2, kind: e.Uint16(head[16:]), machine: e.Uint16(head[18:])}
	if h.wide {
		h.phoff, h.phsize, h.phnum = e.Uint64(head[32:]), e.Uint16(head[54:]), e.Uint16(head[56:])
	} else {
		h.phoff, h.phsize, h.phnum = uint64(e.Uint32(head[28:])), e.Uint16(head[42:]), e.Uint16(head[44:])
	}
	return h
}

// segment is a program header.
type segment struct {
	kind         uint32
	offset, size uint64
}

func (h elfHead) segment(b []byte) segment {
	e := binary.NativeEndian
	if h.wide {
		return segment{e.Uint32(b), e.Uint64(b[8:]), e.Uint64(b[32:])}
	}
	return segment{e.Uint32(b), uint64(e.Uint32(b[4:])), uint64(e.Uint32(b[16:]))}
}

const (
	segmentLoad   = 1 // PT_LOAD
	segmentInterp = 3 // PT_INTERP
	pathMax       = 4096
	headersMax    = 64 << 10
)

func (in files) checkELF(f io.ReaderAt, head []byte, size int64) *unrunnable {
	h := parseELF(head)
	m, known := machines[runtime.GOARCH]
	if !known || h.machine != m.native && (h.machine == m.maybe || otherFormats()) {
		return nil
	}
	if h.machine != m.native {
		name := cmp.Or(machineNames[h.machine], fmt.Sprintf("machine %d", h.machine))
		return &unrunnable{ask.NotExecutable, fmt.Sprintf("exec format error: a program for %s, and this host is %s", name, runtime.GOARCH)}
	}
	entry := uint64(32)
	if h.wide {
		entry = 56
	}
	bad := &unrunnable{ask.NotExecutable, "exec format error: a damaged ELF program"}
	cut := &unrunnable{ask.NotExecutable, fmt.Sprintf("exec format error: an ELF program cut short at %d bytes", size)}
	total := entry * uint64(h.phnum)
	switch {
	case h.phoff > uint64(size) || total > uint64(size)-h.phoff || size < 64 && h.wide || size < 52:
		return cut
	case h.kind != 2 && h.kind != 3 || uint64(h.phsize) != entry || total == 0 || total > headersMax:
		return bad
	}
	b := make([]byte, total)
	if _, err := f.ReadAt(b, int64(h.phoff)); err != nil {
		return nil
	}
	pages := (uint64(size) + 4095) &^ 4095
	for p := range slices.Chunk(b, int(entry)) {
		s := h.segment(p)
		switch {
		case s.kind == segmentLoad && s.size > 0 && (s.offset > pages || s.size > pages-s.offset):
			// The kernel maps it all the same, and the program dies when it touches what is not there.
			return cut
		case s.kind == segmentInterp:
			return in.checkLoader(f, s)
		}
	}
	return nil
}

// checkLoader looks at the dynamic loader that a program names.
func (in files) checkLoader(f io.ReaderAt, s segment) *unrunnable {
	if s.size < 2 || s.size > pathMax || s.offset > 1<<62 {
		return &unrunnable{ask.NotExecutable, "exec format error: a damaged ELF program"}
	}
	b := make([]byte, s.size)
	if _, err := f.ReadAt(b, int64(s.offset)); err != nil || b[len(b)-1] != 0 {
		return &unrunnable{ask.NotExecutable, "exec format error: a damaged ELF program"}
	}
	name, _, _ := strings.Cut(string(b), "\x00")
	loader, u := in.openInterpreter(name)
	if loader != nil {
		loader.Close()
	}
	return u
}

// otherFormats tells whether the host runs files of formats that were registered with it (binfmt_misc).
func otherFormats() bool {
	all, err := os.ReadDir("/proc/sys/fs/binfmt_misc")
	if err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	return slices.ContainsFunc(all, func(e os.DirEntry) bool { return e.Name() != "register" && e.Name() != "status" })
}
