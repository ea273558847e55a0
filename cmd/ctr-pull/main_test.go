// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/image"
)

func TestWithDigest(t *testing.T) {
	d := digest.FromString("x")
	for _, name := range []string{"docker.io/library/a:1", "docker.io/library/a@" + d.String()} {
		got := withDigest(image.Image{Name: name, Target: ocispec.Descriptor{Digest: d}})
		if strings.Count(got, "@") != 1 || !strings.HasSuffix(got, "@"+d.String()) {
			t.Errorf("%q", got)
		}
	}
}
