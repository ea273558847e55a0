// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/snapshot"
)

// impliedFile is beside the tree of a layer from its unpacking until it has been stacked: what the layer leaves
// to those below it, as records that each begin with a letter and end with a NUL byte: "d" and an implied
// directory, "w" and a directory with whiteouts, "o" for an opaque root.
const impliedFile = "implied"

func writeImplied(dir string, i layer.Implied) error {
	if i.None() {
		return nil
	}
	var b strings.Builder
	record := func(kind, path string) { b.WriteString(kind + path + "\x00") }
	if i.OpaqueRoot {
		record("o", "")
	}
	for _, path := range i.Dirs {
		record("d", path)
	}
	for _, path := range i.Whiteouts {
		record("w", path)
	}
	return os.WriteFile(filepath.Join(dir, impliedFile), []byte(b.String()), 0o600)
}

func readImplied(dir string) (i layer.Implied, err error) {
	data, err := os.ReadFile(filepath.Join(dir, impliedFile))
	if errors.Is(err, os.ErrNotExist) {
		return i, nil
	}
	for record := range strings.SplitSeq(string(data), "\x00") {
		kind, path := "", ""
		if record != "" {
			kind, path = record[:1], record[1:]
		}
		switch kind {
		case "o":
			i.OpaqueRoot = true
		case "d":
			i.Dirs = append(i.Dirs, path)
		case "w":
			i.Whiteouts = append(i.Whiteouts, path)
		}
	}
	return i, err
}

// stack gives each layer what it leaves to those below, the lowest layer first, and makes of it what is committed. The
// outcome depends on the chain alone, so it does no harm that another pull of the same layers may have done it before.
func (p *puller) stack(ctx context.Context) error {
	if p.opt.NoUnpack {
		return nil
	}
	for n := range p.image.ChainIDs {
		if err := p.stackLayer(ctx, n); err != nil {
			return fmt.Errorf("layer %.12s: %w", p.image.Manifest.Layers[n].Digest.Encoded(), err)
		}
	}
	crash.Point("pull.stacked")
	return nil
}

// stackLayer is stack for one layer, under its lock: what Fix replaces, nobody else reads meanwhile.
func (p *puller) stackLayer(ctx context.Context, n int) (err error) {
	l, sn := &p.layers[n], p.sn()
	own, err := p.lockLayer(ctx, n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.Release()) }()
	implied, err := readImplied(sn.Path(p.d, l.id))
	if err != nil {
		return err
	}
	if !implied.None() {
		if err := p.inherit(ctx, n, implied); err != nil {
			return err
		}
	}
	made, err := sn.Fix(ctx, p.d, l.id, l.id)
	if err != nil {
		return err
	}
	l.became(made)
	// What was placed before it was made has a mark without.
	dir := sn.Path(p.d, l.id)
	if m := markOf(dir); m.chain != "" && m.verity == "" && l.verity != "" {
		m.verity = l.verity
		return mark(dir, m)
	}
	return nil
}

// inherit makes good what a layer leaves to those below it.
func (p *puller) inherit(ctx context.Context, n int, implied layer.Implied) (err error) {
	l, sn := &p.layers[n], p.sn()
	var chain []snapshot.Info
	for _, lower := range slices.Backward(p.layers[:n]) {
		chain = append(chain, snapshot.Info{ID: lower.id, Kind: snapshot.Committed})
	}
	below := &snapshot.Trees{}
	if n > 0 {
		if below, err = sn.Open(ctx, p.d, chain); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	tree := sn.FS(p.d, l.id)
	err = layer.Inherit(tree, implied, below.Dirs)
	if err == nil && (implied.OpaqueRoot || len(implied.Whiteouts) > 0) {
		l.size, l.inodes, err = layer.Usage(ctx, tree)
	}
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(sn.Path(p.d, l.id), impliedFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
