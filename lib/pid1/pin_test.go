// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// program builds the package's C code alone, statically, as ctr-shim is: in an empty root there is no dynamic loader.
func program(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "main.c")
	if err := os.WriteFile(source, []byte("int main(void) { return 9; }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	if out, err := exec.Command("gcc", "-static", "-o", path, source, "pid1.c", "pin.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// pinned starts a child in new namespaces, and gives what it says, and the pipe that ends it.
func pinned(t *testing.T, program, kinds string, args ...string) (cmd *exec.Cmd, said string, life *os.File) {
	t.Helper()
	theirs, life, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answer, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(program, append([]string{"pid1", "pin", kinds}, args...)...)
	cmd.ExtraFiles = []*os.File{theirs, w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	if strings.Contains(kinds, "p") {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		life.Close()
		answer.Close()
	})
	theirs.Close()
	w.Close()
	answer.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 4<<10)
	n, err := answer.Read(b)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return cmd, string(b[:n]), life
}

// The namespaces are as they were asked for, the first process of a PID namespace has an empty root, and its end is that of the pipe.
func TestPin(t *testing.T) {
	path := program(t)
	for _, kinds := range []string{"n", "np"} {
		cmd, said, life := pinned(t, path, kinds, "the-host", "net.ipv4.ip_unprivileged_port_start", "80", "kernel.shm_rmid_forced", "1")
		if said != "ok\n" {
			t.Fatalf("%s: it says %q", kinds, said)
		}
		pid := cmd.Process.Pid
		got := make(chan string)
		go func() {
			runtime.LockOSThread() // for ever: the thread ends with the goroutine
			for kind, flag := range map[string]int{"net": unix.CLONE_NEWNET, "uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC} {
				fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err == nil {
					err = unix.Setns(fd, flag)
					unix.Close(fd)
				}
				if err != nil {
					t.Error(err)
				}
			}
			var u unix.Utsname
			unix.Uname(&u)
			port, _ := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
			forced, _ := os.ReadFile("/proc/sys/kernel/shm_rmid_forced")
			links, _ := exec.Command("ip", "-o", "link", "show", "up").Output()
			got <- fmt.Sprintf("%s %s %s %d", unix.ByteSliceToString(u.Nodename[:]), strings.TrimSpace(string(port)), strings.TrimSpace(string(forced)), strings.Count(string(links), " lo:"))
		}()
		if s := <-got; s != "the-host 80 1 1" {
			t.Errorf("%s: the namespaces have %q", kinds, s)
		}
		if kinds == "np" {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pid))
			if string(line) != "ctr-shim\x00pid1\x00rest\x00" || err != nil || len(entries) != 1 || entries[0].Name() != "init" {
				t.Errorf("the first process is %q with %v, %v in its root", line, entries, err)
			}
		}
		life.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", kinds, err)
		}
	}
}

// What goes wrong is told in one line.
func TestPinFails(t *testing.T) {
	path := program(t)
	for _, c := range []struct{ name, value, host, want string }{
		{"net.ipv4.no_such", "1", "", "sysctl net.ipv4.no_such=1: /proc/sys/net/ipv4/no_such: No such file or directory\n"},
		{"net.ipv4.ip_forward", "a\nb", "", "sysctl net.ipv4.ip_forward=a b: /proc/sys/net/ipv4/ip_forward: Invalid argument\n"},
		{"net.ipv4.ip_forward", "x", "", "sysctl net.ipv4.ip_forward=x: /proc/sys/net/ipv4/ip_forward: Invalid argument\n"},
		{strings.Repeat("x", 5000), "1", "", "sysctl " + strings.Repeat("x", 100) + ": File name too long\n"},
		{"net.ipv4.ip_forward", "1", strings.Repeat("h", 65), `set the hostname "` + strings.Repeat("h", 65) + "\": Invalid argument\n"},
	} {
		cmd, said, _ := pinned(t, path, "n", c.host, c.name, c.value)
		if err := cmd.Wait(); said != c.want || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%.40q: it says %q, %v", c.name, said, err)
		}
	}
}

// The kernel takes a long list in pieces, and an empty value is one.
func TestPinLong(t *testing.T) {
	path := program(t)
	var ports []string
	for p := 10000; p < 12000; p += 2 {
		ports = append(ports, fmt.Sprint(p))
	}
	long := strings.Join(ports, ",")
	const name = "net.ipv4.ip_local_reserved_ports"
	cmd, said, _ := pinned(t, path, "n", "", name, long)
	if said != "ok\n" {
		t.Fatalf("it says %q", said)
	}
	got := make(chan string)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		f, ferr := os.Open("/proc/sys/net/ipv4/ip_local_reserved_ports")
		if err != nil || ferr != nil {
			t.Error(err, ferr)
		}
		defer f.Close()
		b := make([]byte, 64<<10) // the kernel gives it by one read alone
		n, _ := f.Read(b)
		got <- strings.TrimSpace(string(b[:n]))
	}()
	if s := <-got; s != long {
		t.Errorf("it is %d bytes, want %d: %.60s", len(s), len(long), s)
	}
	if _, said, _ := pinned(t, path, "n", "", name, ""); said != "ok\n" {
		t.Errorf("of no value it says %q", said)
	}
}
