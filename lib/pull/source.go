// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is where an image comes from. A registry is one, see lib/pull/remote; of a [Local] there is none.
type Source interface {
	// Resolve gives the descriptor that the reference stands for.
	Resolve(ctx context.Context) (ocispec.Descriptor, error)
	// Manifest gives an index or a manifest, unchecked.
	Manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)
	// Blob gives length bytes of a blob from offset on, unchecked.
	Blob(ctx context.Context, desc ocispec.Descriptor, offset, length int64) (io.ReadCloser, error)
	// Ranges tells whether a blob can be had in parts.
	Ranges() bool
	// Distrust says that a blob came with other bytes than it should have. It reports whether somebody else has it.
	Distrust(blob digest.Digest) bool
	// Close lets go of connections.
	Close()
}
