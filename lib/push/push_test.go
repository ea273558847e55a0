// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/state"
)

const (
	layerType = ocispec.MediaTypeImageLayerGzip
	amd64     = "linux/amd64"
	arm64     = "linux/arm64"
)

func TestPush(t *testing.T) {
	s, r := newStore(t), newServer(t)
	large := s.blob(layerType, noise(3<<20, 1))
	m := s.manifest(amd64, s.blob(layerType, noise(1000, 2)), large)
	s.name("docker.io/library/app:1", m)
	var mu sync.Mutex
	last := map[digest.Digest]progress.Status{}
	opt := options()
	opt.Progress = func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		last[e.Descriptor.Digest] = e.Status
	}
	to := r.host + "/team/app:2"
	res, err := pushText(ctx, s.d, "app:1", to, opt)
	if err != nil {
		t.Fatal(err)
	}
	if res.Name != to || res.Target.Digest != m.Digest || res.Uploaded != 3 || last[large.Digest] != progress.Done || last[m.Digest] != progress.Done {
		t.Errorf("%+v, %v", res, last)
	}
	if status, data, _ := r.get("team/app/manifests/2"); status != 200 || digest.FromBytes(data) != m.Digest {
		t.Errorf("the registry has %d %s", status, data)
	}
	if status, data, _ := r.get("team/app/blobs/" + large.Digest.String()); status != 200 || digest.FromBytes(data) != large.Digest {
		t.Errorf("the registry has %d, %d bytes", status, len(data))
	}
	// Again: nothing is sent.
	r.set(nil)
	if res, err = pushText(ctx, s.d, "app:1", to, opt); err != nil || res.Existing != 3 || last[m.Digest] != progress.Exists {
		t.Errorf("again: %+v, %v", res, err)
	}
	if n := r.count("POST", "") + r.count("PUT", "") + r.count("PATCH", ""); n > 0 {
		t.Errorf("again: %q", r.seen)
	}
	// By digest: no tag is made.
	if res, err = pushText(ctx, s.d, "app:1", r.host+"/by/digest@"+m.Digest.String(), opt); err != nil || res.Target.Digest != m.Digest {
		t.Errorf("by digest: %+v, %v", res, err)
	}
	if status, _, _ := r.get("by/digest/manifests/" + m.Digest.String()); status != 200 {
		t.Error("by digest: it is not there")
	}
	other := "sha256:" + strings.Repeat("0", 64)
	if _, err = pushText(ctx, s.d, "app:1", r.host+"/by/digest@"+other, opt); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("by another digest: %v", err)
	}
}

// The names of a push are in no place before all that they lead to.
func TestOrder(t *testing.T) {
	s, r := newStore(t), newServer(t)
	inner := s.index(s.manifest(amd64, s.blob(layerType, noise(10, 1))))
	top := s.index(inner, s.manifest(arm64, s.blob(layerType, noise(10, 2))))
	s.name("docker.io/library/app:1", top)
	if _, err := pushText(ctx, s.d, "app:1", r.host+"/app:1", options()); err != nil {
		t.Fatal(err)
	}
	var puts []string
	for _, q := range r.seen {
		if what, ok := strings.CutPrefix(q, "PUT "); ok {
			puts = append(puts, what[strings.LastIndex(what, "/")+1:])
		}
	}
	at := func(id string) int { return slices.Index(puts, id) }
	if n := len(puts); at("1") != n-1 || at(inner.Digest.String()) < n-3 || at(inner.Digest.String()) < 5-1 {
		t.Errorf("%q", puts)
	}
}

