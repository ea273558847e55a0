// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func TestMain(m *testing.M) {
	if ref := os.Getenv("PULL_TEST_REF"); ref != "" {
		child(ref)
	}
	os.Exit(m.Run())
}

// child is a process of its own that pulls one image.
func child(ref string) {
	d, err := state.Open(state.Config{Root: os.Getenv("ROOT"), State: os.Getenv("STATE"), Wait: -1})
	if err == nil {
		_, err = pullText(ctx, d, ref, Options{Namespace: os.Getenv("NS"), Open: from(registry.Options{})})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func process(base, ref, ns string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), "PULL_TEST_REF="+ref, "NS="+ns, "ROOT="+filepath.Join(base, "root"), "STATE="+filepath.Join(base, "state"))
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c
}

// Processes that pull the same image at once, into two namespaces: every blob is sent once, every layer
// unpacked once, and all see the whole image.
func TestProcessesPullAtOnce(t *testing.T) {
	base := t.TempDir()
	d := openDir(t, base)
	s := newServer(t)
	var tars [][]byte
	for n := range 5 {
		tars = append(tars, large(fmt.Sprint("file", n), 1<<20, uint64(n)))
	}
	b := s.build("test/app", "1", tars...)
	s.set(nil)
	var all []*exec.Cmd
	for n := range 6 {
		c := process(base, b.ref, "ns"+strconv.Itoa(n%2))
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	for _, c := range all {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	p, _ := image.ParsePlatform("")
	m, err := image.Resolve(d, b.manifest, p)
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range append(b.layers, m.Manifest.Config) {
		if gets, sent := s.count(blob.Digest); gets != 1 || sent != blob.Size {
			t.Errorf("%s: %d requests, %d of %d bytes", blob.Digest, gets, sent, blob.Size)
		}
	}
	for _, ns := range []string{"ns0", "ns1"} {
		d.View(ctx, func(tx *state.Tx) error {
			if _, err := image.Get(tx, ns, b.ref); err != nil {
				t.Error(err)
			}
			layers, err := snapshot.Overlay.Layers(ctx, tx, d, ns, m.ChainIDs[4].String())
			if err != nil || len(layers) != 5 {
				t.Fatalf("%s: %v, %v", ns, layers, err)
			}
			for n, dir := range layers {
				if st, err := os.Stat(filepath.Join(dir, fmt.Sprint("file", 4-n))); err != nil || st.Size() != 1<<20 {
					t.Errorf("%s: %v", dir, err)
				}
			}
			return nil
		})
	}
	dirs, _ := os.ReadDir(d.Path("snapshots", "overlayfs"))
	if len(dirs) != 5 {
		t.Errorf("%d layer directories", len(dirs))
	}
}

// stall sends part of a blob's answer, says so and then keeps the connection open.
func stall(suffix string, whole []byte, part int, sent chan<- struct{}) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, suffix) || r.Method != "GET" {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
		w.Write(whole[:part])
		w.(http.Flusher).Flush()
		sent <- struct{}{}
		<-r.Context().Done()
		return true
	}
}

// P is killed while the second layer arrives. Q asks only for the bytes that P had not, and for nothing
// of the first layer.
func TestKilledInMidLayer(t *testing.T) {
	base := t.TempDir()
	d := openDir(t, base)
	s := newServer(t)
	tarball := large("big", 8<<20, 7)
	b := s.build("test/app", "1", files("a", "1"), tarball)
	blob := zipped(tarball)
	const part = 6 << 20
	sent := make(chan struct{}, 1)
	s.set(stall(b.layers[1].Digest.String(), blob, part, sent))
	p := process(base, b.ref, "ns")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-sent
	for first := snapshot.Overlay.FS(d, snapshot.LayerID(b.diffIDs[0])); ; {
		if _, err := os.Stat(first); err == nil || t.Context().Err() != nil {
			break
		}
	}
	waitRanges(t, d, b.layers[1].Digest.Encoded(), part)
	p.Process.Kill()
	p.Wait()
	if _, err := os.Stat(d.Path("meta.db")); err == nil {
		t.Error("a killed pull wrote records")
	}
	s.set(nil)
	if err := process(base, b.ref, "ns").Run(); err != nil {
		t.Fatal(err)
	}
	if _, got := s.count(b.layers[1].Digest); got != b.layers[1].Size-part {
		t.Errorf("%d bytes were sent again, %d were missing", got, b.layers[1].Size-part)
	}
	if gets, _ := s.count(b.layers[0].Digest); gets != 0 {
		t.Errorf("the finished layer was asked for %d times", gets)
	}
}

