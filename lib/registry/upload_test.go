// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// uploads is a registry of blobs alone, that does with uploads what a test wants.
type uploads struct {
	mu       sync.Mutex
	sessions map[string][]byte
	blobs    map[string][]byte
	seen     []string
	// fault, if set, sees each request to an upload before it is served, and tells whether it answered it.
	fault    func(w http.ResponseWriter, r *http.Request, n int) bool
	location func(id string) string // of an upload
	noStatus bool
}

func newUploads() *uploads {
	return &uploads{sessions: map[string][]byte{}, blobs: map[string][]byte{}, location: func(id string) string { return "/v2/test/repo/blobs/uploads/" + id }}
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.seen = append(u.seen, r.Method)
	n, fault := len(u.seen), u.fault
	u.mu.Unlock()
	if fault != nil && fault(w, r, n) {
		return
	}
	id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	switch r.Method {
	case "HEAD":
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.blobs[id] == nil {
			w.WriteHeader(http.StatusNotFound)
		}
	case "POST":
		u.mu.Lock()
		defer u.mu.Unlock()
		id = strconv.Itoa(n)
		u.sessions[id] = []byte{}
		w.Header().Set("Location", u.location(id))
		w.WriteHeader(http.StatusAccepted)
	default:
		u.upload(w, r, id)
	}
}

