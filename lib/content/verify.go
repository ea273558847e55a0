// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/state"
)

// Verify reads the file of a blob. One that has not its digest is errdefs.ErrDataLoss.
func Verify(ctx context.Context, d *state.Dir, dg digest.Digest) (err error) {
	f, err := Open(d, dg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := dg.Algorithm().Hash()
	for buf := make([]byte, 1<<20); ; {
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("content %q: %w", dg, err)
		}
	}
	if got := digest.NewDigest(dg.Algorithm(), sum); got != dg {
		return fmt.Errorf("content %q: the file has digest %s: %w", dg, got, errdefs.ErrDataLoss)
	}
	return nil
}
