// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/test/world"
)

// process is one that cannot be mistaken for another with its pid.
type process struct{ pid, fd int }

func open(pid int) *process {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	return &process{pid, fd}
}

func (p *process) kill(sig syscall.Signal) { unix.PidfdSendSignal(p.fd, sig, nil, 0) }

// wait waits for the end of a process that was killed, and closes it.
func (p *process) wait(t *testing.T) {
	defer p.close()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(world.Patience/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if n != 1 || err != nil {
			t.Fatalf("process %d does not end: %v", p.pid, err)
		}
		return
	}
}

func (p *process) close() { unix.Close(p.fd) }

// taskDir is the directory of the task of a container of the namespace default, or of none.
func taskDir(w *world.World, id string) string {
	base := tasksDir(w, id)
	if dirs, _ := filepath.Glob(filepath.Join(base, "[a-z0-9]*")); len(dirs) > 0 {
		return dirs[0]
	}
	return filepath.Join(base, "none")
}

func tasksDir(w *world.World, id string) string {
	return filepath.Join(w.State, "tasks", "default", id)
}

// supervisor finds the living ctr-shim of a container: by shim.json, by the signature in shim.lock, or
// else by its working directory.
func supervisor(w *world.World, id string) *process {
	dir := taskDir(w, id)
	var pids []int
	var s struct{ PID int }
	if data, err := os.ReadFile(filepath.Join(dir, "shim.json")); err == nil && json.Unmarshal(data, &s) == nil {
		pids = append(pids, s.PID)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "shim.lock")); err == nil {
		pid, _ := strconv.Atoi(string(bytes.SplitN(data, []byte("\t"), 2)[0]))
		pids = append(pids, pid)
	}
	names, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, n := range names {
		if cwd, _ := os.Readlink(n); cwd == dir {
			pid, _ := strconv.Atoi(strings.Split(n, "/")[2])
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		if pid <= 0 {
			continue
		}
		p := open(pid)
		if p == nil {
			continue
		}
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if cwd == dir && strings.Contains(string(args), "ctr-shim\x00-namespace\x00") && strings.HasSuffix(string(args), "\x00serve\x00") {
			return p
		}
		p.close()
	}
	return nil
}

// treeOf prints a line for every file of an image: name, mode, owner, size, time, checksum of the content.
const treeOf = `cd / && find . -xdev ! -type d ! -path "./dev/*" ! -path "./proc/*" ! -path "./sys/*" ! -path ./etc/hosts ! -path ./etc/hostname ! -path ./etc/resolv.conf -exec stat -c "%n %f %u %g %s %Y" {} + | sort; ` +
	`find bin etc usr var -xdev -type f ! -path etc/hosts ! -path etc/hostname ! -path etc/resolv.conf -exec cksum {} + | sort`

var trees sync.Map // image -> func() string: what treeOf prints in a world where nobody is killed

func tree(t *testing.T, w *world.World, image string) string {
	return w.Must(t, "ctr-task", "run", "--rm", "-u", "0", "--entrypoint", "sh", image, "-c", treeOf)
}

var archives sync.Map // image -> func(): makes its archive

// archiveOf is where archived puts the archive of an image.
func archiveOf(image string) string {
	return filepath.Join(bin, strings.NewReplacer("/", "-", ":", "-").Replace(image)+".tar")
}

// archived exports an image where nobody is killed.
func archived(image string) step {
	return func(t *testing.T, _ *world.World) {
		export, _ := archives.LoadOrStore(image, sync.OnceFunc(func() {
			clean := world.New(t, bin)
			clean.Must(t, "ctr-pull", "-q", image)
			clean.Must(t, "ctr-image", "export", "-o", archiveOf(image), image)
		}))
		export.(func())()
	}
}

// mountPoint makes the directory at which images are mounted.
func mountPoint(t *testing.T, _ *world.World) {
	if err := os.MkdirAll(exported+".mnt", 0o755); err != nil {
		t.Fatal(err)
	}
}

// removed removes a file or directory of the test.
func removed(path string) step {
	return func(t *testing.T, _ *world.World) {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// sameFile wants two files to have the same bytes.
func sameFile(a, b string) step {
	return func(t *testing.T, _ *world.World) {
		x, err1 := os.ReadFile(a)
		y, err2 := os.ReadFile(b)
		if err1 != nil || err2 != nil || !bytes.Equal(x, y) {
			t.Fatalf("%s (%d bytes, %v) is not %s (%d bytes, %v)", a, len(x), err1, b, len(y), err2)
		}
	}
}

// sameTree runs the image and wants every file of it to be what it is where nobody is killed.
func sameTree(image string) step {
	return func(t *testing.T, w *world.World) {
		reference, _ := trees.LoadOrStore(image, sync.OnceValue(func() string {
			clean := world.New(t, bin)
			clean.Must(t, "ctr-pull", "-q", image)
			return tree(t, clean, image)
		}))
		want, got := reference.(func() string)(), tree(t, w, image)
		if want == "" || got != want {
			t.Fatalf("the image is not what was pulled: %d bytes of listing, want %d", len(got), len(want))
		}
	}
}
