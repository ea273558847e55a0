// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// unpacked is a layer whose directory is in place.
type unpacked struct {
	id           snapshot.ID
	size, inodes int64 // on the disk
	verity       digest.Digest
}

// became notes what the driver has made of the layer's tree.
func (l *unpacked) became(made snapshot.Fixed) {
	l.verity = cmp.Or(made.Verity, l.verity) // of one that was there the record knows it, too
	if made.Inodes > 0 {
		l.size, l.inodes = made.Size, made.Inodes
	}
}

// staged is the id under which a layer is unpacked.
func staged(id snapshot.ID) snapshot.ID { return id + ".new" }

// holdLayers puts the layers' directories on the lease.
func (p *puller) holdLayers(ctx context.Context) error {
	var names []string
	for _, chain := range p.image.ChainIDs {
		for _, id := range append(snapshot.LayerIDs(chain), staged(snapshot.LayerID(chain))) {
			names = append(names, string(id))
		}
		names = append(names, p.opt.Namespace+"/"+chain.String())
	}
	return p.lease.Hold(ctx, nil, lease.Snapshot, names...)
}

// lockLayer waits for whoever unpacks the same layer.
func (p *puller) lockLayer(ctx context.Context, n int) (l *lock.Lock, err error) {
	id := string(snapshot.LayerID(p.image.ChainIDs[n]))
	p.opt.Waits.note(p.report, lock.Snapshot, id, p.image.Manifest.Layers[n])
	err = p.patiently(ctx, func() error {
		l, err = p.d.Lock(ctx, nil, lock.Snapshot, id, lock.Exclusive)
		return err
	})
	return l, err
}