// What of an index is pushed depends on what is here, on what the registry has and on what is asked for.
func TestIndex(t *testing.T) {
	s := newStore(t)
	a, b := s.manifest(amd64, s.blob(layerType, noise(10, 1))), s.manifest(arm64, s.blob(layerType, noise(10, 2)))
	gone := s.manifest("linux/s390x", s.blob(layerType, noise(10, 3)))
	os.Remove(content.Path(s.d, gone.Digest))
	s.name("docker.io/library/whole:1", s.index(a, b))
	part := s.index(a, b, gone)
	s.name("docker.io/library/part:1", part)
	s.name("docker.io/library/one:1", s.index(a, gone))
	whole := s.index(a, b)
	for name, c := range map[string]struct {
		image     string
		platforms []string
		all       bool
		has       bool // the registry has what is gone
		want      digest.Digest
		entries   int
		fails     func(error) bool
		text      string
	}{
		"whole":              {image: "whole:1", want: whole.Digest, entries: 2},
		"whole, all":         {image: "whole:1", all: true, want: whole.Digest, entries: 2},
		"part":               {image: "part:1", entries: 2},
		"part, all":          {image: "part:1", all: true, fails: errdefs.IsNotFound, text: "linux/s390x"},
		"part, at registry":  {image: "part:1", has: true, want: part.Digest, entries: 3},
		"all, at registry":   {image: "part:1", has: true, all: true, want: part.Digest, entries: 3},
		"one left":           {image: "one:1", want: a.Digest},
		"one platform":       {image: "whole:1", platforms: []string{arm64}, want: b.Digest},
		"all platforms":      {image: "whole:1", platforms: []string{arm64, amd64}, want: whole.Digest, entries: 2},
		"two platforms":      {image: "part:1", platforms: []string{arm64, amd64}, entries: 2},
		"a platform is gone": {image: "part:1", platforms: []string{"linux/s390x"}, fails: errdefs.IsNotFound, text: "ctr-pull"},
		"no such platform":   {image: "part:1", platforms: []string{"linux/386"}, fails: errdefs.IsNotFound, text: "linux/amd64, linux/arm64, linux/s390x"},
	} {
		r := newServer(t)
		if c.has {
			r.wrap = func(w http.ResponseWriter, q *http.Request) bool {
				if !strings.HasSuffix(q.URL.Path, gone.Digest.String()) {
					return false
				}
				w.Header().Set("Docker-Content-Digest", gone.Digest.String())
				w.Header().Set("Content-Type", gone.MediaType)
				return true
			}
			inner := r.inner
			r.inner = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if q.Method == "PUT" && strings.HasSuffix(q.URL.Path, "/manifests/1") {
					w.Header().Set("Docker-Content-Digest", part.Digest.String())
					w.WriteHeader(http.StatusCreated)
					return
				}
				inner.ServeHTTP(w, q)
			})
		}
		opt := options()
		opt.Platforms, opt.AllPlatforms = c.platforms, c.all
		var warned []string
		opt.Warn = func(text string) { warned = append(warned, text) }
		res, err := pushText(ctx, s.d, c.image, r.host+"/app:1", opt)
		if c.fails != nil {
			var hint interface{ Hint() string }
			text := ""
			if errors.As(err, &hint) {
				text = hint.Hint()
			}
			if err == nil || !c.fails(err) || !strings.Contains(err.Error()+text, c.text) {
				t.Errorf("%s: %v; %s", name, err, text)
			}
			if n := r.count("PUT", "/manifests/"); n > 0 {
				t.Errorf("%s: %q", name, r.seen)
			}
			continue
		}
		if err != nil || c.want != "" && res.Target.Digest != c.want {
			t.Errorf("%s: %+v, %v", name, res.Target, err)
			continue
		}
		if wantsWarning := c.want != whole.Digest && c.want != part.Digest && c.platforms == nil; wantsWarning != (len(warned) == 1) {
			t.Errorf("%s: warnings %q", name, warned)
		}
		if c.has {
			continue
		}
		_, data, _ := r.get("app/manifests/1")
		var x ocispec.Index
		if err := json.Unmarshal(data, &x); err != nil || len(x.Manifests) != c.entries || c.entries > 0 && x.Annotations["org.example"] != "kept" {
			t.Errorf("%s: %s, %v", name, data, err)
		}
	}
}

