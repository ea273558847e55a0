// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A server that sends some bytes and breaks off, again and again, is followed to the end.
func TestBlobResumes(t *testing.T) {
	f := newFront()
	data := noise(300000)
	_, blob := push(t, f.next, "v1", data)
	var ranges []string
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		ranges = append(ranges, r.Header.Get("Range"))
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(206)
		}
		w.Write(data[from:min(from+100000, len(data))])
		return true
	}
	r := open(t, serve(t, f)+"/test/repo:v1", Options{})
	got, err := readBlob(r, blob, 0, -1)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if fmt.Sprint(ranges) != "[ bytes=100000-299999 bytes=200000-299999]" {
		t.Errorf("requests %q", ranges)
	}
	f.mu.Lock()
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.Write(data[:1])
			return true
		}
		return false
	}
	f.mu.Unlock()
	if _, err := readBlob(r, blob, 0, -1); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "broke off at byte 1 ") {
		t.Errorf("a server that never gets on: %v", err)
	}
}

// A transfer that brings nothing any more, though its connection stands, is broken off and resumed.
func TestBlobStalls(t *testing.T) {
	f := newFront()
	data := noise(100000)
	_, blob := push(t, f.next, "v1", data)
	stalled := false
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if stalled || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		stalled = true
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data[:1000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	r := open(t, serve(t, f)+"/test/repo:v1", Options{})
	r.hosts[0].calm.time = 100 * time.Millisecond
	got, err := readBlob(r, blob, 0, -1)
	if err != nil || !bytes.Equal(got, data) || !stalled {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestBlobWithoutRanges(t *testing.T) {
	f := newFront()
	data := noise(50000)
	_, blob := push(t, f.next, "v1", data)
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return false
	}
	r := open(t, serve(t, f)+"/test/repo:v1", Options{})
	if !r.Ranges() {
		t.Error("ranges given up before anything was asked")
	}
	got, err := readBlob(r, blob, 20000, 5000)
	if err != nil || !bytes.Equal(got, data[20000:25000]) || r.Ranges() {
		t.Errorf("%d bytes, ranges %v, %v", len(got), r.Ranges(), err)
	}
}

func TestBlobHostileAnswers(t *testing.T) {
	data := noise(5000)
	for name, answer := range map[string]func(w http.ResponseWriter){
		"other start": func(w http.ResponseWriter) { w.Header().Set("Content-Range", "bytes 5-4999/5000"); w.WriteHeader(206) },
		"other size": func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 100-4999/6000")
			w.WriteHeader(206)
		},
		"no range": func(w http.ResponseWriter) { w.WriteHeader(206) },
		"whole but short": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "4000")
			w.Write(data[:4000])
		},
		"gone": func(w http.ResponseWriter) { w.WriteHeader(404) },
	} {
		f := newFront()
		_, blob := push(t, f.next, "v1", data)
		f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				answer(w)
				return true
			}
			return false
		}
		r := open(t, serve(t, f)+"/test/repo:v1", Options{})
		if _, err := readBlob(r, blob, 100, -1); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if n := f.count("GET /v2/test/repo/blobs/"); n != 1 {
			t.Errorf("%s: asked %d times", name, n)
		}
	}
}

func TestForeignURL(t *testing.T) {
	f := newFront()
	data := noise(5000)
	push(t, f.next, "v1", noise(10))
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	var auth []string
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth = append(auth, r.Header.Get("Authorization"))
		w.Write(data)
	}))
	desc.URLs = []string{"file:///etc/passwd", "http://" + host + "/layer"}
	f.wrap = demandBasic("u", "p")
	r := open(t, serve(t, f)+"/test/repo:v1", Options{Username: "u", Password: "p"})
	got, err := readBlob(r, desc, 0, -1)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal(err)
	}
	if len(auth) != 1 || auth[0] != "" {
		t.Errorf("a foreign host saw %q", auth)
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "bytes 5-9/*", "bytes */7", "bytes 9-3/4", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, total, err := contentRange(s)
		if err == nil && (first < 0 || total < -1 || total >= 0 && first >= total) {
			t.Errorf("%q: %d of %d", s, first, total)
		}
	})
}
