// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/state"
)

// world is a server with a state directory, and a registry on loopback that wants a password.
type world struct {
	*Server
	images imageService
	host   string
	stall  chan struct{} // not nil: blobs wait for its end
	log    bytes.Buffer
}

// configured gives the defaults with a change.
func configured(change func(*config.Config)) func() *config.Config {
	c := config.Default()
	change(c)
	return func() *config.Config { return c }
}

func newWorld(t testing.TB, o Options) *world {
	t.Helper()
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "kubelet" || password != "secret-word" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(rw, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		if w.stall != nil && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			select {
			case <-w.stall:
			case <-r.Context().Done():
			}
		}
		inner.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	w.host = strings.TrimPrefix(srv.URL, "http://")
	o.Dir, o.Log = d, slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.Server = New(o)
	w.images = imageService{s: w.Server}
	return w
}

// push makes an image whose configuration has a user, and gives its id.
func (w *world) push(t *testing.T, user string, tags ...string) (v1.Image, string) {
	t.Helper()
	img, err := random.Image(100, 2)
	if err == nil {
		var c *v1.ConfigFile
		if c, err = img.ConfigFile(); err == nil {
			c = c.DeepCopy()
			c.Config.User, c.OS, c.Architecture = user, "linux", ""
			img, err = mutate.ConfigFile(img, c)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		ref, err := name.NewTag(w.host + "/" + tag)
		if err == nil {
			err = remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "kubelet", Password: "secret-word"}))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return img, id.String()
}

var good = &runtimeapi.AuthConfig{Username: "kubelet", Password: "secret-word"}

func (w *world) pull(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	r, err := w.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: auth})
	return r.GetImageRef(), err
}

func (w *world) status(t *testing.T, ref string) *runtimeapi.Image {
	t.Helper()
	r, err := w.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Verbose: true})
	if err != nil {
		t.Errorf("status of %q: %v", ref, err)
	}
	if r.GetImage() != nil && !json.Valid([]byte(r.GetInfo()["info"])) {
		t.Errorf("status of %q: info %q", ref, r.GetInfo())
	}
	return r.GetImage()
}

// An image is one, by whatever name it is asked for, and goes with all its names.
func TestImages(t *testing.T) {
	collected := 0
	w := newWorld(t, Options{Collect: func() { collected++ }})
	img, id := w.push(t, "1002:5", "app:1", "other/app:2")
	_, other := w.push(t, "www-data:5", "app:latest")
	for ref, want := range map[string]string{"/app:1": id, "/other/app:2": id, "/app": other} {
		if got, err := w.pull(t.Context(), w.host+ref, good); err != nil || got != want {
			t.Fatalf("pull of %s: %q, want %q; %v", ref, got, want, err)
		}
	}
	target, _ := img.Digest()
	one := w.status(t, id)
	tags := []string{w.host + "/app:1", w.host + "/other/app:2"}
	digests := []string{w.host + "/app@" + target.String(), w.host + "/other/app@" + target.String()}
	if one.GetId() != id || !slices.Equal(one.GetRepoTags(), tags) || !slices.Equal(one.GetRepoDigests(), digests) || one.GetUid().GetValue() != 1002 || one.GetUsername() != "" || one.GetSize() == 0 {
		t.Errorf("%v", one)
	}
	for _, ref := range slices.Concat(tags, digests, []string{id[len("sha256:"):], id[:20], w.host + "/app:1@" + target.String()}) {
		if got := w.status(t, ref); got.GetId() != id {
			t.Errorf("by %q: %v", ref, got)
		}
	}
	if got := w.status(t, w.host+"/app"); got.GetUsername() != "www-data" || got.GetUid() != nil {
		t.Errorf("%v", got)
	}
	list, err := w.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.Images) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	list, err = w.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: digests[1]}}})
	if err != nil || len(list.Images) != 1 || list.Images[0].Id != id {
		t.Errorf("%v, %v", list, err)
	}
	fs, err := w.images.ImageFsInfo(t.Context(), nil)
	if err != nil || len(fs.ImageFilesystems) != 1 || fs.ImageFilesystems[0].UsedBytes.Value == 0 || fs.ImageFilesystems[0].FsId.Mountpoint != fs.ContainerFilesystems[0].FsId.Mountpoint {
		t.Errorf("%v, %v", fs, err)
	}
	for range 2 {
		if _, err := w.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: tags[1]}}); err != nil {
			t.Error(err)
		}
		if got := w.status(t, id); got != nil {
			t.Errorf("%v is there", got)
		}
	}
	if got := w.status(t, other); got == nil || collected != 1 {
		t.Errorf("%v, %d collections", got, collected)
	}
}