// A blob that was discarded is no loss where the registry has it, and is named where it has not, before
// anything is sent.
func TestMissingBlob(t *testing.T) {
	s, r := newStore(t), newServer(t)
	gone, large := s.blob(layerType, noise(100, 1)), s.blob(layerType, noise(2<<20, 2))
	s.name("docker.io/library/app:1", s.manifest(amd64, gone, large))
	os.Remove(content.Path(s.d, gone.Digest))
	_, err := pushText(ctx, s.d, "app:1", r.host+"/app:1", options())
	var missing *MissingError
	if !errors.As(err, &missing) || missing.Digest != gone.Digest || !strings.Contains(missing.Hint(), "ctr-pull") {
		t.Errorf("%v", err)
	}
	if n := r.count("PATCH", "") + r.count("PUT", ""); n > 0 {
		t.Errorf("%q", r.seen)
	}
	w := newStore(t)
	w.name("docker.io/library/other:1", w.manifest(amd64, w.blob(layerType, noise(100, 1))))
	if _, err := pushText(ctx, w.d, "other:1", r.host+"/app:2", options()); err != nil {
		t.Fatal(err)
	}
	if _, err := pushText(ctx, s.d, "app:1", r.host+"/app:1", options()); err != nil {
		t.Error(err)
	}
}

// A damaged file is told from a registry's failure.
func TestDamagedBlob(t *testing.T) {
	s, r := newStore(t), newServer(t)
	b := s.blob(layerType, noise(2<<20, 1))
	s.name("docker.io/library/app:1", s.manifest(amd64, b))
	path := content.Path(s.d, b.Digest)
	os.Chmod(path, 0o600)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("damage"), 1<<20)
	f.Close()
	if _, err := pushText(ctx, s.d, "app:1", r.host+"/app:1", options()); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), b.Digest.Encoded()[:12]) {
		t.Errorf("%v", err)
	}
	os.Truncate(path, 5)
	if _, err := pushText(ctx, s.d, "app:1", r.host+"/app:1", options()); !errdefs.IsDataLoss(err) {
		t.Errorf("cut off: %v", err)
	}
}

// What was pushed to one repository is mounted into another one of the registry.
func TestMount(t *testing.T) {
	s, r := newStore(t), newServer(t)
	b := s.blob(layerType, noise(2000, 1), "containerd.io/distribution.source.127.0.0.1", "no/such")
	s.name("docker.io/library/app:1", s.manifest(amd64, b))
	var asked []string
	mounting := func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method == "HEAD" && strings.Contains(q.URL.Path, "/team/two/blobs/") {
			w.WriteHeader(http.StatusNotFound) // which this registry, of one store, does not say
			return true
		}
		if q.URL.Query().Get("mount") == "" {
			return false
		}
		from := q.URL.Query().Get("from")
		r.mu.Lock()
		asked = append(asked, from)
		r.mu.Unlock()
		if from != "team/one" {
			return false
		}
		w.WriteHeader(http.StatusCreated)
		return true
	}
	r.set(mounting)
	if res, err := pushText(ctx, s.d, "app:1", r.host+"/team/one:1", options()); err != nil || res.Uploaded != 2 || !slices.Contains(asked, "no/such") {
		t.Fatalf("%+v, %v, %q", res, err, asked)
	}
	s.d.View(ctx, func(tx *state.Tx) error {
		c, err := content.Get(tx, "ns", b.Digest)
		if got := c.Labels["containerd.io/distribution.source.127.0.0.1"]; err != nil || got != "no/such,team/one" {
			t.Errorf("label %q, %v", got, err)
		}
		return nil
	})
	if res, err := pushText(ctx, s.d, "app:1", r.host+"/team/two:1", options()); err != nil || res.Mounted != 2 || res.Sent != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

