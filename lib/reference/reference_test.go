// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	distribution "github.com/distribution/reference"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var references = []string{
	"redis", "redis:7", "library/redis", "docker.io/redis", "index.docker.io/a/b:c", "docker.io/library/a/b", "localhost/a", "localhost:5000/a/b:1",
	"quay.io/x/y@" + someDigest, "x:1@" + someDigest, "[::1]:80/a", "[fe80::1]/a:b", "Host/a", "a--b/c__d.e_f", "127.0.0.1:1/x",
	"", "/", "a/", "/a", "A", "a/B", "a:", "a@", "a:-b", "a:.b", "a..b", "a___b", "a/b:c/d", "a@sha256:12", "a@md5:0123456789abcdef0123456789abcdef",
	"http://x/y", "a b", "-a/b", "a-/b", "x.-y/z", "x.y-/z", "x.:80/z", "x.y:/z", "x.y:8a/z", "[::1/a", "a:b:c", "docker.io/" + strings.Repeat("a", 256),
	"a:" + strings.Repeat("b", 128), "a:" + strings.Repeat("b", 129), someDigest[7:], "a_b.c/d", "a\n", "é/x", "x/é", "İ.x/y",
}

func TestParse(t *testing.T) {
	for in, want := range map[string][2]string{
		"redis":                      {"docker.io/library/redis:latest", "redis:latest"},
		"docker.io/u/redis:7":        {"docker.io/u/redis:7", "u/redis:7"},
		"localhost/a":                {"localhost/a:latest", "localhost/a:latest"},
		"index.docker.io/x":          {"docker.io/library/x:latest", "x:latest"},
		"quay.io/a/b@" + someDigest:  {"quay.io/a/b@" + someDigest, "quay.io/a/b@" + someDigest},
		"x:1@" + someDigest:          {"docker.io/library/x:1@" + someDigest, "x:1@" + someDigest},
		"docker.io/library/a/b:tag":  {"docker.io/library/a/b:tag", "library/a/b:tag"},
		"registry.example:5000/a:1.": {"registry.example:5000/a:1.", "registry.example:5000/a:1."},
	} {
		r, err := Parse(in)
		if err != nil || r.String() != want[0] || r.Familiar() != want[1] {
			t.Errorf("%q: %q, %q, %v", in, r, r.Familiar(), err)
		}
	}
}

func TestParseAddress(t *testing.T) {
	if _, err := Parse("docker://quay.io/a/b"); err == nil || !strings.Contains(err.Error(), `"docker://" does not belong to it`) {
		t.Errorf("an address: %v", err)
	}
}

// FuzzParse holds Parse to the library that defines what a reference is.
func FuzzParse(f *testing.F) {
	for _, s := range references {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(s)
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", s, err)
		}
		want, theirs := distribution.ParseNormalizedNamed(s)
		if theirs == nil && distribution.Domain(want) == "" {
			return // a host that is none became a part of the path: there is no registry to ask
		}
		if (err == nil) != (theirs == nil) {
			t.Fatalf("%q: %v, the library says %v", s, err, theirs)
		}
		if err != nil {
			return
		}
		want = distribution.TagNameOnly(want)
		if got.String() != want.String() || got.Familiar() != distribution.FamiliarString(want) || got.Domain != distribution.Domain(want) {
			t.Errorf("%q: %q (%q), the library says %q (%q)", s, got, got.Familiar(), want, distribution.FamiliarString(want))
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q: parsed again it is %v, %v", s, again, err)
		}
	})
}
