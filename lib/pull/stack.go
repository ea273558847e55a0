// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/snapshot"
)

// impliedFile is beside the tree of a layer from its unpacking until it has been stacked: what the layer leaves
// to those below it, as a flag of one byte and paths that each end with a NUL byte.
const impliedFile = "implied"

func writeImplied(dir string, i layer.Implied) error {
	if i.None() {
		return nil
	}
	var b strings.Builder
	b.WriteByte('-')
	if i.OpaqueRoot {
		b.Reset()
		b.WriteByte('o')
	}
	for _, path := range i.Dirs {
		b.WriteString(path)
		b.WriteByte(0)
	}
	return os.WriteFile(dir+"/"+impliedFile, []byte(b.String()), 0o600)
}

func readImplied(dir string) (i layer.Implied, err error) {
	data, err := os.ReadFile(dir + "/" + impliedFile)
	if errors.Is(err, os.ErrNotExist) || len(data) == 0 {
		return i, nil
	}
	if err != nil {
		return i, err
	}
	i.OpaqueRoot = data[0] == 'o'
	if paths, ok := strings.CutSuffix(string(data[1:]), "\x00"); ok {
		i.Dirs = strings.Split(paths, "\x00")
	}
	return i, nil
}

// stack gives each layer what it leaves to those below, the lowest layer first. The outcome depends on the
// chain alone, so it does no harm that another pull of the same layers may do it at the same time.
func (p *puller) stack(ctx context.Context) error {
	if p.opt.NoUnpack {
		return nil
	}
	var below []string
	for n := range p.image.ChainIDs {
		l := &p.layers[n]
		dir, tree := snapshot.Path(p.d, l.id), snapshot.FS(p.d, l.id)
		implied, err := readImplied(dir)
		if err == nil {
			err = layer.Inherit(tree, implied, below)
		}
		if err == nil && implied.OpaqueRoot {
			l.size, l.inodes, err = layer.Usage(ctx, tree)
		}
		if err != nil {
			return fmt.Errorf("layer %.12s: %w", p.image.Manifest.Layers[n].Digest.Encoded(), err)
		}
		if !implied.None() {
			if err := os.Remove(dir + "/" + impliedFile); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		below = slices.Insert(below, 0, tree)
	}
	crash.Point("pull.stacked")
	return nil
}
