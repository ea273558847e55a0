// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// The labels that containerd's clients and its collector read.
const (
	labelRef          = "containerd.io/gc.ref.content."
	labelSnapshot     = "containerd.io/gc.ref.snapshot." // and the snapshotter's name
	labelUncompressed = "containerd.io/uncompressed"
)

// labels are the labels of each blob of the image.
type labels map[digest.Digest]map[string]string

func (l labels) set(d digest.Digest, key, value string) {
	if l[d] == nil {
		l[d] = map[string]string{}
	}
	l[d][key] = value
}

// label says how the blobs of the image refer to each other. An index refers to its manifests of all
// platforms, as a later pull may bring them.
func (p *puller) label() (labels, error) {
	all := labels{}
	for _, desc := range p.image.Indexes {
		data, err := content.ReadAll(p.d, desc, image.MaxManifest)
		if err != nil {
			return nil, err
		}
		index, err := image.ParseIndex(data, desc.MediaType)
		if err != nil {
			return nil, err
		}
		for n, m := range index.Manifests {
			all.set(desc.Digest, fmt.Sprintf("%sm.%d", labelRef, n), m.Digest.String())
		}
	}
	m := p.image.Manifest
	if m.Config.Digest != "" {
		all.set(p.image.Descriptor.Digest, labelRef+"config", m.Config.Digest.String())
	}
	for n, l := range m.Layers {
		holds := l.Digest.String()
		if p.discards() {
			holds = "" // which removes the label
		}
		if !p.fetched[l.Digest] { // with a blob that another pull has brought, the label stays
			all.set(p.image.Descriptor.Digest, fmt.Sprintf("%sl.%d", labelRef, n), holds)
		}
		if !p.opt.NoUnpack && !p.fetched[l.Digest] {
			all.set(l.Digest, labelUncompressed, p.image.Config.RootFS.DiffIDs[n].String())
		}
	}
	if n := len(p.image.ChainIDs); n > 0 && !p.opt.NoUnpack {
		all.set(m.Config.Digest, labelSnapshot+p.sn().Name(), p.image.ChainIDs[n-1].String())
	}
	return all, nil
}

// blobs lists what the image consists of, each blob once.
func (p *puller) blobs() []ocispec.Descriptor {
	all := slices.Clone(p.image.Indexes)
	all = append(all, p.image.Descriptor)
	if p.image.Manifest.Config.Digest != "" { // see loose
		all = append(all, p.image.Manifest.Config)
	}
	for _, l := range p.image.Manifest.Layers {
		if !p.discards() && !p.fetched[l.Digest] {
			all = append(all, l)
		}
	}
	seen := map[digest.Digest]bool{}
	return slices.DeleteFunc(all, func(d ocispec.Descriptor) bool {
		was := seen[d.Digest]
		seen[d.Digest] = true
		return was
	})
}

// present tells whether the names stand for the target already, and which of the manifests are not recorded in
// the namespace with all that they consist of.
func (p *puller) present(ctx context.Context, parts []*puller) (img image.Image, named bool, missing []*puller, err error) {
	var exist []ocispec.Descriptor
	err = p.d.View(ctx, func(tx *state.Tx) error {
		img, err = image.Get(tx, p.opt.Namespace, p.name())
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
			return err
		}
		named = err == nil && p.stands(img)
		for _, name := range p.names {
			other, err := image.Get(tx, p.opt.Namespace, name)
			named = named && err == nil && p.stands(other)
		}
		missing, exist = nil, nil
		for _, q := range parts {
			whole, err := q.recorded(ctx, tx)
			if err != nil {
				return err
			}
			if !whole || p.damaged {
				missing = append(missing, q)
				continue
			}
			exist = append(exist, q.image.Manifest.Layers...)
		}
		return nil
	})
	for _, l := range exist {
		p.report.Send(l, progress.Exists, l.Size)
	}
	return img, named, missing, err
}