// An index that names one document many times, on several levels, costs what it has and not what it spans.
func TestRepeatedIndex(t *testing.T) {
	s, r := newStore(t), newServer(t)
	target := s.manifest(amd64, s.blob(layerType, noise(10, 1)))
	for range 4 {
		target = s.index(slices.Repeat([]ocispec.Descriptor{target}, 60)...)
	}
	s.name("docker.io/library/many:1", target)
	short, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if res, err := pushText(short, s.d, "many:1", r.host+"/app:many", options()); err != nil || res.Target.Digest != target.Digest {
		t.Errorf("%+v, %v", res, err)
	}
	if n := r.count("PUT", "/manifests/"); n != 5 {
		t.Errorf("%d manifests were put", n)
	}
}

// Of two entries of an index about one manifest, the one that is wanted and not here counts.
func TestWantedTwin(t *testing.T) {
	s, r := newStore(t), newServer(t)
	here := s.manifest(amd64, s.blob(layerType, noise(10, 1)))
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}
	twins := []ocispec.Descriptor{absent, absent}
	for i, platform := range []string{"linux/riscv64", arm64} {
		p, err := image.ParsePlatform(platform)
		if err != nil {
			t.Fatal(err)
		}
		twins[i].Platform = &p
	}
	s.name("docker.io/library/twin:1", s.index(here, twins[0], twins[1]))
	opt := options()
	opt.Platforms = []string{amd64, arm64}
	if res, err := pushText(ctx, s.d, "twin:1", r.host+"/app:twin", opt); !errdefs.IsNotFound(err) {
		t.Errorf("%+v, %v", res, err)
	}
}

