// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
)

// dockerLayer is the media type of a layer of Docker's image format, without compression.
const dockerLayer = "application/vnd.docker.image.rootfs.diff.tar"

// dockerManifest is what is stored of an image of a docker-archive, which has no manifest of its own. The fields
// are in the order in which containerd writes them, so that both give an image the same digest.
type dockerManifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
}

// convert makes a manifest of each image of a docker-archive.
func (in *intake) convert(ctx context.Context, all []saved) (items []item, err error) {
	for _, s := range all {
		m := dockerManifest{SchemaVersion: 2, MediaType: image.DockerManifest, Layers: []ocispec.Descriptor{}}
		if m.Config, err = in.file(s.Config); err != nil {
			return nil, err
		}
		m.Config.MediaType = image.DockerConfig
		for _, name := range s.Layers {
			l, err := in.file(name)
			if err != nil {
				return nil, err
			}
			if l.MediaType, err = in.layerType(l.Digest); err != nil {
				return nil, err
			}
			m.Layers = append(m.Layers, l)
		}
		it := item{}
		for _, tag := range s.RepoTags {
			if err := it.add(tag); err != nil {
				return nil, malformed("%s: %v", manifestFile, err)
			}
		}
		if it.target, err = in.putJSON(ctx, m); err != nil {
			return nil, err
		}
		it.target.MediaType = image.DockerManifest
		items = merge(items, it)
	}
	return items, nil
}

// layerType looks at the first bytes of a layer.
func (in *intake) layerType(dg digest.Digest) (string, error) {
	f, err := content.Open(in.d, dg)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", err
	}
	switch {
	case string(head[:2]) == "\x1f\x8b":
		return dockerLayer + ".gzip", nil
	case string(head) == "\x28\xb5\x2f\xfd":
		return dockerLayer + ".zstd", nil
	}
	return dockerLayer, nil
}

// savedNames gives the names that manifest.json has for configurations, where it stands beside an OCI layout.
// What is wrong in it does not count there.
func (in *intake) savedNames(all []saved) (items []item) {
	for _, s := range all {
		it := item{}
		var err error
		if it.target, err = in.file(s.Config); err != nil {
			continue
		}
		for _, tag := range s.RepoTags {
			if err := it.add(tag); err != nil {
				continue
			}
		}
		items = append(items, it)
	}
	return items
}

// nameBy gives images that index.json has no name for those that manifest.json has.
func (in *intake) nameBy(ctx context.Context, all, docker []item) error {
	for i := range all {
		it := &all[i]
		if len(it.names) > 0 || it.tag != "" || !image.IsManifest(it.target.MediaType) {
			continue
		}
		data, err := in.read(ctx, it.target)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		m, err := image.ParseArtifact(data, it.target.MediaType)
		if err != nil {
			return malformed("%s: %v", it.target.Digest, err)
		}
		for _, d := range docker {
			if d.target.Digest == m.Config.Digest {
				it.names = append(it.names, d.names...)
			}
		}
	}
	return nil
}
