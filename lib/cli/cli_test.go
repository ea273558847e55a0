// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"testing"

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
