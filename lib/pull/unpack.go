// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// unpacked is a layer whose directory is in place.
type unpacked struct {
	size, inodes int64 // on the disk
}

// staged is the id under which a layer is unpacked.
func staged(id snapshot.ID) snapshot.ID { return id + ".new" }

// holdLayers puts the layers' directories on the lease.
func (p *puller) holdLayers(ctx context.Context) error {
	var names []string
	for _, chain := range p.image.ChainIDs {
		id := snapshot.LayerID(chain)
		names = append(names, string(id), string(staged(id)), p.opt.Namespace+"/"+chain.String())
	}
	return p.lease.Hold(ctx, nil, lease.Snapshot, names...)
}

// lockLayer waits for whoever unpacks the same layer.
func (p *puller) lockLayer(ctx context.Context, n int) (l *lock.Lock, err error) {
	err = p.patiently(ctx, func() error {
		l, err = p.d.Lock(ctx, nil, lock.Snapshot, p.image.ChainIDs[n].String(), lock.Exclusive)
		return err
	})
	return l, err
}

// findLayer tells whether a layer is there: recorded in this namespace by whatever name its directory
// has, recorded in another one by a pull, or unrecorded but made in this boot. Any other directory under
// its name was left by a crash and is thrown away.
func (p *puller) findLayer(ctx context.Context, n int) (bool, error) {
	chain := p.image.ChainIDs[n]
	id := snapshot.LayerID(chain)
	found := false
	err := p.d.View(ctx, func(tx *state.Tx) error {
		names, err := snapshot.Namespaces(tx)
		if err != nil {
			return err
		}
		for _, ns := range names {
			s, err := snapshot.Get(tx, ns, chain.String())
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			if s.Kind == snapshot.Committed && (ns == p.opt.Namespace || s.ID == id) {
				p.layers[n] = unpacked{s.Size, s.Inodes}
				found = true
			}
		}
		return nil
	})
	if found || err != nil {
		return found, err
	}
	if isMarked(snapshot.Path(p.d, id), chain) {
		l := &p.layers[n]
		l.size, l.inodes, err = layer.Usage(ctx, snapshot.FS(p.d, id))
		return err == nil, err
	}
	for _, left := range []snapshot.ID{id, staged(id)} {
		if err := p.drop(ctx, left, chain); err != nil {
			return false, err
		}
	}
	return false, nil
}

// drop throws away a directory that nobody finished. One that a record names, for another layer with
// the same id, is a collision of 64 bits that only an attacker can have made.
func (p *puller) drop(ctx context.Context, id snapshot.ID, chain digest.Digest) error {
	if _, err := os.Lstat(snapshot.Path(p.d, id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := p.d.View(ctx, func(tx *state.Tx) error {
		names, err := snapshot.Namespaces(tx)
		if err != nil {
			return err
		}
		for _, ns := range names {
			for s, err := range snapshot.All(tx, ns) {
				if err == nil && s.ID == id {
					return fmt.Errorf("layer %s has the same id as snapshot %q of namespace %q: %w", chain, s.Key, ns, errdefs.ErrConflict)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.trashed.Store(true)
	return snapshot.Drop(p.d, id)
}

// unpack makes the directory of a layer from its compressed bytes. It is put in place only when the
// digest of the blob has been checked, too: i is committed here.
func (p *puller) unpack(ctx context.Context, n int, r io.Reader, i *content.Ingest) (err error) {
	chain := p.image.ChainIDs[n]
	id := snapshot.LayerID(chain)
	if err := snapshot.Stage(p.d, staged(id)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			p.trashed.Store(true)
			err = errors.Join(err, snapshot.Drop(p.d, staged(id)))
		}
	}()
	res, err := layer.Apply(ctx, r, snapshot.FS(p.d, staged(id)), layer.Options{MediaType: p.image.Manifest.Layers[n].MediaType})
	if err != nil && isContent(ctx, err) {
		return &ContentError{err}
	}
	if err != nil {
		return err
	}
	if err := checkDiffID(res.DiffID, p.image.Config.RootFS.DiffIDs[n]); err != nil {
		return err
	}
	if err := i.Commit(); err != nil {
		return err
	}
	if err := mark(snapshot.Path(p.d, staged(id)), chain); err != nil {
		return err
	}
	crash.Point("pull.before-layer-rename")
	if err := os.Rename(snapshot.Path(p.d, staged(id)), snapshot.Path(p.d, id)); err != nil {
		return err
	}
	crash.Point("pull.after-layer-rename")
	p.layers[n] = unpacked{res.Size, res.Inodes}
	return nil
}

// markAttr is on the directory of a complete layer: the boot in which it was made, and its chain id. It
// is in one of two classes of attributes, as no file system without either can carry overlayfs.
const markAttr = "ctrd.layer"

var attrClasses = []string{"user.", "trusted."}

// mark makes a complete layer known to pulls that find it before it is recorded.
func mark(dir string, chain digest.Digest) error {
	boot, err := state.BootID()
	if err != nil {
		return err
	}
	for _, class := range attrClasses {
		if err = unix.Lsetxattr(dir, class+markAttr, []byte(boot+" "+chain.String()), 0); err == nil {
			return nil
		}
	}
	return &os.PathError{Op: "setxattr", Path: dir, Err: err}
}

func isMarked(dir string, chain digest.Digest) bool {
	boot, err := state.BootID()
	if err != nil || boot == "" {
		return false
	}
	for _, class := range attrClasses {
		buf := make([]byte, 256)
		n, err := unix.Lgetxattr(dir, class+markAttr, buf)
		if err == nil && string(buf[:n]) == boot+" "+chain.String() {
			return true
		}
	}
	return false
}
