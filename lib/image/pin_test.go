// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestPin(t *testing.T) {
	d := digest.FromString("x")
	for _, name := range []string{"docker.io/library/a:1", "docker.io/library/a@" + d.String()} {
		got := Pin(name, d)
		if strings.Count(got, "@") != 1 || !strings.HasSuffix(got, "@"+d.String()) {
			t.Errorf("%q", got)
		}
	}
}