// recorded tells whether blobs and snapshots are recorded and their files are there. A record that cannot
// be read is none: the pull writes it anew.
func (p *puller) recorded(ctx context.Context, tx *state.Tx) (bool, error) {
	var ids []snapshot.ID
	for _, chain := range p.image.ChainIDs {
		if s, err := p.sn().Get(tx, p.opt.Namespace, chain.String()); err == nil && !p.opt.NoUnpack {
			ids = append(ids, s.ID)
		} else {
			ids = append(ids, "")
		}
	}
	if err := p.noteFetched(ids); err != nil {
		return false, err
	}
	for _, desc := range p.blobs() {
		b, err := content.Get(tx, p.opt.Namespace, desc.Digest)
		if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		for k, v := range p.labels[desc.Digest] {
			if b.Labels[k] != v {
				return false, nil
			}
		}
		if _, err := os.Stat(content.Path(p.d, desc.Digest)); errors.Is(err, os.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	if p.opt.NoUnpack {
		return true, nil
	}
	for _, chain := range p.image.ChainIDs {
		s, err := p.sn().Get(tx, p.opt.Namespace, chain.String())
		if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if there, err := p.hasTree(ctx, s.ID, s.Verity); !there || err != nil {
			return false, err
		}
	}
	return true, nil
}

// noteFetched notes which layers, of which these are the ids, the snapshotter has brought itself. A blob of several layers is
// needed for each that was not brought so.
func (p *puller) noteFetched(ids []snapshot.ID) (err error) {
	p.fetched = map[digest.Digest]bool{}
	for n, l := range p.image.Manifest.Layers {
		if n >= len(ids) {
			break
		}
		is := p.isFetched(ids[n])
		if before, seen := p.fetched[l.Digest]; seen {
			is = is && before
		}
		p.fetched[l.Digest] = is
	}
	p.labels, err = p.label()
	return err
}

// record makes what is durable visible, in one commit.
func (p *puller) record(ctx context.Context, parts ...func(*state.Tx) error) (img image.Image, err error) {
	err = p.d.Update(ctx, nil, func(tx *state.Tx) error {
		for _, part := range parts {
			if err := part(tx); err != nil {
				return err
			}
		}
		img, err = image.Get(tx, p.opt.Namespace, p.name())
		return err
	})
	return img, err
}

// name is what the image is called here.
func (p *puller) name() string { return cmp.Or(p.opt.Name, p.ref.String()) }

// allNames gives the names that are to stand for the target, the pull's own first.
func (p *puller) allNames(parts []*puller) []string {
	names := []string{p.name()}
	if p.opt.Also == nil {
		return names
	}
	var m image.Manifest
	if len(parts) > 0 {
		m = parts[0].image
	}
	return append(names, p.opt.Also(p.target, m)...)
}

// recordNames points each name to the target.
func (p *puller) recordNames(tx *state.Tx) error {
	for _, name := range p.names {
		if err := p.recordName(tx, name); err != nil {
			return err
		}
	}
	return nil
}

// stands tells whether a record is what the pull would write.
func (p *puller) stands(img image.Image) bool {
	for k, v := range p.opt.Labels {
		if img.Labels[k] != v {
			return false
		}
	}
	return img.Target.Digest == p.target.Digest
}

// recordName points a name to the target. What an API or a user attached to the name stays.
func (p *puller) recordName(tx *state.Tx, name string) error {
	img, err := image.Get(tx, p.opt.Namespace, name)
	if err == nil && p.stands(img) {
		return nil
	}
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
		return err
	}
	labels, err := label.Set(img.Labels, p.opt.Labels)
	if err != nil {
		return err
	}
	return image.Put(tx, p.opt.Namespace, image.Image{Name: name, Target: p.target, Labels: labels})
}

func (p *puller) recordBlobs(tx *state.Tx) error {
	for _, desc := range p.blobs() {
		if err := p.recordBlob(tx, desc); err != nil {
			return err
		}
	}
	return nil
}

func (p *puller) recordBlob(tx *state.Tx, desc ocispec.Descriptor) error {
	b := content.Blob{Digest: desc.Digest, Size: desc.Size, Labels: map[string]string{}}
	gone := map[string]string{}
	for k, v := range p.labels[desc.Digest] {
		if v == "" {
			gone[k] = v
		} else {
			b.Labels[k] = v
		}
	}
	old, err := content.Get(tx, p.opt.Namespace, desc.Digest)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
		return err
	}
	if key, value, changed := content.AddSource(old.Labels, p.ref.Domain, p.ref.Path); changed {
		b.Labels[key] = value
	}
	if err := content.Merge(tx, p.opt.Namespace, b); err != nil || len(gone) == 0 {
		return err
	}
	return content.Label(tx, p.opt.Namespace, desc.Digest, gone)
}

func (p *puller) recordLayers(tx *state.Tx) error {
	if p.opt.NoUnpack {
		return nil
	}
	for n, chain := range p.image.ChainIDs {
		s := snapshot.Info{Key: chain.String(), ID: p.layers[n].id, Size: p.layers[n].size, Inodes: p.layers[n].inodes, Verity: p.layers[n].verity}
		if n > 0 {
			s.Parent = p.image.ChainIDs[n-1].String()
		}
		if err := p.sn().PutLayer(tx, p.opt.Namespace, s); err != nil {
			return err
		}
	}
	return nil
}

// sync makes all that was written durable, names included: once for each file system. The root was
// opened before anything was written, because the kernel reports an error of writing back to those
// descriptors only that were open when it happened.
func (p *puller) sync(written []string) error {
	done := map[uint64]bool{}
	if err := syncOnce(p.root, done, written); err != nil {
		return err
	}
	for _, dir := range []string{p.d.Path("content"), p.d.Path("snapshots")} {
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(syncOnce(f, done, nil), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// written lists the files and trees that the pull may have written.
func (p *puller) written() (paths []string) {
	for _, desc := range p.blobs() {
		paths = append(paths, content.Path(p.d, desc.Digest))
	}
	for _, l := range p.layers {
		if l.id != "" {
			paths = append(paths, p.sn().Path(p.d, l.id))
		}
	}
	return paths
}

// syncOnce syncs the file system of f unless that is done already.
func syncOnce(f *os.File, done map[uint64]bool, written []string) error {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	if err == nil && !done[st.Dev] {
		done[st.Dev] = true
		return state.SyncFS(f, written...)
	}
	if err != nil {
		return &os.PathError{Op: "sync", Path: f.Name(), Err: err}
	}
	return nil
}
