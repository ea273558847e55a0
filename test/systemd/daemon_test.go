// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/test/world"
)

// install has what make install makes in the machine, and its socket started. ctrd idles out after idle.
func (m *machine) install(t *testing.T, idle string) {
	t.Helper()
	tree := filepath.Join(m.Dir, "installed")
	cmd := exec.Command("make", "-s", "-C", top, "-o", "build", "install", "BIN="+bin, "DESTDIR="+tree)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v: %s", err, out)
	}
	m.sh(t, `cp -a `+tree+`/usr/local/. /usr/local/
		rm -r `+tree+`
		mkdir -p /etc/systemd/system/ctrd.service.d /etc/systemd/system/ctrd.socket.d
		cat >/etc/systemd/system/ctrd.service.d/test.conf <<-END
			[Service]
			Environment=CTRD_ROOT=$CTRD_ROOT CTRD_STATE=$CTRD_STATE
			ExecStart=
			ExecStart=/usr/local/bin/ctrd serve --idle-timeout `+idle+`
		END
		printf '[Socket]\nTriggerLimitIntervalSec=0\n' >/etc/systemd/system/ctrd.socket.d/test.conf
		systemctl daemon-reload
		cd /usr/local/lib/systemd/system
		systemd-analyze verify --man=no ctrd.socket ctrd.service ctrd-gc.timer ctrd-gc.service
		systemctl start ctrd.socket
		not systemctl is-active -q ctrd`)
}

// client connects to a socket of ctrd in the machine. Nothing waits for it to be ready: a call that is lost fails.
func (m *machine) client(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(m.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%s/root/run/ctrd/%s", strings.TrimSpace(string(pid)), socket)
	connect := func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	c, err := grpc.NewClient("passthrough:ctrd", grpc.WithContextDialer(connect), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pid asks ctrd for its process, and whether it has the image.
func (m *machine) pid(c *grpc.ClientConn) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), world.Patience)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", "default")
	if got, err := imagesapi.NewImagesClient(c).Get(ctx, &imagesapi.GetImageRequest{Name: m.image}); err != nil || got.Image.Name != m.image {
		return 0, fmt.Errorf("image: %v, %w", got, err)
	}
	s, err := introspectionapi.NewIntrospectionClient(c).Server(ctx, &emptypb.Empty{})
	return s.GetPid(), err
}

