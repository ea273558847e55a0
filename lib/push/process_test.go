// SPDX-License-Identifier: Apache-2.0

package push

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ctrd.dev/ctrd/lib/state"
)

func TestMain(m *testing.M) {
	if to := os.Getenv("PUSH_TEST_TO"); to != "" {
		child(to)
	}
	os.Exit(m.Run())
}

// child is a process of its own that pushes one image.
func child(to string) {
	d, err := state.Open(state.Config{Root: os.Getenv("ROOT"), State: os.Getenv("STATE"), Wait: -1})
	if err == nil {
		_, err = pushText(ctx, d, "app:1", to, options())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func process(s *store, to string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), "PUSH_TEST_TO="+to, "ROOT="+s.d.Path(), "STATE="+s.d.Run())
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c
}

// keeping makes a registry keep what has come of an upload when its connection breaks.
type keeping struct {
	*server
	mu    sync.Mutex
	parts map[string][]byte // by the path of the upload
	taken int64             // bytes of all uploads that were begun
	posts int
	pause int           // bytes after which an upload waits for its connection to break; 0: none does
	there chan struct{} // hears of each that waits
}

func keepUploads(r *server) *keeping {
	k := &keeping{server: r, parts: map[string][]byte{}, there: make(chan struct{}, 8)}
	r.set(k.serve)
	return k
}

func (k *keeping) serve(w http.ResponseWriter, r *http.Request) bool {
	if !strings.Contains(r.URL.Path, "/blobs/uploads/") {
		return false
	}
	if r.Method == http.MethodPost {
		k.mu.Lock()
		k.posts++
		at := r.URL.Path + strconv.Itoa(k.posts)
		k.parts[at] = []byte{}
		k.mu.Unlock()
		w.Header().Set("Location", at)
		w.WriteHeader(http.StatusAccepted)
		return true
	}
	k.mu.Lock()
	data, ok := k.parts[r.URL.Path]
	k.mu.Unlock()
	if begin, _, ranged := strings.Cut(r.Header.Get("Content-Range"), "-"); !ok || ranged && begin != strconv.Itoa(len(data)) {
		w.WriteHeader(http.StatusNotFound)
		return true
	}
	if r.Method == http.MethodGet {
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(data)-1)))
		w.WriteHeader(http.StatusNoContent)
		return true
	}
	k.take(r, data)
	if r.Method == http.MethodPut {
		k.mu.Lock()
		whole := k.parts[r.URL.Path]
		k.mu.Unlock()
		base, _, _ := strings.Cut(r.URL.Path, "uploads/")
		q := httptest.NewRequest(http.MethodPost, base+"uploads/?digest="+r.URL.Query().Get("digest"), bytes.NewReader(whole))
		k.inner.ServeHTTP(w, q)
		return true
	}
	w.WriteHeader(http.StatusAccepted)
	return true
}

// take reads a body, and keeps what came of one that breaks.
func (k *keeping) take(r *http.Request, data []byte) {
	buf := make([]byte, 64<<10)
	for n, err := 0, error(nil); err == nil; {
		n, err = r.Body.Read(buf)
		data = append(data, buf[:n]...)
		k.mu.Lock()
		k.taken += int64(n)
		k.parts[r.URL.Path] = data
		pause := k.pause
		k.mu.Unlock()
		if pause > 0 && len(data) >= pause {
			k.there <- struct{}{}
			if _, err := io.Copy(io.Discard, r.Body); err == nil { // a broken connection is seen by a reader, or when all is read
				<-r.Context().Done()
			}
			break
		}
	}
}

// kill runs a push and kills it when the registry has so many bytes.
func (k *keeping) kill(t *testing.T, s *store, to string, after int) {
	t.Helper()
	k.mu.Lock()
	k.pause = after
	k.mu.Unlock()
	p := process(s, to)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-k.there
	p.Process.Kill()
	p.Wait()
	k.mu.Lock()
	k.pause = 0
	k.mu.Unlock()
}

func uploadsLeft(t *testing.T, s *store) []string {
	t.Helper()
	left, err := filepath.Glob(s.d.Run("uploads", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// A push that was killed goes on, in another process, where the registry has it; one whose upload the registry has given
// up begins anew.
func TestKilledInMidBlob(t *testing.T) {
	const size, part = 8 << 20, 5 << 20
	for _, lives := range []bool{true, false} {
		s, r := newStore(t), newServer(t)
		layer := s.blob(layerType, noise(size, 1))
		m := s.manifest(amd64, layer)
		s.name("docker.io/library/app:1", m)
		k, to := keepUploads(r), r.host+"/team/app:1"
		k.kill(t, s, to, part)
		k.mu.Lock()
		var had int64
		for path, data := range k.parts {
			had = max(had, int64(len(data)))
			if !lives {
				delete(k.parts, path)
			}
		}
		k.taken, k.posts = 0, 0
		k.mu.Unlock()
		if err := process(s, to).Run(); err != nil {
			t.Fatal(err)
		}
		config := k.taken - (size - had)
		if !lives {
			config = k.taken - size
		}
		if had < part || config < 0 || config > 4096 {
			t.Errorf("lives: %v: it had %d bytes, and took %d more", lives, had, k.taken)
		}
		if status, _, _ := r.get("team/app/manifests/1"); status != 200 {
			t.Errorf("lives: %v: the manifest: %d", lives, status)
		}
		if left := uploadsLeft(t, s); len(left) > 0 {
			t.Errorf("lives: %v: left %q", lives, left)
		}
	}
}

// Two pushes of one blob at the same time have an upload each.
func TestUploadOfOther(t *testing.T) {
	s, r := newStore(t), newServer(t)
	s.name("docker.io/library/app:1", s.manifest(amd64, s.blob(layerType, noise(4<<20, 1))))
	k, to := keepUploads(r), r.host+"/team/app:1"
	k.mu.Lock()
	k.pause = 1 << 20
	k.mu.Unlock()
	p := process(s, to)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-k.there
	k.mu.Lock()
	k.pause = 0
	k.mu.Unlock()
	if err := process(s, to).Run(); err != nil {
		t.Error(err)
	}
	if k.posts < 3 { // two of the layer, and the configuration
		t.Errorf("%d uploads", k.posts)
	}
	p.Process.Kill()
	p.Wait()
	// What the killed one has left is forgotten after a day.
	old := time.Now().Add(-2 * maxUploadAge)
	for _, path := range uploadsLeft(t, s) {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	// So is what a kill has left of the writing of an address, at once.
	for _, name := range []string{"half.new", "bare.lock", "both.new", "both.lock"} {
		if err := os.WriteFile(s.d.Run("uploads", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := process(s, to).Run(); err != nil {
		t.Error(err)
	}
	if left := uploadsLeft(t, s); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}