// findLayer tells whether a layer's directory is there: recorded in this namespace by whatever name it has,
// recorded in another one by a pull, or unrecorded but made in this boot. Any other directory under its
// name was left by a crash and is thrown away. One that is recorded and not what was recorded stays until place has
// another in its place.
func (p *puller) findLayer(ctx context.Context, n int) (bool, error) {
	chain := p.image.ChainIDs[n]
	id := snapshot.LayerID(chain)
	var damaged bool
	var recorded []unpacked
	err := p.d.View(ctx, func(tx *state.Tx) error {
		recorded, damaged = nil, false
		names, err := p.sn().Namespaces(tx)
		if err != nil {
			return err
		}
		for _, ns := range names {
			s, err := p.sn().Get(tx, ns, chain.String())
			switch {
			case errdefs.IsNotFound(err):
				continue
			case errdefs.IsDataLoss(err):
				damaged = true
				continue
			case err != nil:
				return err
			}
			if s.Kind == snapshot.Committed && (ns == p.opt.Namespace || slices.Contains(snapshot.LayerIDs(chain), s.ID)) {
				recorded = append(recorded, unpacked{s.ID, s.Size, s.Inodes, s.Verity})
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, l := range recorded {
		if there, err := p.hasTree(ctx, l.id, l.verity); there || err != nil {
			p.layers[n] = l
			return there, err
		}
	}
	m := markOf(p.sn().Path(p.d, id))
	// A mark without fs-verity says less than a record with it, which has just been found not to hold.
	proves := m.verity != "" || !slices.ContainsFunc(recorded, func(l unpacked) bool { return l.verity != "" })
	// A record that cannot be read any more was written when the directory was complete.
	var there bool
	if damaged || m.chain == chain && proves {
		if there, err = p.hasTree(ctx, id, m.verity); err != nil {
			return false, err
		}
	}
	if there {
		l := &p.layers[n]
		l.id = id
		l.size, l.inodes, err = p.sn().Usage(ctx, p.d, id)
		return err == nil, err
	}
	if !damaged && len(recorded) == 0 && m.chain == "" {
		if err := p.sn().Drop(p.d, id); err != nil {
			return false, err
		}
	}
	return false, p.sn().Drop(p.d, staged(id))
}

// hasTree tells whether a layer's directory is there, with the tree that is meant. Where that cannot be told, by another process
// that has the trees or for want of descriptors, that is an error: nothing may be made anew, or thrown away, in place of what may
// be there.
func (p *puller) hasTree(ctx context.Context, id snapshot.ID, verity digest.Digest) (bool, error) {
	err := p.sn().Attest(ctx, p.d, snapshot.Info{ID: id, Kind: snapshot.Committed, Verity: verity})
	if snapshot.Gone(err) {
		return false, nil
	}
	return err == nil, err
}

// isFetched tells whether a layer is one that the snapshotter has brought itself, so that its blob is not needed.
func (p *puller) isFetched(id snapshot.ID) bool {
	f, ok := p.sn().Driver.(snapshot.Fetcher)
	return ok && id != "" && f.Fetched(p.d, id)
}

// The labels of a layer's snapshot by which a snapshotter finds what it is to fetch, as containerd's CRI has them.
const (
	labelImageRef    = "containerd.io/snapshot/cri.image-ref"
	labelManifest    = "containerd.io/snapshot/cri.manifest-digest"
	labelLayer       = "containerd.io/snapshot/cri.layer-digest"
	labelImageLayers = "containerd.io/snapshot/cri.image-layers"
	// maxLabel bounds a label with its name, in bytes, as containerd does.
	maxLabel = 4096
)

// describe gives the labels of a layer's snapshot: which it is of which image, and which follow it there.
func (p *puller) describe(n int) map[string]string {
	layers := p.image.Manifest.Layers
	var rest string
	for _, l := range layers[n:] {
		next := l.Digest.String()
		if rest != "" {
			next = rest + "," + next
		}
		if len(labelImageLayers)+len(next) > maxLabel {
			break
		}
		rest = next
	}
	return map[string]string{
		labelImageRef: p.ref.String(), labelManifest: p.image.Descriptor.Digest.String(),
		labelLayer: layers[n].Digest.String(), labelImageLayers: rest,
	}
}

// fetch asks the snapshotter whether it has a layer, or brings it itself. Then the layer is in place.
func (p *puller) fetch(ctx context.Context, n int) (bool, error) {
	f, ok := p.sn().Driver.(snapshot.Fetcher)
	if !ok || p.repo == nil {
		return false, nil
	}
	chain := p.image.ChainIDs[n]
	id := snapshot.LayerID(chain)
	has, err := f.Fetch(ctx, p.d, staged(id), p.below(n), chain.String(), p.describe(n))
	if err != nil {
		return false, errors.Join(err, p.sn().Drop(p.d, staged(id)))
	}
	if !has {
		p.staged = staged(id)
		return false, nil
	}
	if err := p.place(n, unpacked{id: id}); err != nil {
		return false, err
	}
	l := &p.layers[n]
	l.size, l.inodes, err = p.sn().Usage(ctx, p.d, id)
	return true, err
}

// unstage throws a layer away that fetch has staged, and nobody has unpacked.
func (p *puller) unstage(n int) error {
	id := staged(snapshot.LayerID(p.image.ChainIDs[n]))
	if p.staged != id {
		return nil
	}
	p.staged = ""
	return p.sn().Drop(p.d, id)
}

// below is what a layer is staged on top of.
func (p *puller) below(n int) snapshot.ID {
	if n > 0 && !p.sn().Late() {
		return p.layers[n-1].id
	}
	return ""
}

// place gives a staged layer its name.
func (p *puller) place(n int, l unpacked) error {
	dir := p.sn().Path(p.d, staged(l.id))
	if err := mark(dir, layerMark{p.image.ChainIDs[n], p.image.Manifest.Layers[n].Digest, l.verity}); err != nil {
		return err
	}
	crash.Point("pull.before-layer-rename")
	if err := p.replace(dir, l.id); err != nil {
		return err
	}
	crash.Point("pull.after-layer-rename")
	p.layers[n] = l
	p.made.add(l.id)
	return nil
}

// replace gives a staged layer its name, and throws away what has that and is not what it should be.
func (p *puller) replace(dir string, id snapshot.ID) error {
	name := p.sn().Path(p.d, id)
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		crash.Point("pull.layer-replaced")
		return p.sn().Drop(p.d, staged(id))
	case !errors.Is(err, os.ErrNotExist): // a file system that cannot exchange names
		if err := p.sn().Drop(p.d, id); err != nil {
			return err
		}
	}
	return os.Rename(dir, name)
}

// isProven tells whether the blob of a layer is known to unpack to the directory that is there.
func (p *puller) isProven(ctx context.Context, n int) (proven bool, err error) {
	blob, chain := p.image.Manifest.Layers[n].Digest, p.image.ChainIDs[n]
	if m := markOf(p.sn().Path(p.d, snapshot.LayerID(chain))); m.chain == chain && m.blob == blob {
		return true, nil
	}
	err = p.d.View(ctx, func(tx *state.Tx) error {
		names, err := content.Namespaces(tx)
		if err != nil {
			return err
		}
		for _, ns := range names {
			b, err := content.Get(tx, ns, blob)
			if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
				return err
			}
			proven = proven || b.Labels[labelUncompressed] == p.image.Config.RootFS.DiffIDs[n].String()
		}
		return nil
	})
	return proven, err
}

// errUseless ends the wait for more bytes of a layer that has been found wrong.
var errUseless = errors.New("no more is needed")

// unpack makes the directory of a layer from its compressed bytes. It is put in place only when the
// digest of the blob has been checked, too: i is committed here.
func (p *puller) unpack(ctx context.Context, n int, r io.Reader, i *content.Ingest) (err error) {
	id := snapshot.LayerID(p.image.ChainIDs[n])
	parent := p.below(n)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.sn().Drop(p.d, staged(id)))
		}
	}()
	if p.staged == staged(id) {
		p.staged = ""
	} else if err := p.sn().Stage(ctx, p.d, staged(id), parent); err != nil {
		return err
	}
	res, err := p.apply(ctx, r, staged(id), parent, layer.Options{
		MediaType: p.image.Manifest.Layers[n].MediaType,
		Stop:      func() { i.Fail(errUseless) },
	})
	if err != nil {
		return contentError(ctx, state.NoRoom(err, p.sn().Path(p.d, staged(id)))) // before anything is thrown away
	}
	if err := checkDiffID(res.DiffID, p.image.Config.RootFS.DiffIDs[n]); err != nil {
		return err
	}
	if err := i.Commit(); err != nil {
		return err
	}
	if n == 0 {
		res.Implied.Dirs, res.Implied.OpaqueRoot = nil, false // there is nothing below
	}
	if err := writeImplied(p.sn().Path(p.d, staged(id)), res.Implied); err != nil {
		return err
	}
	l := unpacked{id: id, size: res.Size, inodes: res.Inodes}
	if res.Implied.None() { // else when the layers below are known, see stack
		made, err := p.sn().Fix(ctx, p.d, staged(id), staged(id))
		if err != nil {
			return err
		}
		l.became(made)
	}
	return p.place(n, l)
}

