// SPDX-License-Identifier: Apache-2.0

package native

import (
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func descriptorMessage(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

func descriptorOf(m *types.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: m.GetMediaType(), Digest: digest.Digest(m.GetDigest()), Size: m.GetSize(), Annotations: m.GetAnnotations(),
	}
}
