// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

func TestStatus(t *testing.T) {
	for want, err := range map[int]error{
		0: nil, 1: errors.New("x"), 2: errdefs.ErrInvalidArgument, 3: fmt.Errorf("image %q: %w", "a", errdefs.ErrNotFound),
		4: errdefs.ErrAlreadyExists, 5: errdefs.ErrAborted, 6: errdefs.ErrUnauthenticated, 8: errdefs.ErrDataLoss, 7: Exit(7), 127: WithStatus(errors.New("x"), 127),
	} {
		if got := Status(err); got != want {
			t.Errorf("Status(%v) = %d, want %d", err, got, want)
		}
	}
}

// A name that nobody can read does not fill the screen.
func TestShorten(t *testing.T) {
	long := strings.Repeat("ä", 5000)
	got := shorten("container " + long + " in namespace " + long)
	if len(got) > 2*longestWord+100 || !strings.HasPrefix(got, "container ää") || !strings.HasSuffix(got, "ää") || !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
	if whole := strings.Repeat("a", longestWord) + " b"; shorten(whole) != whole {
		t.Errorf("%q", shorten(whole))
	}
}

// What moves a cursor is shown, and so is a byte that is no UTF-8: what it was is not lost. All else stays.
func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a b~": "a b~", "a\tb": "a\tb", "ä\ufffd": "ä\ufffd", "a\nb\x1b[2J": `a\x0ab\x1b[2J`, "caf\xe9 \x9b2J": `caf\xe9 \x9b2J`, "x\u200fy\u0085": `x\u200fy\u0085`,
	} {
		if got := visible(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