// An index may name what only another namespace has: that is not here, and is not pushed.
func TestOtherNamespace(t *testing.T) {
	s, r := newStore(t), newServer(t)
	mine := s.manifest(amd64, s.blob(layerType, noise(10, 1)))
	secret := s.blob(layerType, noise(10, 2))
	theirs := s.manifest(arm64, secret)
	s.name("docker.io/library/app:1", s.index(mine, theirs))
	s.name("docker.io/library/direct:1", theirs)
	away := func(all ...ocispec.Descriptor) {
		t.Helper()
		err := s.d.Update(ctx, nil, func(tx *state.Tx) error {
			for _, d := range all {
				if err := errors.Join(content.Remove(tx, "ns", d.Digest), content.Merge(tx, "other", content.Blob{Digest: d.Digest, Size: d.Size})); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	away(secret)
	if _, err := pushText(ctx, s.d, "direct:1", r.host+"/direct:1", options()); !errdefs.IsNotFound(err) {
		t.Errorf("a layer: %v", err)
	}
	away(theirs)
	if _, err := pushText(ctx, s.d, "direct:1", r.host+"/direct:1", options()); !errdefs.IsNotFound(err) {
		t.Errorf("a manifest: %v", err)
	}
	if res, err := pushText(ctx, s.d, "app:1", r.host+"/app:1", options()); err != nil || res.Target.Digest != mine.Digest {
		t.Errorf("an index: %+v, %v", res, err)
	}
	for _, repository := range []string{"app", "direct"} {
		if status, _, _ := r.get(repository + "/blobs/" + secret.Digest.String()); status != http.StatusNotFound {
			t.Errorf("%s has another namespace's layer: %d", repository, status)
		}
	}
}

// Whatever has a manifest is pushed: unknown types, artifacts with a subject, Docker's format.
func TestArtifacts(t *testing.T) {
	s, r := newStore(t), newServer(t)
	subject := s.manifest(amd64, s.blob(layerType, noise(10, 1)))
	empty := s.blob("application/vnd.oci.empty.v1+json", []byte("{}"))
	signature := s.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x.signature",
		Config: empty, Layers: []ocispec.Descriptor{s.blob("text/plain", []byte("signed"))}, Subject: &subject,
	})
	old := s.json("application/vnd.oci.artifact.manifest.v1+json", map[string]any{
		"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []ocispec.Descriptor{s.blob("text/plain", []byte("blob"))},
	})
	docker := s.json("application/vnd.docker.distribution.manifest.v2+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
		"config": empty, "layers": []ocispec.Descriptor{s.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", noise(100, 4))},
	})
	for name, target := range map[string]ocispec.Descriptor{"subject": subject, "signature": signature, "old": old, "docker": docker} {
		s.name("docker.io/library/"+name+":1", target)
		res, err := pushText(ctx, s.d, name+":1", r.host+"/app:"+name, options())
		if err != nil || res.Target.Digest != target.Digest {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
		if status, _, header := r.get("app/manifests/" + name); status != 200 || header.Get("Content-Type") != target.MediaType {
			t.Errorf("%s: %d, %v", name, status, header)
		}
	}
	// The registry lists no referrers, so the tag made of the subject's digest does.
	_, data, _ := r.get("app/manifests/" + strings.Replace(subject.Digest.String(), ":", "-", 1))
	var x ocispec.Index
	if err := json.Unmarshal(data, &x); err != nil || len(x.Manifests) != 1 || x.Manifests[0].Digest != signature.Digest || x.Manifests[0].ArtifactType != "application/x.signature" {
		t.Errorf("referrers %s, %v", data, err)
	}
	// A push that was killed before it came to that is made good by the next one.
	r.set(nil)
	tag := "app/manifests/" + strings.Replace(subject.Digest.String(), ":", "-", 1)
	w := httptest.NewRecorder()
	r.inner.ServeHTTP(w, httptest.NewRequest("DELETE", "/v2/"+tag, nil))
	if status, _, _ := r.get(tag); status != 404 {
		t.Fatalf("the referrers are still there: %d", status)
	}
	if _, err := pushText(ctx, s.d, "signature:1", r.host+"/app:signature", options()); err != nil {
		t.Error(err)
	}
	if _, data, _ := r.get(tag); !strings.Contains(string(data), signature.Digest.String()) {
		t.Errorf("referrers after a kill: %s", data)
	}
	if n := r.count("PUT", "/manifests/signature"); n > 0 {
		t.Error("the tag was put again")
	}
	schema1 := s.json("application/vnd.docker.distribution.manifest.v1+prettyjws", map[string]any{"schemaVersion": 1, "fsLayers": []string{}})
	s.name("docker.io/library/schema1:1", schema1)
	if _, err := pushText(ctx, s.d, "schema1:1", r.host+"/app:1", options()); !errdefs.IsNotImplemented(err) {
		t.Errorf("schema 1: %v", err)
	}
}

// A layer that may not be passed on stays where it is, unless its owner says otherwise.
func TestNondistributable(t *testing.T) {
	s, r := newStore(t), newServer(t)
	//lint:ignore SA1019 registries still have them
	l := s.blob(ocispec.MediaTypeImageLayerNonDistributableGzip, noise(10, 1))
	l.URLs = []string{"https://example.invalid/layer"}
	s.name("docker.io/library/app:1", s.manifest(amd64, l))
	opt := options()
	for _, sent := range []int{1, 2} {
		r.set(nil)
		if _, err := pushText(ctx, s.d, "app:1", r.host+"/app:"+string(rune('0'+sent)), opt); err != nil {
			t.Fatal(err)
		}
		if status, _, _ := r.get("app/blobs/" + l.Digest.String()); (status == 200) != (sent == 2) {
			t.Errorf("%d: the registry answers %d", sent, status)
		}
		opt.Nondistributable = true
	}
}

func TestCandidates(t *testing.T) {
	got := candidates([]string{"a/b", "x", "team/app", "team/x/y", "team/x/z", "team/x"}, "team/x")
	if want := []string{"team/x/y", "team/x/z", "team/app"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