// mustPid asks with a client of its own.
func (m *machine) mustPid(t *testing.T) uint64 {
	t.Helper()
	c := m.client(t, "ctrd.sock")
	defer c.Close()
	pid, err := m.pid(c)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// activations is how often ctrd is started in TestActivation.
func activations(t *testing.T) int {
	t.Helper()
	v := os.Getenv("CTRD_ACTIVATIONS")
	if v == "" {
		return 200
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Clients come and go, and ctrd with them, as often as it finds a moment to be idle: no call is lost.
func TestActivation(t *testing.T) {
	m := boot(t, "hybrid")
	m.install(t, "1ms")
	if got := m.sh(t, `stat -c '%a %U %G' /run/ctrd/ctrd.sock`); got != "660 root ctrd" {
		t.Errorf("the socket is %s", got)
	}
	var mu sync.Mutex
	calls, wanted, seen := 0, activations(t), map[uint64]bool{}
	again := func(pid uint64, err error) bool {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Errorf("a call is lost: %v", err)
		}
		calls++
		seen[pid] = true
		return len(seen) < wanted && !t.Failed()
	}
	var clients sync.WaitGroup
	for i := range 6 {
		clients.Go(func() {
			c := m.client(t, "ctrd.sock")
			defer func() { c.Close() }()
			for again(m.pid(c)) {
				if i%2 == 0 { // the others stay connected, as far as ctrd lets them
					c.Close()
					c = m.client(t, "ctrd.sock")
				}
				time.Sleep(rand.N(20 * time.Millisecond)) // what clients do between two calls
			}
		})
	}
	began := time.Now()
	clients.Wait()
	t.Logf("%d activations, %d times two calls, in %v", len(seen), calls, time.Since(began).Round(time.Second))
	m.sh(t, `gone() { not systemctl is-active -q ctrd 2>/dev/null; }
		wait_for gone
		systemctl is-active -q ctrd.socket
		[ "$(systemctl show -P Result ctrd)" = success ]`)
}

// The end of ctrd ends no container, however it ends, and the next connection starts it again.
func TestRestart(t *testing.T) {
	on(t, func(t *testing.T, m *machine) {
		m.install(t, "1m")
		m.sh(t, `systemd-run -q -p Delegate=yes sleep infinity
			for n in $(seq 20); do ctr-task run -d --name c$n $IMG sleep 1000; done >/dev/null`)
		const containers = `for n in $(seq 20); do ctr-task inspect --format '{{.id}} {{.status}} {{.pid}} {{.supervisor}}' c$n; done`
		before := m.sh(t, containers)
		one := m.mustPid(t)
		m.sh(t, `systemctl restart ctrd`)
		two := m.mustPid(t)
		if one == two {
			t.Errorf("ctrd is still process %d", one)
		}
		m.sh(t, `systemctl reload ctrd; systemctl is-active -q ctrd`)
		if got := m.mustPid(t); got != two {
			t.Errorf("a reload has made process %d of %d", got, two)
		}
		m.sh(t, `mkdir -p /etc/ctrd/config.d
			echo 'log_level = "debug"' >/etc/ctrd/config.d/level.toml
			systemctl reload ctrd
			told() { journalctl -u ctrd -o cat | grep -q 'the configuration is reloaded'; }
			wait_for told`)
		if got := m.mustPid(t); got != two {
			t.Errorf("a reload has made process %d of %d", got, two)
		}
		m.sh(t, `# Who called what is in fields of the journal, of which it can be asked.
			called() {
				journalctl -u ctrd -o json CTRD_METHOD=/containerd.services.introspection.v1.Introspection/Server >calls
				grep -q '"MESSAGE":"msg=call ' calls && grep -q '"PRIORITY":"7"' calls && grep -q '"CTRD_PEER":"' calls &&
					grep -q '"CTRD_TOOK":"' calls && grep -q '"SYSLOG_IDENTIFIER":"ctrd"' calls && not grep -q CTRD_ERROR calls
			}
			wait_for called
			rm calls
			echo 'log_levle = "debug"' >/etc/ctrd/config.d/level.toml
			systemctl reload ctrd
			told() { journalctl -u ctrd -o cat -p err | grep -q 'level.toml:1: unknown key log_levle'; }
			wait_for told
			rm /etc/ctrd/config.d/level.toml`)
		if got := m.mustPid(t); got != two {
			t.Errorf("a reload with a mistake has made process %d of %d", got, two)
		}
		for range 5 {
			m.sh(t, `systemctl kill -s KILL ctrd`)
			three := m.mustPid(t)
			if two == three {
				t.Errorf("ctrd is still process %d", two)
			}
			two = three
		}
		m.sh(t, `systemctl stop ctrd`)
		m.mustPid(t)
		if after := m.sh(t, containers); after != before {
			t.Errorf("containers before:\n%s\nand after:\n%s", before, after)
		}
		m.sh(t, `for n in 1 20; do ctr-task exec c$n true; done`)
		if out, errs, err := m.try(`ctrd serve --address /run/ctrd/ctrd.sock`); err == nil || !strings.Contains(errs, "pid 1 (systemd) listens there") {
			t.Errorf("another ctrd on the socket of systemd: %v\n%s%s", err, out, errs)
		}
		m.sh(t, `systemctl stop ctrd.socket ctrd`)
	})
}

// Sockets of a name that means nothing are refused, and systemd shows why.
func TestSocketNames(t *testing.T) {
	m := boot(t, "hybrid")
	m.install(t, "1m")
	m.sh(t, `printf '[Socket]\nFileDescriptorName=other\n' >/etc/systemd/system/ctrd.socket.d/name.conf
		systemctl daemon-reload
		systemctl restart ctrd.socket
		not systemctl start ctrd
		told() { journalctl -u ctrd -o cat | grep -q 'socket "other" of systemd: want FileDescriptorName=native, cri, ttrpc or metrics'; }
		wait_for told
		systemctl stop ctrd.socket ctrd
		rm /etc/systemd/system/ctrd.socket.d/name.conf
		systemctl daemon-reload
		systemctl start ctrd
		# The journal has the priority, and not its prefix.
		told() { journalctl -u ctrd -o cat -p info | grep -q '^msg=serving address=/run/ctrd/ctrd.sock'; }
		wait_for told
		urgent() { journalctl -u ctrd -o cat -p notice | grep msg=serving; }
		not urgent`)
}
