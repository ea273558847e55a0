// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image format, schema 2, beside OCI's.
const (
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// MaxManifest bounds an index, a manifest and a configuration, in bytes.
const MaxManifest = 16 << 20

// maxBlob bounds any other blob, in bytes.
const maxBlob = 1 << 62

// maxLayers is what no image reaches: overlayfs stacks at most 500.
const maxLayers = 1024

// maxEntries is what no index reaches. Each entry becomes a label of the index's record.
const maxEntries = 1000

// maxObjects is what no document reaches: each "{" in it, which is two bytes with its end, can become some hundred bytes in memory.
const maxObjects = 100_000

// checkSize bounds the memory that a document takes when it is read.
func checkSize(what string, data []byte) error {
	if len(data) > MaxManifest {
		return damaged(what, "it is larger than %d bytes", MaxManifest)
	}
	if n := bytes.Count(data, []byte("{")); n > maxObjects {
		return damaged(what, "it has %d objects, at most %d are supported", n, maxObjects)
	}
	return nil
}

// IsIndex tells whether a media type is that of an index or a manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == DockerList
}

// IsManifest tells whether a media type is that of an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == DockerManifest
}

// IsConfig tells whether a media type is that of an image configuration.
func IsConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == DockerConfig
}

// mayBeConfig tells whether a media type of a configuration says nothing: registries of old rewrote it, and
// old builders left it out. Whether the document is an image's configuration is seen when it is read.
func mayBeConfig(mediaType string) bool {
	typ, _, _ := strings.Cut(mediaType, ";")
	switch strings.ToLower(strings.TrimSpace(typ)) {
	case "", "application/octet-stream", "application/json", "text/html", "text/plain":
		return true
	}
	return false
}

// shape is what tells index and manifest apart. A document that could be read as both is refused, as
// it may have been checked as one and be used as the other.
type shape struct {
	MediaType string          `json:"mediaType"`
	Manifests json.RawMessage `json:"manifests"`
	Config    json.RawMessage `json:"config"`
	Layers    json.RawMessage `json:"layers"`
	FSLayers  json.RawMessage `json:"fsLayers"`
}

func decode(data []byte, what, mediaType string, is func(string) bool, into any) error {
	if err := checkSize(what, data); err != nil {
		return err
	}
	var s shape
	if err := json.Unmarshal(data, &s); err != nil {
		return damaged(what, "%v", err)
	}
	if s.MediaType != "" && (!is(s.MediaType) || is(mediaType) && s.MediaType != mediaType) {
		return damaged(what, "it calls itself %q, its descriptor %q", s.MediaType, mediaType)
	}
	if s.FSLayers != nil {
		return fmt.Errorf("%s: docker schema 1 is not supported: %w", what, errdefs.ErrNotImplemented)
	}
	index := s.Manifests != nil
	if index && (s.Config != nil || s.Layers != nil) {
		return damaged(what, "it is index and manifest at once")
	}
	if err := json.Unmarshal(data, into); err != nil {
		return damaged(what, "%v", err)
	}
	return nil
}

// ParseIndex reads an index or a manifest list and checks every descriptor in it. mediaType is what
// its own descriptor says. What is wrong is errdefs.ErrFailedPrecondition.
func ParseIndex(data []byte, mediaType string) (ocispec.Index, error) {
	var x ocispec.Index
	if err := decode(data, "index", mediaType, IsIndex, &x); err != nil {
		return x, err
	}
	if len(x.Manifests) > maxEntries {
		return x, damaged("index", "it has %d entries, at most %d are supported", len(x.Manifests), maxEntries)
	}
	for _, m := range x.Manifests {
		limit := int64(MaxManifest)
		if strings.HasPrefix(m.MediaType, checkpointPrefix) || strings.HasPrefix(m.MediaType, ocispec.MediaTypeImageLayer) {
			limit = maxBlob // see CheckpointParts
		}
		if err := checkDescriptor("index", m, limit); err != nil {
			return x, err
		}
	}
	return x, nil
}

// checkpointPrefix begins the media types of containerd's checkpoints (core/images/mediatypes.go).
const checkpointPrefix = "application/vnd.containerd.container."

// CheckpointParts gives the blobs that an index names itself, without a manifest, as those of containerd's checkpoints do. Of
// any other index there are none.
func CheckpointParts(x ocispec.Index) (all []ocispec.Descriptor) {
	is := false
	for _, m := range x.Manifests {
		is = is || strings.HasPrefix(m.MediaType, checkpointPrefix)
		if !IsManifest(m.MediaType) && !IsIndex(m.MediaType) {
			all = append(all, m)
		}
	}
	if !is {
		return nil
	}
	return all
}

