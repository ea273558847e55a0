// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/netns"
)

// inside says that the process is in namespaces of its own, whatever it was asked to do there.
const inside = "NETWORK_TEST_INSIDE"

// TestMain runs the tests in a network and a mount namespace of their own: bridges, rules of iptables and pins end with
// it. The process becomes another role when roles says so.
func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(enter())
	}
	if role := os.Getenv("NETWORK_TEST_ROLE"); role != "" {
		os.Exit(play(role))
	}
	if err := netns.LoopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func enter() int {
	signal.Ignore(os.Interrupt)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ended.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// world is a Host with directories of its own.
type world struct {
	Host
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		t.Skip("needs the package containernetworking-plugins: scripts/deps test installs it")
	}
	dir := t.TempDir()
	mark := filepath.Base(filepath.Dir(dir))
	w := &world{dir: dir, Host: hostOf(dir)}
	w.Mark = fmt.Sprintf("%x", len(mark)) + strings.ToLower(randomMark())
	w.Warn = func(err error) { t.Log("warning:", err) }
	t.Cleanup(func() { w.clean(t) })
	return w
}

// hostOf is the Host of a directory.
func hostOf(dir string) Host {
	return Host{
		Conf: filepath.Join(dir, "net.d"), Bin: []string{"/usr/lib/cni"}, Group: "tasks", Kept: filepath.Join(dir, "kept"),
		Pins: filepath.Join(dir, "netns"), IPAM: filepath.Join(dir, "ipam"), Boot: "this",
		Locks: lock.Dir{Path: filepath.Join(dir, "locks"), Wait: time.Minute}, ReadyMade: true, Mark: os.Getenv("NETWORK_TEST_MARK"),
	}
}

// clean sees that nothing is left of what the test has attached.
func (w *world) clean(t *testing.T) {
	t.Helper()
	if err := w.GC(t.Context(), nil, func(Attachment) bool { return false }); err != nil {
		t.Errorf("collect: %v", err)
	}
	// The kernel takes a network namespace apart, and with it the other ends of its links, some time after the last process and
	// mount of it have gone.
	left := w.left(t)
	for end := time.Now().Add(30 * time.Second); len(left) > 0 && time.Now().Before(end); left = w.left(t) {
		time.Sleep(10 * time.Millisecond)
	}
	for _, l := range left {
		t.Errorf("left behind: %s", l)
	}
}

// left lists pins, records, addresses, links and rules that attachments have, for ever.
func (w *world) left(t *testing.T) (all []string) {
	t.Helper()
	for _, dir := range []string{filepath.Join(w.Pins, w.Group), filepath.Join(w.Pins, "results"), filepath.Join(w.Kept, w.Group), filepath.Join(w.IPAM, OwnName)} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if n := e.Name(); n != "lock" && !strings.HasPrefix(n, "last_reserved_ip") {
				all = append(all, filepath.Join(dir, n))
			}
		}
	}
	for line := range strings.Lines(run(t, "ip", "-o", "link")) {
		if strings.Contains(line, "veth") {
			all = append(all, line)
		}
	}
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(run(t, tool)) {
			// Chains that the plugins share, and their jumps to them, stay.
			if strings.HasPrefix(line, "-A") && (strings.Contains(line, "-d 10.") || strings.Contains(line, "-s 10.") || strings.Contains(line, "-s fd") || strings.Contains(line, "-d fd") || strings.Contains(line, "-CN") || strings.Contains(line, "CNI-DN-") || strings.Contains(line, "id: ")) {
				all = append(all, tool+": "+strings.TrimSpace(line))
			}
		}
	}
	return all
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// within runs a command in a pinned namespace.
func (w *world) within(t *testing.T, id string, args ...string) string {
	t.Helper()
	return run(t, "nsenter", append([]string{"--net=" + w.Netns(id)}, args...)...)
}

// setup makes a namespace and attaches it.
func (w *world) setup(t *testing.T, r Request) Result {
	t.Helper()
	if err := w.CreateNetns(r.ID); err != nil {
		t.Fatal(err)
	}
	res, err := w.Setup(t.Context(), nil, r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (w *world) teardown(t *testing.T, id string) {
	t.Helper()
	if err := w.Teardown(t.Context(), nil, id); err != nil {
		t.Fatal(err)
	}
}

// conf writes a configuration.
func (w *world) conf(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(w.Conf, 0o755), os.WriteFile(filepath.Join(w.Conf, name), []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func first(t *testing.T, res Result, six bool) netip.Addr {
	t.Helper()
	for _, a := range res.IPs() {
		if a.Is6() == six {
			return a
		}
	}
	t.Fatalf("no such address in %+v", res)
	return netip.Addr{}
}
