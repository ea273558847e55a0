// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/state"
)

// Role is what a part is to an image.
type Role string

// The roles.
const (
	RoleIndex    Role = "index"
	RoleManifest Role = "manifest"
	RoleConfig   Role = "config"
	RoleLayer    Role = "layer"
	RoleOther    Role = "other" // of an index: neither index nor manifest
)

// Part is a document or a layer of an image, whether it is here or not.
type Part struct {
	Role       Role               `json:"role"`
	Descriptor ocispec.Descriptor `json:"descriptor"`
	Depth      int                `json:"depth"`              // 0: the target
	Platform   string             `json:"platform,omitempty"` // of a manifest, as os/architecture[/variant]
	Here       bool               `json:"here"`               // the namespace has it, and its file is as long as it should be
	// Chain is the key of the snapshot that the layers up to this one unpack to. It is known of layers whose
	// configuration is here, and of nothing else.
	Chain digest.Digest `json:"chain,omitempty"`
}

// maxParts bounds what Parts lists: an index can list one manifest many times.
const maxParts = 100_000

// Parts lists what an image consists of: the target, and below each document what it names, in its order. What a
// document that is not here names is not known. Documents are bounded as those of [Present] are.
func Parts(tx *state.Tx, ns string, target ocispec.Descriptor) ([]Part, error) {
	l := lister{tx: tx, ns: ns, presence: inStore(tx.Dir())}
	err := l.list(target, 0)
	return l.parts, err
}

type lister struct {
	presence
	tx    *state.Tx
	ns    string
	parts []Part
}

func (l *lister) add(role Role, desc ocispec.Descriptor, depth int) (*Part, error) {
	if len(l.parts) == maxParts {
		return nil, damaged("image", "it has more than %d parts", maxParts)
	}
	here, err := l.here(desc)
	l.parts = append(l.parts, Part{Role: role, Descriptor: desc, Depth: depth, Here: here})
	return &l.parts[len(l.parts)-1], err
}

// here tells whether the namespace has a blob. A record that cannot be read is none.
func (l *lister) here(desc ocispec.Descriptor) (bool, error) {
	_, err := content.Get(l.tx, l.ns, desc.Digest)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st, err := os.Stat(content.Path(l.tx.Dir(), desc.Digest))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.Size() == desc.Size, err
}

func (l *lister) list(desc ocispec.Descriptor, depth int) error {
	if depth > maxDepth {
		return damaged("index", "%d levels of indexes", maxDepth)
	}
	role := RoleOther
	switch {
	case IsIndex(desc.MediaType):
		role = RoleIndex
	case IsManifest(desc.MediaType):
		role = RoleManifest
	}
	p, err := l.add(role, desc, depth)
	if err != nil {
		return err
	}
	if desc.Platform != nil {
		p.Platform = platforms.Format(platforms.Normalize(*desc.Platform))
	}
	if !p.Here || role == RoleOther {
		return nil
	}
	if role == RoleManifest {
		return l.manifest(desc, depth)
	}
	data, err := l.read(desc)
	if err != nil {
		return err
	}
	x, err := ParseIndex(data, desc.MediaType)
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	for _, m := range x.Manifests {
		if err := l.list(m, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) manifest(desc ocispec.Descriptor, depth int) error {
	at := len(l.parts) - 1
	data, err := l.read(desc)
	if err != nil {
		return err
	}
	m, err := ParseArtifact(data, desc.MediaType)
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	p, err := l.add(RoleConfig, m.Config, depth+1)
	if err != nil {
		return err
	}
	var chains []digest.Digest
	if p.Here {
		full, err := Complete(Manifest{Descriptor: desc}, l.read)
		if err != nil && !errdefs.IsNotImplemented(err) {
			return err
		}
		if err == nil && full.Config.Architecture != "unknown" {
			chains = full.ChainIDs
		}
		if err == nil && l.parts[at].Platform == "" {
			l.parts[at].Platform = full.Platform()
		}
	}
	for n, layer := range m.Layers {
		p, err := l.add(RoleLayer, layer, depth+1)
		if err != nil {
			return err
		}
		if n < len(chains) {
			p.Chain = chains[n]
		}
	}
	return nil
}
