// SPDX-License-Identifier: Apache-2.0

package world

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Leaks lists what there is of the world on this machine: processes, mounts in any namespace, cgroups, task directories,
// sockets of supervisors. It takes up to settleFor when nothing is left but mounts in another namespace than this process's.
func (w *World) Leaks() []string {
	return lasting(func() []string { return look().of(w) })
}

// lasting looks until there is more than copies of mounts, or nothing. Whatever starts on the machine meanwhile, as a container
// of another test does, may begin in a namespace with a copy of all mounts, which it drops once it has a root of its own.
func lasting(left func() []string) []string {
	own, _ := os.Readlink("/proc/self/ns/mnt")
	for deadline := time.Now().Add(settleFor); ; time.Sleep(10 * time.Millisecond) {
		all := left()
		if time.Now().After(deadline) || slices.ContainsFunc(all, func(l string) bool {
			return !strings.HasPrefix(l, mountIn) || strings.HasPrefix(l, mountIn+own)
		}) || len(all) == 0 {
			return all
		}
	}
}

// mountIn begins the line of a mount.
const mountIn = "mount in "

// Left lists what a test has started or made and that has a name with the mark in it, as Leaks does: processes, by their
// command line, directory or cgroup; mounts in any namespace; cgroups. For tests that have no world.
func Left(mark string) []string {
	return lasting(func() []string { return look().marked(mark) })
}

func (m machine) marked(mark string) (left []string) {
	for _, p := range m.processes {
		if strings.Contains(p.command+"\x00"+p.dir+"\x00"+p.cgroups, mark) {
			left = append(left, p.String())
		}
	}
	for _, line := range slices.Concat(m.mounts, m.cgroups) {
		if strings.Contains(line, mark) {
			left = append(left, line)
		}
	}
	return left
}

// Ended gives the status that the TestMain of a package without worlds exits with: that of its tests, or 1 when they have
// left something with the mark, of which it tells.
func Ended(status int, mark string) int {
	for _, l := range Left(mark) {
		fmt.Fprintln(os.Stderr, "left behind:", l)
		status = max(1, status)
	}
	return status
}

// machine is what there was on this machine at one moment, but for this process.
type machine struct {
	processes []process
	mounts    []string // where it is and its line in mountinfo
	cgroups   []string // directories, parents first
}

// process is one that lives. Its texts are those of /proc.
type process struct {
	pid                        int
	command, dir, env, cgroups string
}

// String names it, for a failure.
func (p process) String() string {
	return fmt.Sprintf("process %d (%s)", p.pid, strings.TrimSpace(strings.ReplaceAll(p.command, "\x00", " ")))
}

func look() (m machine) {
	seen := map[string]bool{}
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		m.processes = append(m.processes, lookAt(name)...)
		ns, err := os.Readlink(filepath.Join(name, "ns/mnt"))
		if err != nil || seen[ns] {
			continue
		}
		table := read(name, "mountinfo")
		seen[ns] = table != ""
		for line := range strings.Lines(table) {
			m.mounts = append(m.mounts, fmt.Sprintf(mountIn+"%s, where process %s is: %s", ns, filepath.Base(name), strings.TrimSpace(line)))
		}
	}
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			m.cgroups = append(m.cgroups, path)
		}
		return nil
	})
	return m
}

// lookAt gives the process with that directory, unless it is this one or has died, though its parent may not have
// noticed yet.
func lookAt(name string) []process {
	pid, err := strconv.Atoi(filepath.Base(name))
	if err != nil || pid == os.Getpid() || strings.Contains(read(name, "stat"), ") Z ") {
		return nil
	}
	p := process{pid: pid, command: read(name, "cmdline"), env: read(name, "environ"), cgroups: read(name, "cgroup")}
	p.dir, _ = os.Readlink(filepath.Join(name, "cwd"))
	return []process{p}
}

func read(dir, name string) string {
	data, _ := os.ReadFile(filepath.Join(dir, name))
	return string(data)
}

