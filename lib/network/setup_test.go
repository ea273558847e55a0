// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/netns"
)

var noCtx = context.Background()

func randomMark() string { return rand.Text()[:6] }

// play is what the test's program does in another role.
func play(role string) int {
	h := hostOf(os.Getenv("NETWORK_TEST_DIR"))
	id := os.Getenv("NETWORK_TEST_ID")
	h.Bin = append([]string{filepath.Join(os.Getenv("NETWORK_TEST_DIR"), "bin")}, h.Bin...)
	var err error
	switch role {
	case "setup":
		if err = h.CreateNetns(id); err == nil {
			_, err = h.Setup(noCtx, nil, Request{ID: id})
		}
	case "teardown":
		err = h.Teardown(noCtx, nil, id)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Two namespaces on the ready-made network reach each other and the host, over both families.
func TestSetup(t *testing.T) {
	w := newWorld(t)
	a := w.setup(t, Request{ID: "a", Labels: PodLabels("default", "web", "uid", "a"), Owner: Owner{ID: "web"}})
	b := w.setup(t, Request{ID: "b"})
	if len(a.Interfaces) != 1 || a.Interfaces[0].Name != "eth0" || a.Interfaces[0].Network != OwnName || a.Interfaces[0].MAC == "" {
		t.Errorf("interfaces %+v", a.Interfaces)
	}
	for _, six := range []bool{false, true} {
		w.within(t, "a", "busybox", "ping", "-c4", "-W2", first(t, b, six).String())
		run(t, "busybox", "ping", "-c4", "-W2", first(t, a, six).String())
	}
	again, err := w.Setup(t.Context(), nil, Request{ID: "a"})
	if err != nil || !slices.Equal(again.IPs(), a.IPs()) {
		t.Errorf("again: %v, %v; want %v", again.IPs(), err, a.IPs())
	}
	if err := w.Check(t.Context(), nil, "a"); err != nil {
		t.Errorf("check: %v", err)
	}
	all, errs := w.All()
	if len(all) != 2 || len(errs) != 0 || all[0].Owner.ID != "web" || !slices.Equal(all[0].Result.IPs(), a.IPs()) {
		t.Errorf("all: %+v, %v", all, errs)
	}
	w.teardown(t, "a")
	w.teardown(t, "a")
	if err := w.Check(t.Context(), nil, "a"); !errdefs.IsNotFound(err) {
		t.Errorf("check of none: %v", err)
	}
	w.teardown(t, "b")
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// Many at once: no two have one address.
func TestMany(t *testing.T) {
	w := newWorld(t)
	const n = 50
	var mu sync.Mutex
	seen := map[netip.Addr]string{}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			id := fmt.Sprint("c", i)
			if err := w.CreateNetns(id); err != nil {
				t.Error(err)
				return
			}
			res, err := w.Setup(t.Context(), nil, Request{ID: id})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, a := range res.IPs() {
				if other := seen[a]; other != "" {
					t.Errorf("%s and %s have %s", other, id, a)
				}
				seen[a] = id
			}
		})
	}
	all.Wait()
	if len(seen) < n {
		t.Errorf("%d addresses", len(seen))
	}
	for i := range n {
		all.Go(func() {
			if err := w.Teardown(t.Context(), nil, fmt.Sprint("c", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A published port leads into the namespace, from the host's address and from its loopback.
func TestPorts(t *testing.T) {
	w := newWorld(t)
	res := w.setup(t, Request{ID: "web", Owner: Owner{ID: "web"}, Ports: []Port{{ContainerPort: 80, Protocol: "tcp"}, {HostPort: 5353, ContainerPort: 53, Protocol: "udp"}}})
	if len(res.Ports) != 2 || res.Ports[0].HostPort == 0 {
		t.Fatalf("ports %+v", res.Ports)
	}
	err := netns.In(w.Netns("web"), func() error {
		l, err := net.Listen("tcp4", ":80")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				c.Write([]byte("hello"))
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	gateway := res.Interfaces[0].Gateways[0].String()
	for _, host := range []string{gateway, "127.0.0.1"} {
		c, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(res.Ports[0].HostPort)))
		if err != nil {
			t.Errorf("dial by %s: %v", host, err)
			continue
		}
		got := make([]byte, 5)
		if _, err := c.Read(got); err != nil || string(got) != "hello" {
			t.Errorf("by %s: %q, %v", host, got, err)
		}
		c.Close()
	}
	if err := w.CreateNetns("other"); err != nil {
		t.Fatal(err)
	}
	_, err = w.Setup(t.Context(), nil, Request{ID: "other", Ports: []Port{{HostPort: 5353, ContainerPort: 1, Protocol: "udp", HostIP: "127.0.0.1"}}})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), `port 5353/udp of the host is in use by container "web"`) {
		t.Errorf("a port twice: %v", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := Port{HostPort: uint16(l.Addr().(*net.TCPAddr).Port), ContainerPort: 1, Protocol: "tcp"}
	if _, err = w.Setup(t.Context(), nil, Request{ID: "other", Ports: []Port{busy}, CheckPorts: true}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a port of a process: %v", err)
	}
}

// Static addresses and a MAC are given, or refused.
func TestStatic(t *testing.T) {
	w := newWorld(t)
	o, err := w.makeOwn()
	if err != nil {
		t.Fatal(err)
	}
	var want []netip.Addr
	for _, s := range o.Subnets {
		b := s.Addr().AsSlice()
		b[len(b)-1] = 77
		a, _ := netip.AddrFromSlice(b)
		want = append(want, a)
	}
	mac, _ := net.ParseMAC("02:00:00:00:00:07")
	res := w.setup(t, Request{ID: "a", IPs: want, MAC: mac})
	if !slices.Equal(res.IPs(), want) || res.Interfaces[0].MAC != mac.String() {
		t.Errorf("%+v, want %v", res, want)
	}
	if err := w.CreateNetns("b"); err != nil {
		t.Fatal(err)
	}
	if res, err := w.Setup(t.Context(), nil, Request{ID: "b", IPs: want}); err == nil {
		t.Errorf("an address twice: %+v", res)
	}
}

// A reboot leaves addresses on disk: the first Setup gives them back, with no network namespace.
func TestReboot(t *testing.T) {
	w := newWorld(t)
	w.conf(t, "10-disk.conflist", `{"cniVersion":"1.0.0","name":"disk","plugins":[{"type":"bridge","bridge":"disk0","isGateway":true,
		"ipam":{"type":"host-local","dataDir":"`+w.dir+`/disk","ranges":[[{"subnet":"10.77.0.0/29"}]]}}]}`)
	before := w.setup(t, Request{ID: "a", Networks: []string{"disk"}})
	// What ends with a boot: the namespace, the state directory. What a configuration says may change, too.
	if err := w.RemoveNetns("a"); err != nil {
		t.Fatal(err)
	}
	w.conf(t, "10-disk.conflist", `{"cniVersion":"1.0.0","name":"disk","plugins":[{"type":"bridge","bridge":"disk1","isGateway":true,
		"ipam":{"type":"host-local","dataDir":"`+w.dir+`/other","ranges":[[{"subnet":"10.78.0.0/29"}]]}}]}`)
	w.Boot = "next"
	after := w.setup(t, Request{ID: "b", Networks: []string{"disk"}})
	if slices.Equal(after.IPs(), before.IPs()) {
		t.Errorf("%v twice", after.IPs())
	}
	entries, err := os.ReadDir(filepath.Join(w.dir, "disk", "disk"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "10.") {
			t.Errorf("the address %s of the boot before is kept", e.Name())
		}
	}
	if all, _ := w.All(); len(all) != 1 || all[0].ID != "b" {
		t.Errorf("attachments %+v", all)
	}
}

// What is missing is told with the next step, and nothing is left.
func TestMissing(t *testing.T) {
	w := newWorld(t)
	w.ReadyMade = false
	hinted := func(err error, kind func(error) bool, want string) {
		t.Helper()
		h, ok := err.(interface{ Hint() string })
		if err == nil || !kind(err) || !ok || h.Hint() == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q and a hint", err, want)
		}
	}
	hinted(w.Status(t.Context()), errdefs.IsNotFound, w.Conf)
	w.conf(t, "20-good.conf", `{"cniVersion":"0.4.0","name":"good","type":"loopback"}`)
	if err := w.Status(t.Context()); err != nil {
		t.Errorf("status: %v", err)
	}
	w.conf(t, "10-bad.conflist", `{"name":"bad"`)
	hinted(w.Status(t.Context()), errdefs.IsFailedPrecondition, "10-bad.conflist")
	if n, err := w.Find("good"); err != nil || n.File != filepath.Join(w.Conf, "20-good.conf") {
		t.Errorf("beside a bad file: %+v, %v", n, err)
	}
	_, err := w.Find("bad")
	hinted(err, errdefs.IsNotFound, "10-bad.conflist")
	w.conf(t, "10-bad.conflist", `{"cniVersion":"1.0.0","name":"bad","plugins":[{"type":"nosuch"}]}`)
	hinted(w.Status(t.Context()), errdefs.IsFailedPrecondition, `plugin "nosuch" is not installed`)
	if err := w.CreateNetns("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Setup(t.Context(), nil, Request{ID: "x", Networks: []string{"bad"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("setup: %v", err)
	}
	if err := w.Teardown(t.Context(), nil, "x"); err != nil {
		t.Error(err)
	}
}

// A plugin that fails in the middle of a chain: what those before it have made is taken back.
func TestFailing(t *testing.T) {
	w := newWorld(t)
	bin := filepath.Join(w.dir, "bin")
	script := "#!/bin/sh\n[ \"$CNI_COMMAND\" != ADD ] || { echo '{\"code\":11,\"msg\":\"no luck\"}'; exit 1; }\n"
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "unlucky"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	w.Bin = append(w.Bin, bin)
	o, err := w.makeOwn()
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(w.ownConf(o))
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte(`"name":"ctrd"`), []byte(`"name":"chained"`), 1)
	data = bytes.Replace(data, []byte(`{"type":"firewall"}`), []byte(`{"type":"firewall"},{"type":"unlucky"}`), 1)
	w.conf(t, "10-chained.conflist", string(data))
	if err := w.CreateNetns("x"); err != nil {
		t.Fatal(err)
	}
	_, err = w.Setup(t.Context(), nil, Request{ID: "x"})
	if err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("setup: %v", err)
	}
	w.teardown(t, "x")
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A plugin runs in the network namespace that the attachment was made from, whoever takes it off.
func TestElsewhere(t *testing.T) {
	w := newWorld(t)
	w.setup(t, Request{ID: "a"})
	w.setup(t, Request{ID: "b", Ports: []Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}})
	if err := w.CreateNetns("other"); err != nil {
		t.Fatal(err)
	}
	err := netns.In(w.Netns("other"), func() error {
		return errors.Join(w.Check(t.Context(), nil, "a"), w.Teardown(t.Context(), nil, "a"), w.Teardown(t.Context(), nil, "b"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.RemoveNetns("other"); err != nil {
		t.Fatal(err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A setup that is killed while a plugin runs: the plugin runs on and keeps the network's lock, and a teardown waits for it.
func TestKilledInPlugin(t *testing.T) {
	for _, role := range []string{"setup", "teardown"} {
		t.Run(role, func(t *testing.T) {
			w := newWorld(t)
			bin := filepath.Join(w.dir, "bin")
			command := map[string]string{"setup": "ADD", "teardown": "DEL"}[role]
			script := "#!/bin/sh\n[ \"$CNI_COMMAND\" != " + command + " ] || [ -e " + w.dir + "/began ] || { : >" + w.dir + "/began; read x <" + w.dir + "/go; }\nexec /usr/lib/cni/firewall\n"
			if err := errors.Join(os.MkdirAll(bin, 0o755), os.WriteFile(filepath.Join(bin, "firewall"), []byte(script), 0o755), unix.Mkfifo(filepath.Join(w.dir, "go"), 0o600)); err != nil {
				t.Fatal(err)
			}
			w.Bin = append([]string{bin}, w.Bin...)
			if role == "teardown" {
				w.setup(t, Request{ID: "x"})
			}
			cmd := w.as(t, role, "x")
			until(t, "the plugin runs", func() bool { _, err := os.Stat(filepath.Join(w.dir, "began")); return err == nil })
			cmd.Process.Kill()
			cmd.Wait()
			done := make(chan error, 1)
			go func() { done <- w.Teardown(t.Context(), nil, "x") }()
			until(t, "the teardown waits", func() bool { return w.waitedFor(OwnName) })
			select {
			case err := <-done:
				t.Fatalf("it did not wait: %v", err)
			default:
			}
			if err := os.WriteFile(filepath.Join(w.dir, "go"), []byte("\n"), 0); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if left := w.left(t); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// as starts this program in another role.
func (w *world) as(t *testing.T, role, id string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), inside+"=1", "NETWORK_TEST_ROLE="+role, "NETWORK_TEST_DIR="+w.dir, "NETWORK_TEST_ID="+id, "NETWORK_TEST_MARK="+w.Mark)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// waitedFor tells whether somebody waits for the lock of a network.
func (w *world) waitedFor(name string) bool {
	all, err := w.Locks.All()
	return err == nil && slices.ContainsFunc(all, func(s lock.State) bool { return s.Name == name && len(s.Waiters) > 0 })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A Setup that was killed while it waited for the network is gone on with: no plugin is run to take off what was never attached,
// neither by it nor by a Teardown.
func TestKilledWaiting(t *testing.T) {
	w := newWorld(t)
	log, bin := filepath.Join(w.dir, "log"), filepath.Join(w.dir, "bin")
	script := "#!/bin/sh\necho $CNI_COMMAND >>" + log + "\nexec /usr/lib/cni/ptp\n"
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.WriteFile(filepath.Join(bin, "told"), []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	w.Bin = append([]string{bin}, w.Bin...)
	w.conf(t, "10-told.conflist", `{"cniVersion":"1.0.0","name":"told","plugins":[{"type":"told","ipam":{"type":"host-local","dataDir":"`+w.IPAM+`/own","ranges":[[{"subnet":"10.219.60.0/24"}]]}}]}`)
	for _, id := range []string{"a", "b"} {
		held, err := w.lock(t.Context(), nil, "told")
		if err != nil {
			t.Fatal(err)
		}
		cmd := w.as(t, "setup", id)
		until(t, "it waits for the network", func() bool { return w.waitedFor("told") })
		cmd.Process.Kill()
		cmd.Wait()
		if err := held.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Setup(t.Context(), nil, Request{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	w.teardown(t, "b")
	if said, _ := os.ReadFile(log); string(said) != "ADD\n" {
		t.Errorf("plugins were called for %q", said)
	}
	w.teardown(t, "a")
}

// portmap, which gives the result that it has been given where there is no port to map, is run for those alone that have one, and
// where its configuration may have ports of its own.
func TestIdlePlugin(t *testing.T) {
	w := newWorld(t)
	bin := filepath.Join(w.dir, "bin")
	log := filepath.Join(w.dir, "log")
	script := "#!/bin/sh\necho $CNI_COMMAND $CNI_CONTAINERID >>" + log + "\nexec /usr/lib/cni/portmap\n"
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.WriteFile(filepath.Join(bin, "portmap"), []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	w.Bin = append([]string{bin}, w.Bin...)
	for _, ports := range []string{"", `,"runtimeConfig":{}`} {
		os.Remove(log)
		w.conf(t, "10-told.conflist", `{"cniVersion":"1.0.0","name":"told","plugins":[{"type":"ptp","ipam":{"type":"host-local","dataDir":"`+w.IPAM+`/own","ranges":[[{"subnet":"10.219.60.0/24"}]]}},
			{"type":"portmap","capabilities":{"portMappings":true}`+ports+`}]}`)
		want := "ADD port\nDEL port\n"
		for _, r := range []Request{{ID: "port", Ports: []Port{{ContainerPort: 80, HostPort: 18080, Protocol: "tcp"}}}, {ID: "none"}} {
			res := w.setup(t, r)
			if len(res.IPs()) != 1 || !slices.Equal(res.Ports, r.Ports) {
				t.Errorf("%s: %+v", r.ID, res)
			}
			if err := w.Check(t.Context(), nil, r.ID); err != nil && len(r.Ports) == 0 {
				t.Error(err)
			}
			w.teardown(t, r.ID)
		}
		if ports != "" {
			want += "ADD none\nDEL none\n"
		}
		said, _ := os.ReadFile(log)
		if got := strings.NewReplacer("CHECK port\n", "", "CHECK none\n", "").Replace(string(said)); got != want {
			t.Errorf("with%q it was called for %q, want %q", ports, got, want)
		}
	}
}