// The kubelet's credentials go to the server that they are for, in each of their forms, and nowhere into a message.
func TestCredentials(t *testing.T) {
	w := newWorld(t, Options{})
	w.push(t, "", "app:1")
	pair := base64.StdEncoding.EncodeToString([]byte("kubelet:secret-word"))
	for what, c := range map[string]struct {
		auth *runtimeapi.AuthConfig
		ok   bool
	}{
		"user and password":  {good, true},
		"auth":               {&runtimeapi.AuthConfig{Auth: pair}, true},
		"its own server":     {&runtimeapi.AuthConfig{Auth: pair, ServerAddress: "http://" + w.host + "/v1/"}, true},
		"another server":     {&runtimeapi.AuthConfig{Auth: pair, ServerAddress: "https://index.docker.io/v1/"}, false},
		"none":               {nil, false},
		"wrong":              {&runtimeapi.AuthConfig{Username: "kubelet", Password: "wrong-word"}, false},
		"auth is no base64":  {&runtimeapi.AuthConfig{Auth: "secret-word"}, false},
		"auth without colon": {&runtimeapi.AuthConfig{Auth: "c2VjcmV0LXdvcmQ="}, false},
	} {
		_, err := w.pull(t.Context(), w.host+"/app:1", c.auth)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
		if text := fmt.Sprint(err) + w.log.String(); strings.Contains(text, "-word") || strings.Contains(text, pair) {
			t.Errorf("%s: the secret is in %q", what, text)
		}
	}
}

func TestPullTimeout(t *testing.T) {
	w := newWorld(t, Options{Config: configured(func(c *config.Config) { c.CRI.ImagePullProgressTimeout = config.Duration(100 * time.Millisecond) })})
	w.push(t, "", "app:1")
	w.stall = make(chan struct{})
	if _, err := w.pull(t.Context(), w.host+"/app:1", good); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no progress") {
		t.Errorf("a registry that sends nothing: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.pull(ctx, w.host+"/app:1", good); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was cancelled: %v", err)
	}
}

func TestPinned(t *testing.T) {
	w := newWorld(t, Options{})
	c := config.Default()
	w.config = func() *config.Config { return c }
	c.CRI.PinnedImages = map[string]string{"sandbox": w.host + "/pause:3"}
	_, id := w.push(t, "", "pause:3")
	if _, err := w.pull(t.Context(), w.host+"/pause:3", good); err != nil {
		t.Fatal(err)
	}
	c.CRI.PinnedImages = nil // the label stays
	if one := w.status(t, id); !one.GetPinned() {
		t.Errorf("%v", one)
	}
}

func TestBadImageRequests(t *testing.T) {
	w := newWorld(t, Options{})
	for _, spec := range []*runtimeapi.ImageSpec{nil, {}, {Image: "UPPER case"}, {Image: "a@sha256:1"}, {Image: strings.Repeat("a/", 400)}} {
		_, err1 := w.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec})
		_, err2 := w.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: spec})
		_, err3 := w.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: spec})
		for _, err := range []error{err1, err2, err3} {
			if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "image: ") {
				t.Errorf("%v: %v", spec, err)
			}
		}
	}
	_, err := w.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "a", RuntimeHandler: "none"}})
	if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "runtime_handler: ") {
		t.Error(err)
	}
	for _, id := range []string{"sha256:" + strings.Repeat("0", 64), strings.Repeat("0", 64), "0123"} {
		if _, err := w.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: id}}); err != nil {
			t.Errorf("an id that there is not: %v", err)
		}
	}
}

func FuzzPickImage(f *testing.F) {
	all := []criImage{
		{about: about{id: "sha256:aa"}, names: []string{"docker.io/library/a:1", "sha256:aa"}},
		{about: about{id: "sha256:ab"}, names: []string{"docker.io/library/b:1", "nonsense name"}},
	}
	for _, s := range []string{"a:1", "sha256:aa", "a", "b:1@sha256:" + strings.Repeat("0", 64), "nonsense name", "", "@", "sha256:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		one, err := pickImage(all, ref)
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", ref, err)
		}
		if err == nil && one.id == "" {
			t.Errorf("%q: nothing", ref)
		}
		serverHost(ref)
	})
}
