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
)

// Leaks lists what runs of the world: processes, mounts in any namespace, cgroups, task directories.
func (w *World) Leaks() []string {
	var left []string
	for _, p := range w.Processes() {
		left = append(left, fmt.Sprintf("process %d (%s)", p, commandOf(p)))
	}
	left = append(left, w.mounts()...)
	for _, c := range w.Cgroups() {
		left = append(left, "cgroup "+c)
	}
	tasks, _ := filepath.Glob(filepath.Join(w.State, "tasks", "*", "*"))
	for _, t := range tasks {
		left = append(left, "directory "+t)
	}
	return left
}

// Processes finds those that work in the world: commands and supervisors by their environment,
// supervisors also by their directory, processes of containers by their cgroup.
func (w *World) Processes() []int {
	var pids []int
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range names {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if stat, _ := os.ReadFile(filepath.Join(p, "stat")); strings.Contains(string(stat), ") Z ") {
			continue // dead; its parent has not noticed yet
		}
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		env, _ := os.ReadFile(filepath.Join(p, "environ"))
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		if strings.HasPrefix(cwd, w.Dir+"/") || strings.Contains(string(groups), "/"+w.Prefix()+"-") ||
			slices.Contains(strings.Split(string(env), "\x00"), "CTRD_STATE="+w.State) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func commandOf(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
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

// mounts lists what is mounted on or made of something of the world, in every mount namespace that a
// process is in.
func (w *World) mounts() []string {
	var found []string
	seen := map[string]bool{}
	names, _ := filepath.Glob("/proc/[0-9]*/ns/mnt")
	for _, n := range names {
		ns, err := os.Readlink(n)
		if err != nil || seen[ns] {
			continue
		}
		table, err := os.ReadFile(filepath.Join(filepath.Dir(n), "../mountinfo"))
		if err != nil || len(table) == 0 {
			continue
		}
		seen[ns] = true
		for line := range strings.Lines(string(table)) {
			if strings.Contains(line, w.Dir+"/") {
				found = append(found, fmt.Sprintf("mount in %s, where process %s is: %s", ns, strings.Split(n, "/")[2], strings.TrimSpace(line)))
			}
		}
	}
	return found
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
		w.Root:  {"meta.db", "reserve", "pair", "locks"},
		w.State: {"run.db", "reserve", "boot", "pair", "events", "locks", "seccomp"},
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