// of gives the part that is a world's.
func (m machine) of(w *World) []string {
	var left []string
	for _, p := range m.processes {
		if w.has(p) {
			left = append(left, p.String())
		}
	}
	for _, line := range m.mounts {
		if strings.Contains(line, w.Dir+"/") {
			left = append(left, line)
		}
	}
	for _, c := range m.cgroups {
		if strings.Contains(c, "/"+w.Prefix()+"-") {
			left = append(left, "cgroup "+c)
		}
	}
	tasks, _ := filepath.Glob(filepath.Join(w.State, "tasks", "*", "*"))
	for _, t := range tasks {
		left = append(left, "directory "+t)
	}
	links, _ := filepath.Glob(filepath.Join(w.State, "io.containerd.runtime.v2.task", "*", "*"))
	for _, l := range links {
		left = append(left, "link "+l)
	}
	sockets, _ := filepath.Glob(filepath.Join(w.State, "s", "*"))
	for _, s := range sockets {
		left = append(left, "socket "+s)
	}
	return left
}

// has says whether a process works in the world: commands and supervisors do by their environment, supervisors also by
// their directory, processes of containers by their cgroup.
func (w *World) has(p process) bool {
	return strings.HasPrefix(p.dir, w.Dir+"/") || strings.Contains(p.cgroups, "/"+w.Prefix()+"-") ||
		slices.Contains(strings.Split(p.env, "\x00"), "CTRD_STATE="+w.State)
}

// Processes finds those that work in the world.
func (w *World) Processes() []int {
	var pids []int
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		for _, p := range lookAt(name) {
			if w.has(p) {
				pids = append(pids, p.pid)
			}
		}
	}
	return pids
}

// end kills a process if it still works in the world: its pid may be another's by now.
func (w *World) end(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for _, p := range lookAt(filepath.Join("/proc", strconv.Itoa(pid))) {
		if w.has(p) {
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
		}
	}
}

// Prefix begins the names of this world's cgroups and units.
func (w *World) Prefix() string {
	h := sha256.Sum256([]byte(w.State))
	return "ctrd-" + hex.EncodeToString(h[:3])
}

// Cgroups lists the cgroups of the world's containers and supervisors in all hierarchies, parents first.
func (w *World) Cgroups() []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/"+w.Prefix()+"-") {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// InCgroup lists the processes of one container of the namespace default, in any hierarchy.
func (w *World) InCgroup(id string) []int {
	var pids []int
	for _, c := range w.Cgroups() {
		if filepath.Base(c) != w.Prefix()+"--default--"+id {
			continue
		}
		data, _ := os.ReadFile(filepath.Join(c, "cgroup.procs"))
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func (w *World) thaw() {
	for _, c := range w.Cgroups() {
		for name, text := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
			if f, err := os.OpenFile(filepath.Join(c, name), os.O_WRONLY, 0); err == nil {
				f.WriteString(text)
				f.Close()
			}
		}
	}
}

// hostMounts lists the mount points below a directory in this process's namespace.
func hostMounts(dir string) []string {
	var found []string
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			found = append(found, f[4])
		}
	}
	return found
}

// Residue lists the files of the root and the state directory that are not the databases, the journal, locks or
// what each says of the other: in a world without image, snapshot and container there are none. The lock file of a
// process that was killed stays for the next who takes that lock, or until a collection finds it ten seconds old.
func (w *World) Residue() []string {
	var left []string
	for dir, own := range map[string][]string{
		w.Root:  {"meta.db", "reserve", "pair", "locks", "uuid", "networks/own.json", "networks/boot"},
		w.State: {"run.db", "reserve", "boot", "pair", "events", "locks", "seccomp", "ipam"},
	} {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			name, _ := filepath.Rel(dir, path)
			if slices.Contains(own, name) {
				if d.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
			if !d.IsDir() {
				left = append(left, path)
			}
			return nil
		})
	}
	return left
}
