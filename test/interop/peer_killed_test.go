// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// TestPeerKilledAgain is the load of TestNativeKilledAgain on containerd, which is killed as long after its socket is there. It tells what
// the clients heard and what was left, and judges nothing: it is there to be held against ours.
func TestPeerKilledAgain(t *testing.T) {
	if os.Getenv("CTRD_KILL_PEER") == "" {
		t.Skip("CTRD_KILL_PEER=1 shows what containerd loses under the load of TestNativeKilledAgain")
	}
	clients, seconds := killedLoad()
	dir, err := os.MkdirTemp("", "ctrd-interop-")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{shim: shims[0], dir: dir, namespace: mark + "-peer"}
	t.Cleanup(func() { d.destroy(t) })
	d.start(t)
	d.must(t, "images", "pull", "--plain-http", busybox)
	ctx := namespaces.WithNamespace(t.Context(), d.namespace)
	socket := filepath.Join(dir, "sock")
	first, err := connect(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	parent, err := chainOf(&stubborn{Client: first, ctx: ctx, patient: time.Minute, took: map[string]time.Duration{}})
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped, kills := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(stopped)
		for {
			for {
				if c, err := net.Dial("unix", socket); err == nil {
					c.Close()
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			time.Sleep(killEvery)
			d.kill()
			kills++
			select {
			case <-stop:
				return
			default:
			}
			if err := d.spawn(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	var group sync.WaitGroup
	var mu sync.Mutex
	lives, heard := 0, map[string]int{}
	varying := regexp.MustCompile(`[0-9a-f]{16,}|c[0-9]+-[0-9]+|[0-9]+(m|s|ms)?\b|/[^ "]*`)
	until := time.Now().Add(time.Duration(seconds) * time.Second)
	for i := range clients {
		group.Go(func() {
			c, err := connect(socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			s := &stubborn{Client: c, ctx: ctx, patient: 2 * time.Minute, took: map[string]time.Duration{}}
			for n := 0; time.Now().Before(until); n++ {
				err := s.life(fmt.Sprintf("c%d-%d", i, n), uint32(10+i%100), parent)
				mu.Lock()
				if lives++; err != nil {
					lives--
					heard[varying.ReplaceAllString(err.Error(), "*")]++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	close(stop)
	<-stopped
	t.Logf("%d kills, %d clients, %d lives of containers that ended as they should", kills, clients, lives)
	for _, what := range slices.SortedFunc(maps.Keys(heard), func(a, b string) int { return heard[b] - heard[a] }) {
		t.Logf("%4d clients heard: %.300s", heard[what], what)
	}
	d.start(t)
	time.Sleep(10 * time.Second) // it removes what it knows to be garbage
	for _, list := range [][]string{{"tasks", "ls", "-q"}, {"containers", "ls", "-q"}, {"snapshots", "ls"}} {
		t.Logf("left: %d lines of ctr %s", len(strings.Split(strings.TrimSpace(d.ctr(t, list...).stdout), "\n")), strings.Join(list, " "))
	}
	shims, _ := exec.Command("pgrep", "-c", "-f", "containerd-shim-runc-v2 .*"+d.namespace).Output()
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	bundles, _ := filepath.Glob(filepath.Join(dir, "state", "*", "*", "*"))
	t.Logf("left: %s shims, %d mounts, %d bundles", strings.TrimSpace(string(shims)), strings.Count(string(mounts), " "+dir), len(bundles))
}