// ParseManifest reads an image manifest and checks it. mediaType is what its descriptor says. A
// manifest of something else than an image is an [ArtifactError], beside what it says. Where the media type of the
// configuration says nothing, only the configuration can tell.
func ParseManifest(data []byte, mediaType string) (ocispec.Manifest, error) {
	m, err := ParseArtifact(data, mediaType)
	if err == nil && !IsConfig(m.Config.MediaType) && (m.ArtifactType != "" || !mayBeConfig(m.Config.MediaType)) {
		err = noImage(m)
	}
	return m, err
}

// ParseArtifact is ParseManifest for a manifest of anything: an image, or an artifact whose layers are files.
func ParseArtifact(data []byte, mediaType string) (ocispec.Manifest, error) {
	m, err := decodeManifest(data, mediaType)
	if err != nil {
		return m, err
	}
	return m, checkManifest(m)
}

func decodeManifest(data []byte, mediaType string) (m ocispec.Manifest, err error) {
	if err := decode(data, "manifest", mediaType, IsManifest, &m); err != nil {
		return m, err
	}
	if m.Config.Digest == "" {
		return m, damaged("manifest", "it has no configuration")
	}
	return m, nil
}

func checkManifest(m ocispec.Manifest) error {
	if err := checkDescriptor("manifest: configuration", m.Config, MaxManifest); err != nil {
		return err
	}
	if len(m.Layers) > maxLayers {
		return damaged("manifest", "it has %d layers, at most %d are supported", len(m.Layers), maxLayers)
	}
	for _, l := range m.Layers {
		if err := checkDescriptor("manifest: layer", l, maxBlob); err != nil {
			return err
		}
	}
	return nil
}

// ArtifactError says that a manifest is of something else than an image: a chart, a signature. It is
// errdefs.ErrNotImplemented to whoever wants to run it.
type ArtifactError struct{ Type string }

// Error names the type.
func (e *ArtifactError) Error() string {
	return fmt.Sprintf("manifest of %q, which is no container image: %v", short(e.Type), errdefs.ErrNotImplemented)
}

// Unwrap gives the kind.
func (e *ArtifactError) Unwrap() error { return errdefs.ErrNotImplemented }

func noImage(m ocispec.Manifest) error {
	return &ArtifactError{cmp.Or(m.ArtifactType, m.Config.MediaType, "unknown media type")}
}

// ParseConfig reads an image configuration that belongs to a manifest with the given number of layers.
// A diff id of another algorithm than sha256 is errdefs.ErrNotImplemented.
func ParseConfig(data []byte, layers int) (ocispec.Image, error) {
	var c ocispec.Image
	if err := checkSize("configuration", data); err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, damaged("configuration", "%v", err)
	}
	if c.RootFS.Type != "layers" {
		return c, damaged("configuration", "rootfs is of type %q", short(c.RootFS.Type))
	}
	if n := len(c.RootFS.DiffIDs); n != layers {
		return c, damaged("configuration", "it names %d layers, the manifest %d", n, layers)
	}
	for _, id := range c.RootFS.DiffIDs {
		err := id.Validate()
		if errors.Is(err, digest.ErrDigestUnsupported) || err == nil && id.Algorithm() != digest.SHA256 {
			return c, fmt.Errorf("configuration: diff id %q: layers are hashed with sha256 alone: %w", short(id.String()), errdefs.ErrNotImplemented)
		}
		if err != nil {
			return c, damaged("configuration", "diff id %q: %v", short(id.String()), err)
		}
	}
	return c, nil
}

func checkDescriptor(what string, d ocispec.Descriptor, maxSize int64) error {
	if err := d.Digest.Validate(); err != nil {
		return damaged(what, "digest %q: %v", short(d.Digest.String()), err)
	}
	if d.Size < 0 || d.Size > maxSize {
		return damaged(what, "%s has %d bytes", d.Digest, d.Size)
	}
	return nil
}

func damaged(what, format string, args ...any) error {
	return fmt.Errorf("%s: "+format+": %w", append(append([]any{what}, args...), errdefs.ErrFailedPrecondition)...)
}

// ChainIDs gives for each layer the identity of it and all below it, as the OCI image specification
// defines it (config.md, "Layer ChainID").
func ChainIDs(diffIDs []digest.Digest) []digest.Digest {
	ids := make([]digest.Digest, len(diffIDs))
	for i, d := range diffIDs {
		if ids[i] = d; i > 0 {
			ids[i] = digest.FromString(ids[i-1].String() + " " + d.String())
		}
	}
	return ids
}