func (u *uploads) upload(w http.ResponseWriter, r *http.Request, id string) {
	u.mu.Lock()
	data, ok := u.sessions[id]
	u.mu.Unlock()
	if !ok || r.Method == "GET" && u.noStatus {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if start, _, ok := strings.Cut(r.Header.Get("Content-Range"), "-"); ok && start != strconv.Itoa(len(data)) {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	// What came before a connection broke is kept, also when the next request has come before it: then the bytes
	// are wrong, as they can be in registries that lock nothing.
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buf)
		data = append(data, buf[:n]...)
		u.mu.Lock()
		u.sessions[id] = data
		u.mu.Unlock()
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
	}
	w.Header().Set("Location", u.location(id))
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(data)-1)))
	if r.Method == "PUT" {
		want := r.URL.Query().Get("digest")
		if digest.FromBytes(data).String() != want {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"errors":[{"code":"DIGEST_INVALID","message":"it does not match"}]}`)
			return
		}
		u.mu.Lock()
		u.blobs[want] = data
		delete(u.sessions, id)
		u.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		return
	}
	if r.Method == "GET" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (u *uploads) count(method string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, m := range u.seen {
		if m == method {
			n++
		}
	}
	return n
}

func (u *uploads) has(data []byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return bytes.Equal(u.blobs[digest.FromBytes(data).String()], data)
}

// openPush is OpenPush with no pauses between attempts and no credentials of this machine.
func openPush(t *testing.T, ref string, opt Options) *Destination {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", "")
	d, err := OpenPush(parseRef(ref), opt)
	if err != nil {
		t.Fatal(err)
	}
	d.at.retry.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	t.Cleanup(d.Close)
	return d
}

func describe(data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func send(d *Destination, data []byte) error {
	return d.Upload(describe(data)).Send(context.Background(), bytes.NewReader(data), nil)
}

func TestUploadSizes(t *testing.T) {
	u := newUploads()
	d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
	for _, n := range []int{0, 1, 2, atOnce - 1, atOnce, atOnce + 1, 3 << 20} {
		data := noise(n)
		last := int64(-1)
		err := d.Upload(describe(data)).Send(context.Background(), bytes.NewReader(data), func(at int64) { last = at })
		if err != nil || !u.has(data) || last != int64(n) {
			t.Errorf("%d bytes: %v; at %d", n, err, last)
		}
		if has, err := d.HasBlob(context.Background(), describe(data)); err != nil || !has {
			t.Errorf("%d bytes: has it: %v, %v", n, has, err)
		}
	}
	if has, err := d.HasBlob(context.Background(), describe(noise(7))); err != nil || has {
		t.Errorf("has what was not sent: %v, %v", has, err)
	}
}

// The connection breaks at random bytes, in both directions; the upload goes on where it stood.
func TestUploadBreaks(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for round := range 12 {
		u := newUploads()
		u.noStatus = round%4 == 3
		var sent atomic.Int64
		// A proxy between the two that cuts each of the first connections off.
		data := noise(6 << 20)
		cuts := []int64{r.Int64N(6 << 20), r.Int64N(3 << 20), r.Int64N(1 << 20), r.Int64N(500)}
		if u.noStatus {
			cuts = cuts[2:]
		}
		host := cutting(t, serve(t, u), cuts, round%2 == 1, &sent)
		d := openPush(t, host+"/test/repo:1", Options{PlainHTTP: true})
		if err := send(d, data); err != nil || !u.has(data) {
			t.Errorf("round %d, cuts %v: %v", round, cuts, err)
		}
		if most := int64(len(data)) * 7 / 2; !u.noStatus && sent.Load() > most {
			t.Errorf("round %d, cuts %v: %d bytes were sent of %d", round, cuts, sent.Load(), len(data))
		}
	}
}

// cutting is a proxy that breaks its first connections, each after so many bytes: of the requests, or of the
// answers to them.
func cutting(t *testing.T, to string, cuts []int64, answers bool, sent *atomic.Int64) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var n atomic.Int32
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			limit := int64(1 << 40)
			if i := int(n.Add(1)) - 1; i < len(cuts) {
				limit = cuts[i]
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			up, down := limit, int64(1<<40)
			if answers {
				up, down = 1<<40, limit%1000
			}
			go func() {
				k, _ := io.CopyN(out, in, up)
				sent.Add(k)
				in.Close()
				out.Close()
			}()
			go func() {
				io.CopyN(in, out, down)
				in.Close()
				out.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// What a registry answers to a request may pass, or not.
func TestUploadFaults(t *testing.T) {
	once := func(method string, status int, header ...string) func(http.ResponseWriter, *http.Request, int) bool {
		var done atomic.Bool
		return func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.Method != method || done.Swap(true) {
				return false
			}
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			return true
		}
	}
	for name, c := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request, int) bool
		posts int
	}{
		"limit of uploads":      {once("POST", 429, "Retry-After", "1"), 2},
		"limit of data":         {once("PATCH", 429, "Retry-After", "1"), 1},
		"data unavailable":      {once("PATCH", 503), 1},
		"commit unavailable":    {once("PUT", 500), 1},
		"upload is lost":        {once("PATCH", 404), 1},
		"stands elsewhere":      {once("PATCH", 416), 1},
		"lost at the end":       {once("PUT", 404), 1},
		"commit that timed out": {once("PUT", 504), 1},
	} {
		u := newUploads()
		u.fault = c.fault
		d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
		data := noise(1 << 20)
		if err := send(d, data); err != nil || !u.has(data) || u.count("POST") != c.posts {
			t.Errorf("%s: %v; %q", name, err, u.seen)
		}
	}
	for name, c := range map[string]struct {
		status int
		is     func(error) bool
	}{
		"denied": {403, errdefs.IsPermissionDenied}, "login": {401, errdefs.IsUnauthorized}, "teapot": {418, errdefs.IsUnknown},
	} {
		for _, method := range []string{"POST", "PATCH", "PUT"} {
			u := newUploads()
			u.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
				if r.Method == method {
					w.WriteHeader(c.status)
				}
				return r.Method == method
			}
			d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
			if err := send(d, noise(1<<20)); !c.is(err) {
				t.Errorf("%s at %s: %v", name, method, err)
			}
		}
	}
}

// A commit whose answer was lost is found to have been made.
func TestUploadCommitAnswerLost(t *testing.T) {
	u := newUploads()
	var once atomic.Bool
	u.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method != "PUT" || once.Swap(true) {
			return false
		}
		u.upload(nowhere{}, r, r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		panic(http.ErrAbortHandler)
	}
	d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
	for _, n := range []int{100, 1 << 20} {
		once.Store(false)
		data := noise(n)
		if err := send(d, data); err != nil || !u.has(data) {
			t.Errorf("%d bytes: %v; %q", n, err, u.seen)
		}
	}
	if u.count("POST") != 2 {
		t.Errorf("%q", u.seen)
	}
}

type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

// Something before the registry takes no large requests: they become smaller, and no smaller than the registry
// wants.
func TestUploadTooLarge(t *testing.T) {
	for _, least := range []string{"", "3000000"} {
		u := newUploads()
		u.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.Method == "POST" && least != "" {
				w.Header().Set("OCI-Chunk-Min-Length", least)
			}
			if r.ContentLength > 4<<20 {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return true
			}
			return false
		}
		d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
		data := noise(9 << 20)
		if err := send(d, data); err != nil || !u.has(data) {
			t.Errorf("%q: %v; %q", least, err, u.seen)
		}
	}
	u := newUploads()
	u.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method == "PATCH" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
		return r.Method == "PATCH"
	}
	d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
	if err := send(d, noise(9<<20)); err == nil || !strings.Contains(err.Error(), "413") {
		t.Errorf("%v", err)
	}
}

// Uploads go on where the answer says: at a relative address, one with a query, or on another host, which is
// sent no credentials.
func TestUploadLocation(t *testing.T) {
	u := newUploads()
	var leaked atomic.Bool
	other := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "" || r.Header.Get("X-Key") != "")
		u.ServeHTTP(w, r)
	}))
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, _, ok := r.BasicAuth(); !ok || user != "u" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		u.ServeHTTP(w, r)
	}))
	opt := Options{Username: "u", Password: "p", Header: map[string]string{"X-Key": "secret"}}
	for name, location := range map[string]func(string) string{
		"path":       func(id string) string { return "/v2/test/repo/blobs/uploads/" + id },
		"relative":   func(id string) string { return "../uploads/" + id },
		"absolute":   func(id string) string { return "http://" + host + "/v2/test/repo/blobs/uploads/" + id },
		"query":      func(id string) string { return "/v2/test/repo/blobs/uploads/" + id + "?_state=a%2Fb=&x=1" },
		"other host": func(id string) string { return "http://" + other + "/v2/test/repo/blobs/uploads/" + id },
	} {
		u.location = location
		d := openPush(t, host+"/test/repo:1", opt)
		data := noise(1 << 20)
		if err := send(d, data); err != nil || !u.has(data) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if leaked.Load() {
		t.Error("the other host was sent the password, or a header that was configured for this one")
	}
}

// A registry does not know at once the blobs that it was sent. It is asked again, a few times.
func TestManifestBeforeItsBlobs(t *testing.T) {
	const unknown = `{"errors":[{"code":"DIGEST_INVALID","message":"m"},{"code":"MANIFEST_BLOB_UNKNOWN","message":"m"}]}`
	for name, c := range map[string]struct {
		answer string
		misses int
		puts   int
		want   string // of the error
	}{
		"shown late":      {unknown, manifestAttempts - 1, manifestAttempts, ""},
		"never shown":     {unknown, 100, manifestAttempts, "BLOB_UNKNOWN"},
		"another refusal": {`{"errors":[{"code":"MANIFEST_INVALID","message":"m"}]}`, 100, 1, "MANIFEST_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			puts := 0
			host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPut {
					return
				}
				data, _ := io.ReadAll(r.Body)
				if string(data) != "{}" {
					t.Errorf("manifest %q", data)
				}
				if puts++; puts <= c.misses {
					w.WriteHeader(http.StatusBadRequest)
					io.WriteString(w, c.answer)
					return
				}
				w.WriteHeader(http.StatusCreated)
			}))
			_, err := openPush(t, host+"/test/repo:1", Options{}).PutManifest(context.Background(), describe([]byte("{}")), []byte("{}"), "1")
			if (err == nil) != (c.want == "") || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Error(err)
			}
			if puts != c.puts {
				t.Errorf("%d puts, want %d", puts, c.puts)
			}
		})
	}
}

// Only a host that is configured for pushes is written to, and mirrors are not.
func TestPushHost(t *testing.T) {
	u, mirror := newUploads(), newUploads()
	upHost, mirrorHost := serve(t, u), serve(t, mirror)
	data := noise(1000)
	d := openPush(t, upHost+"/test/repo:1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", "http://"+upHost, "http://"+mirrorHost)))
	if err := send(d, data); err != nil || !u.has(data) || len(mirror.seen) > 0 {
		t.Errorf("%v; the mirror was asked %q", err, mirror.seen)
	}
	d = openPush(t, upHost+"/test/repo:1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"push\"]\n", "http://"+upHost, "http://"+mirrorHost)))
	if err := send(d, data); err != nil || !mirror.has(data) {
		t.Errorf("%v", err)
	}
	opt := hostsFor(t, upHost, fmt.Sprintf("server = %q\ncapabilities = [\"pull\"]\n", "http://"+upHost))
	if _, err := OpenPush(parseRef(upHost+"/test/repo:1"), opt); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "push") {
		t.Errorf("nobody takes pushes: %v", err)
	}
}

// Tokens that end while blobs are sent, from a server on another port: each is asked for pull and push, and for
// a mount for the source too.
func TestPushTokens(t *testing.T) {
	u := newUploads()
	var mu sync.Mutex
	valid, issued := "", 0
	var scopes []string
	tokens := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		issued++
		valid = fmt.Sprintf("t%d", issued)
		scopes = append(scopes, strings.Join(r.URL.Query()["scope"], " "))
		json.NewEncoder(w).Encode(map[string]any{"token": valid, "expires_in": 300})
	}))
	mounted := false
	u.fault = func(w http.ResponseWriter, r *http.Request, n int) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer "+valid || valid == "" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="s",scope="repository:test/repo:pull,push"`, tokens))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if n%3 == 0 {
			valid = "" // it has just ended
		}
		if r.URL.Query().Get("mount") != "" {
			mounted = true
			w.WriteHeader(http.StatusCreated)
			return true
		}
		return false
	}
	d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
	for range 4 {
		data := noise(600 << 10)
		if err := send(d, data); err != nil || !u.has(data) {
			t.Fatalf("%v; %q", err, u.seen)
		}
	}
	for _, s := range scopes {
		if s != "repository:test/repo:pull,push" {
			t.Errorf("scope %q", s)
		}
	}
	scopes = nil
	if ok, err := d.Upload(describe(noise(10))).Mount(context.Background(), "other/repo"); err != nil || !ok || !mounted {
		t.Errorf("mount: %v, %v", ok, err)
	}
	if len(scopes) == 0 || scopes[0] != "repository:test/repo:pull,push repository:other/repo:pull" {
		t.Errorf("scopes of a mount %q", scopes)
	}
}

