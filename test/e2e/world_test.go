// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// world is a state directory of its own and all that belongs to it on this machine.
type world struct{ dir, root, state string }

func newWorld() *world {
	dir, err := os.MkdirTemp("", "ctrd-e2e-")
	if err != nil {
		panic(err)
	}
	return &world{dir, filepath.Join(dir, "root"), filepath.Join(dir, "state")}
}

// environ is this process's environment with the world's directories and the commands.
func (w *world) environ(more ...string) []string {
	return append(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CTRD_ROOT="+w.root, "CTRD_STATE="+w.state), more...)
}

// leaks lists what of the world is still there: processes, mounts, cgroups, task directories.
func (w *world) leaks() []string {
	var left []string
	for _, p := range w.processes() {
		left = append(left, fmt.Sprintf("process %d (%s)", p, commandOf(p)))
	}
	for _, m := range w.mounts() {
		left = append(left, "mount "+m)
	}
	for _, c := range w.cgroups() {
		left = append(left, "cgroup "+c)
	}
	tasks, _ := filepath.Glob(filepath.Join(w.state, "tasks", "*", "*"))
	for _, t := range tasks {
		left = append(left, "directory "+t)
	}
	return left
}

// processes finds those that work in the world: supervisors by their directory, commands by what they
// were told, processes of containers by their cgroup.
func (w *world) processes() []int {
	var pids []int
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range names {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if stat, _ := os.ReadFile(filepath.Join(p, "stat")); strings.Contains(string(stat), ") Z ") {
			continue // dead; its parent, or init, has not noticed yet
		}
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		args, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		exe, _ := os.Readlink(filepath.Join(p, "exe"))
		switch {
		case strings.HasPrefix(cwd, w.dir+"/"), strings.Contains(string(groups), "/"+w.mark()):
		case strings.HasPrefix(exe, bin+"/") && strings.Contains(string(args), w.dir):
		case strings.HasPrefix(exe, bin+"/") && w.inEnviron(p):
		default:
			continue
		}
		pids = append(pids, pid)
	}
	return pids
}

func (w *world) inEnviron(proc string) bool {
	env, _ := os.ReadFile(filepath.Join(proc, "environ"))
	return slices.Contains(strings.Split(string(env), "\x00"), "CTRD_STATE="+w.state)
}

func commandOf(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}

// mark begins the names of this world's cgroups.
func (w *world) mark() string {
	h := sha256.Sum256([]byte(w.state))
	return "ctrd-" + hex.EncodeToString(h[:3]) + "--"
}

func (w *world) cgroups() []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), w.mark()) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// mounts lists what is mounted below the world's directory, the innermost first.
func (w *world) mounts() []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	var found []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], w.dir+"/") {
			found = append(found, fields[4])
		}
	}
	slices.Reverse(found)
	return found
}

// clean ends and removes whatever is left, by force.
func (w *world) clean() error {
	deadline := time.Now().Add(10 * time.Second)
	for len(w.processes()) > 0 && time.Now().Before(deadline) {
		for _, p := range w.processes() {
			syscall.Kill(p, syscall.SIGCONT)
			syscall.Kill(p, syscall.SIGKILL)
		}
		for _, c := range w.cgroups() {
			for _, name := range []string{"freezer.state", "cgroup.freeze"} {
				if f, err := os.OpenFile(filepath.Join(c, name), os.O_WRONLY, 0); err == nil {
					f.WriteString(map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"}[name])
					f.Close()
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, m := range w.mounts() {
		syscall.Unmount(m, syscall.MNT_DETACH)
	}
	var errs []error
	for _, c := range slices.Backward(w.cgroups()) {
		errs = append(errs, os.Remove(c))
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
