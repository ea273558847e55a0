// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/pull/remote"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/state"
)

// What is no image, or one of a kind that nobody here reads, is neither damaged nor the registry's fault.
func TestStatusOfWhatIsNoImage(t *testing.T) {
	const (
		oci     = "application/vnd.oci.image.manifest.v1+json"
		schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	)
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + digest.FromString("x").String() + `"]}}`
	manifest := func(configType, layerType string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":1}]}`,
			oci, configType, digest.FromString(config), len(config), layerType, digest.FromString("x"))
	}
	for name, c := range map[string]struct{ typ, document, text string }{
		"schema 1": {schema1, `{"schemaVersion":1,"name":"app","fsLayers":[]}`, "schema 1"},
		"layer":    {oci, manifest("application/vnd.oci.image.config.v1+json", "application/x-alien"), "x-alien"},
		"artifact": {"application/vnd.oci.artifact.manifest.v1+json", `{"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}`, "artifact"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				fmt.Fprint(w, config)
				return
			}
			w.Header().Set("Content-Type", c.typ)
			w.Header().Set("Content-Length", fmt.Sprint(len(c.document)))
			w.Header().Set("Docker-Content-Digest", digest.FromString(c.document).String())
			if r.Method == http.MethodGet {
				fmt.Fprint(w, c.document)
			}
		}))
		base := t.TempDir()
		d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "state")})
		if err != nil {
			t.Fatal(err)
		}
		ref := image.Reference{Domain: strings.TrimPrefix(s.URL, "http://"), Path: "app", Tag: "1"}
		_, err = pull.Image(t.Context(), d, ref, pull.Options{Open: remote.Open(registry.Options{}, nil), Namespace: "ns", Platforms: []string{"linux/amd64"}})
		s.Close()
		if err = withStatus(err); cli.Status(err) != cli.ExitOther || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: status %d: %v", name, cli.Status(err), err)
		}
	}
}