// apply unpacks a layer into a staged tree: as a layer where the driver stacks them late, and otherwise onto what its
// mounts show.
func (p *puller) apply(ctx context.Context, r io.Reader, id, parent snapshot.ID, opt layer.Options) (layer.Result, error) {
	sn := p.sn()
	if sn.Late() {
		_, opt.Transient = sn.Driver.(snapshot.Remaker)
		return layer.Apply(ctx, r, sn.FS(p.d, id), opt)
	}
	chain := []snapshot.Info{{ID: id, Kind: snapshot.Active}}
	if parent != "" {
		chain = append(chain, snapshot.Info{ID: parent, Kind: snapshot.Committed})
	}
	mounts, err := sn.Driver.Mounts(ctx, p.d, chain, false)
	if err != nil {
		return layer.Result{}, err
	}
	res, err := diff.Apply(ctx, r, opt, mounts)
	if err == nil {
		res.Implied = layer.Implied{} // made good
		res.Size, res.Inodes, err = sn.Usage(ctx, p.d, id)
	}
	return res, err
}

// layerMark says of a complete directory which layer it is, from which blob it was unpacked, and where it is a file with
// fs-verity of which digest.
type layerMark struct{ chain, blob, verity digest.Digest }

// markAttr is on the directory of a complete layer: the boot in which it was made, and its mark. It is in
// one of two classes of attributes, as no file system without either can carry overlayfs.
const markAttr = "ctrd.layer"

var attrClasses = []string{"user.", "trusted."}

// mark makes a complete layer known to pulls that find it before it is recorded.
func mark(dir string, m layerMark) error {
	boot, err := state.BootID()
	if err != nil {
		return err
	}
	for _, class := range attrClasses {
		text := fmt.Sprintf("%s %s %s %s", boot, m.chain, m.blob, m.verity)
		if err = unix.Lsetxattr(dir, class+markAttr, []byte(text), 0); err == nil {
			return nil
		}
	}
	return &os.PathError{Op: "setxattr", Path: dir, Err: err}
}

// markOf gives the mark of a directory that was made in this boot; of another one it is empty.
func markOf(dir string) layerMark {
	boot, err := state.BootID()
	if err != nil || boot == "" {
		return layerMark{}
	}
	for _, class := range attrClasses {
		buf := make([]byte, 512)
		n, err := unix.Lgetxattr(dir, class+markAttr, buf)
		if err != nil {
			continue
		}
		f := append(strings.Fields(string(buf[:n])), "") // of most drivers, and older programs, without the last
		if len(f) >= 4 && f[0] == boot {
			return layerMark{digest.Digest(f[1]), digest.Digest(f[2]), digest.Digest(f[3])}
		}
	}
	return layerMark{}
}
