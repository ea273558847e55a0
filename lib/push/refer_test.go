// SPDX-License-Identifier: Apache-2.0

package push

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// referrer keeps an artifact that refers to a subject, and names it.
func (s *store) referrer(name string, subject ocispec.Descriptor) ocispec.Descriptor {
	s.Helper()
	desc := s.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x.note",
		Config:  s.blob("application/vnd.oci.empty.v1+json", []byte("{}")),
		Layers:  []ocispec.Descriptor{s.blob("text/plain", []byte(name))},
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	})
	s.name("docker.io/library/"+name+":1", desc)
	return desc
}

func tagOf(subject ocispec.Descriptor) string {
	return strings.Replace(subject.Digest.String(), ":", "-", 1)
}

// dockerRegistry runs docker-registry, which has no referrers API, and gives its address.
func dockerRegistry(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	os.WriteFile(conf, fmt.Appendf(nil, `
version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: "127.0.0.1:0"}
`, dir+"/data"), 0o600)
	cmd := exec.Command(program, "serve", conf)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	ready := make(chan string, 1)
	go func() {
		defer close(ready)
		for s := bufio.NewScanner(log); s.Scan(); {
			if _, rest, ok := strings.Cut(s.Text(), "listening on "); ok {
				ready <- rest[:strings.IndexAny(rest+",", ", \"")]
			}
		}
	}()
	host := <-ready
	if host == "" {
		t.Fatal("docker-registry does not start")
	}
	return host
}

// Eight pushes at once of artifacts that refer to one subject, from one state directory and from eight: the registry lists all.
func TestReferAtOnce(t *testing.T) {
	host := dockerRegistry(t)
	for _, stores := range []int{1, 8} {
		all := make([]*store, stores)
		for i := range all {
			all[i] = newStore(t)
		}
		subject := all[0].manifest(amd64, all[0].blob(layerType, noise(10, uint64(stores))))
		all[0].name("docker.io/library/subject:1", subject)
		if _, err := pushText(ctx, all[0].d, "subject:1", host+"/app:subject", options()); err != nil {
			t.Fatal(err)
		}
		want := map[digest.Digest]bool{}
		names := make([]string, 8)
		for i := range names {
			names[i] = fmt.Sprint("note", i)
			want[all[i%stores].referrer(names[i], subject).Digest] = true
		}
		failed := make([]error, 8)
		var running sync.WaitGroup
		for i, name := range names {
			running.Go(func() { _, failed[i] = pushText(ctx, all[i%stores].d, name+":1", host+"/app:"+name, options()) })
		}
		running.Wait()
		if err := errors.Join(failed...); err != nil {
			t.Fatal(err)
		}
		q, _ := http.NewRequest(http.MethodGet, "http://"+host+"/v2/app/manifests/"+tagOf(subject), nil)
		q.Header.Set("Accept", ocispec.MediaTypeImageIndex)
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var x ocispec.Index
		if err := json.NewDecoder(resp.Body).Decode(&x); err != nil {
			t.Fatal(err)
		}
		for _, m := range x.Manifests {
			delete(want, m.Digest)
		}
		if len(want) > 0 {
			t.Errorf("%d stores: not listed: %v", stores, want)
		}
	}
}

// Others write the index of referrers between a push's reading and writing of it, or after that what they have made of an older one;
// registries compare entity tags, or do not, or make something else of them. In the end all are in.
func TestReferBeside(t *testing.T) {
	for name, c := range map[string]struct {
		compares, refuses bool
		meddle            func(put func(), before, after bool)
	}{
		"stale writes after ours": {meddle: func(put func(), before, after bool) {
			if after {
				put()
			}
		}},
		"writes before ours": {compares: true, meddle: func(put func(), before, after bool) {
			if before {
				put()
			}
		}},
		"refuses": {refuses: true, meddle: func(func(), bool, bool) {}},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := newStore(t), newServer(t)
			subject := s.manifest(amd64, s.blob(layerType, noise(10, 1)))
			note, other := s.referrer("note", subject), s.referrer("other", subject)
			at := "app/manifests/" + tagOf(subject)
			if _, err := pushText(ctx, s.d, "other:1", r.host+"/app:other", options()); err != nil {
				t.Fatal(err)
			}
			_, old, _ := r.get(at) // that has the other one
			w := httptest.NewRecorder()
			r.inner.ServeHTTP(w, httptest.NewRequest(http.MethodDelete, "/v2/"+at, nil))
			if !strings.Contains(string(old), other.Digest.String()) || w.Code >= 300 {
				t.Fatalf("%d: %s", w.Code, old)
			}
			put := func() {
				q := httptest.NewRequest(http.MethodPut, "/v2/"+at, bytes.NewReader(old))
				q.Header.Set("Content-Type", ocispec.MediaTypeImageIndex)
				r.inner.ServeHTTP(httptest.NewRecorder(), q)
			}
			times := 0
			r.set(func(w http.ResponseWriter, q *http.Request) bool {
				_, _, header := r.get(at)
				if q.URL.Path != "/v2/"+at {
					return false
				}
				if q.Method == http.MethodGet && (c.compares || c.refuses) {
					w.Header().Set("ETag", `"`+header.Get("Docker-Content-Digest")+`"`)
				}
				if q.Method != http.MethodPut {
					return false
				}
				times++
				data, _ := io.ReadAll(q.Body)
				q.Body = io.NopCloser(bytes.NewReader(data))
				match, none := q.Header.Get("If-Match"), q.Header.Get("If-None-Match")
				c.meddle(put, times == 1, false)
				status, now, _ := r.get(at)
				is := match == `"`+digest.FromBytes(now).String()+`"` || none == "*" && status == http.StatusNotFound
				if match+none != "" && (c.refuses || c.compares && !is) {
					w.WriteHeader(http.StatusPreconditionFailed)
					return true
				}
				r.inner.ServeHTTP(w, q)
				c.meddle(put, false, times < 3)
				return true
			})
			if _, err := pushText(ctx, s.d, "note:1", r.host+"/app:note", options()); err != nil {
				t.Fatal(err)
			}
			_, data, _ := r.get(at)
			if !strings.Contains(string(data), note.Digest.String()) || name != "refuses" && !strings.Contains(string(data), other.Digest.String()) {
				t.Errorf("after %d writes: %s", times, data)
			}
		})
	}
}