// waitRanges waits until an ingest has written down that so many bytes are there.
func waitRanges(t *testing.T, d *state.Dir, hex string, want int) {
	t.Helper()
	for {
		data, err := os.ReadFile(d.Path("content", "ingest", "sha256-"+hex, "ranges"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		total := 0
		for line := range strings.Lines(string(data)) {
			var off, n int
			fmt.Sscanf(line, "%d %d", &off, &n)
			total += n
		}
		if total >= want {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("nothing arrives")
		}
	}
}

// Q waits for the layer that P is fetching. When P is killed Q goes on with what P had.
func TestWaiterTakesOver(t *testing.T) {
	base := t.TempDir()
	d := openDir(t, base)
	s := newServer(t)
	tarball := large("big", 4<<20, 9)
	b := s.build("test/app", "1", tarball)
	blob := zipped(tarball)
	sent := make(chan struct{}, 1)
	inner := stall(b.layers[0].Digest.String(), blob, 2<<20, sent)
	var later atomic.Bool
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, b.layers[0].Digest.String()) && !later.Swap(true) {
			return inner(w, r)
		}
		return false
	})
	p, q := process(base, b.ref, "ns"), process(base, b.ref, "ns")
	p.Stderr = io.Discard
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-sent
	if err := q.Start(); err != nil {
		t.Fatal(err)
	}
	waitRanges(t, d, b.layers[0].Digest.Encoded(), 2<<20)
	p.Process.Kill()
	p.Wait()
	if err := q.Wait(); err != nil {
		t.Fatal(err)
	}
	if gets, got := s.count(b.layers[0].Digest); gets != 2 || got != b.layers[0].Size {
		t.Errorf("%d requests, %d of %d bytes", gets, got, b.layers[0].Size)
	}
}

// trickle sends a blob slowly.
func trickle(suffix string, whole []byte, pause time.Duration) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, suffix) || r.Method != "GET" {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
		for rest := whole; len(rest) > 0 && r.Context().Err() == nil; time.Sleep(pause) {
			n := min(len(rest), 8<<10)
			w.Write(rest[:n])
			w.(http.Flusher).Flush()
			rest = rest[n:]
		}
		return true
	}
}

// A pull that gets on, if slowly, is waited for beyond the bound of the locks by whoever is patient; one
// that is stopped is not.
func TestPatience(t *testing.T) {
	base := t.TempDir()
	openDir(t, base)
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "state"), Wait: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	tarball := large("big", 800<<10, 11)
	b := s.build("test/app", "1", tarball)
	s.set(trickle(b.layers[0].Digest.String(), zipped(tarball), 10*time.Millisecond))
	p := process(base, b.ref, "ns")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Process.Kill()
	waitRanges(t, d, b.layers[0].Digest.Encoded(), 8<<10)
	patient := options()
	patient.Patient = true
	var busy *lock.BusyError
	if _, err := pullText(ctx, d, b.ref, options()); !errors.As(err, &busy) {
		t.Errorf("without patience: %v", err)
	}
	p.Process.Signal(syscall.SIGSTOP)
	if _, err := pullText(ctx, d, b.ref, patient); !errors.As(err, &busy) {
		t.Errorf("a stopped pull is waited for: %v", err)
	}
	p.Process.Signal(syscall.SIGCONT)
	if _, err := pullText(ctx, d, b.ref, patient); err != nil {
		t.Errorf("a slow pull is not waited for: %v", err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	if gets, _ := s.count(b.layers[0].Digest); gets != 1 {
		t.Errorf("%d requests", gets)
	}
}