// A mount that the registry or the token server refuses is no failure, and an upload that was begun in its place
// is used.
func TestMountRefused(t *testing.T) {
	for _, status := range []int{202, 401, 403, 404, 405, 500} {
		u := newUploads()
		u.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Query().Get("mount") == "" || status == 202 {
				return false
			}
			w.WriteHeader(status)
			return true
		}
		d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
		data := noise(1000)
		up := d.Upload(describe(data))
		if ok, err := up.Mount(context.Background(), "other/repo"); ok || err != nil {
			t.Errorf("%d: %v, %v", status, ok, err)
		}
		if err := up.Send(context.Background(), bytes.NewReader(data), nil); err != nil || !u.has(data) {
			t.Errorf("%d: %v", status, err)
		}
		if status == 202 && u.count("POST") != 1 {
			t.Errorf("%q", u.seen)
		}
	}
}

// Another process goes on where an upload stands, at the address that was noted last, also of one that was begun in place
// of a mount. An upload that the registry has not, or knows to be complete or empty, changes nothing.
func TestUploadResumed(t *testing.T) {
	for _, mount := range []bool{false, true} {
		u := newUploads()
		host := serve(t, u)
		data := noise(3 << 20)
		u.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.Method == "PATCH" {
				r.Body = io.NopCloser(io.LimitReader(r.Body, 2<<20))
				u.upload(nowhere{}, r, r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
				w.WriteHeader(http.StatusForbidden) // which ends it
				return true
			}
			return false
		}
		first := openPush(t, host+"/test/repo:1", Options{}).Upload(describe(data))
		if mount {
			if ok, err := first.Mount(context.Background(), "other/repo"); ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		var noted []string
		first.Note(func(address string) { noted = append(noted, address) })
		if err := first.Send(context.Background(), bytes.NewReader(data), nil); !errdefs.IsPermissionDenied(err) || len(noted) == 0 {
			t.Fatalf("mount %v: %v, noted %q", mount, err, noted)
		}
		u.fault = nil
		second := openPush(t, host+"/test/repo:1", Options{})
		for _, address := range []string{"", "x", "http://user:pass@" + host + "/v2/", "http://" + host + "/v2/test/repo/blobs/uploads/none", "http://127.0.0.1:1/x"} {
			if second.Upload(describe(data)).Resume(context.Background(), address) {
				t.Errorf("resumed at %q", address)
			}
		}
		if second.Upload(describe(data[:1<<20])).Resume(context.Background(), noted[len(noted)-1]) {
			t.Error("an upload with more bytes than the blob is taken for its own")
		}
		up := second.Upload(describe(data))
		if !up.Resume(context.Background(), noted[len(noted)-1]) {
			t.Fatal("it does not go on")
		}
		var began int64 = -1
		err := up.Send(context.Background(), bytes.NewReader(data), func(at int64) {
			if began < 0 {
				began = at
			}
		})
		if err != nil || !u.has(data) || began != 2<<20 || u.count("POST") != 1 {
			t.Errorf("mount %v: %v; it went on at byte %d after %q", mount, err, began, u.seen)
		}
	}
}

// A peer that takes nothing is given up.
func TestUploadStalls(t *testing.T) {
	u := newUploads()
	var once atomic.Bool
	end := make(chan struct{})
	u.fault = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method != "PATCH" || once.Swap(true) {
			return false
		}
		<-end
		return true
	}
	d := openPush(t, serve(t, u)+"/test/repo:1", Options{})
	t.Cleanup(func() { close(end) })
	d.at.calm.time = 200 * time.Millisecond
	data := noise(32 << 20)
	if err := send(d, data); err != nil || !u.has(data) {
		t.Error(err)
	}
}

func TestUploaded(t *testing.T) {
	for s, want := range map[string]int64{"0-0": 0, "0-9": 10, "bytes=0-9": 10, "": -1, "1-9": -1, "0-": -1, "0--1": -1, "0-99999999999999999999": -1, "x": -1} {
		got, ok := uploaded(s)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %v", s, got, ok)
		}
	}
}

func FuzzUploaded(f *testing.F) {
	for _, s := range []string{"0-0", "0-9", "bytes=0-9", "-", "0-99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := uploaded(s)
		if n < 0 || !ok && n != 0 {
			t.Errorf("%q: %d, %v", s, n, ok)
		}
		if ok && n > 0 {
			if again, ok := uploaded(fmt.Sprintf("0-%d", n-1)); n != 1 && (!ok || again != n) {
				t.Errorf("%q: %d, then %d", s, n, again)
			}
		}
	})
}
