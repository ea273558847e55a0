// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/test/world"
)

// What ctrd cannot run is called what it is, with the status of a failure that is neither the registry's nor the
// network's, and nobody is told to pull it again.
func TestKinds(t *testing.T) {
	document := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	type loose map[string]any
	blob := func(typ, text string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: typ, Digest: digest.FromString(text), Size: int64(len(text))}
	}
	chart, image := `{"name":"chart","version":"1"}`, document(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("secret")}},
	})
	documents := map[string]struct{ typ, text string }{
		"schema1": {"application/vnd.docker.distribution.manifest.v1+prettyjws", document(loose{"schemaVersion": 1, "name": "x", "fsLayers": []any{}})},
		"chart": {ocispec.MediaTypeImageManifest, document(loose{
			"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": blob("application/vnd.cncf.helm.config.v1+json", chart),
			"layers": []any{blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "secret")},
		})},
		"encrypted": {ocispec.MediaTypeImageManifest, document(loose{
			"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": blob(ocispec.MediaTypeImageConfig, image),
			"layers": []any{blob("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "secret")},
		})},
	}
	blobs := map[string]string{}
	for _, text := range []string{chart, image, "secret"} {
		blobs[digest.FromString(text).String()] = text
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		for tag, d := range documents {
			if sum := digest.FromString(d.text); id == tag || id == sum.String() {
				w.Header().Set("Content-Type", d.typ)
				w.Header().Set("Docker-Content-Digest", sum.String())
				w.Write([]byte(d.text))
				return
			}
		}
		if blobs[id] == "" && r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
		}
		w.Write([]byte(blobs[id]))
	}))
	t.Cleanup(s.Close)
	repository := strings.TrimPrefix(s.URL, "http://") + "/x:"
	w := world.New(t, bin)
	for tag, c := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"schema1":   {[]string{"ctr-pull", "-q"}, 1, "schema 1"},
		"encrypted": {[]string{"ctr-pull", "-q"}, 1, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"},
		"chart":     {[]string{"ctr-task", "run", "--rm", "--pull", "always"}, 125, "application/vnd.cncf.helm.config.v1+json"},
	} {
		r := w.Run(t, nil, append(c.args, repository+tag)...)
		if r.Status != c.status || !strings.Contains(r.Stderr, c.says) || strings.Contains(r.Stderr, "pull it again") || strings.Contains(r.Stderr, "damaged") {
			t.Errorf("%s: %s", tag, r)
		}
	}
}
