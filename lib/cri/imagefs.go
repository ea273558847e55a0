// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"os"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// measured is the size of a tree at a time.
type measured struct {
	at           time.Time
	size, inodes int64
}

// treeSizes remembers the sizes of writable layers. The zero value is ready for use.
type treeSizes struct {
	mu  sync.Mutex
	all map[snapshot.ID]measured
}

// keepSizes is how long the sizes of trees that nobody asks for are remembered.
const keepSizes = 5 * time.Minute

// of measures the tree of a snapshot, unless it was measured within a time: to measure one is to walk through it. A tree
// that is gone is empty.
func (t *treeSizes) of(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, id snapshot.ID, within time.Duration) measured {
	t.mu.Lock()
	m, ok := t.all[id]
	t.mu.Unlock()
	if ok && time.Since(m.at) < within {
		return m
	}
	m = measured{at: time.Now()}
	var err error
	if m.size, m.inodes, err = sn.Usage(ctx, d, id); err != nil {
		m.size, m.inodes = 0, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[snapshot.ID]measured{}
	}
	t.all[id] = m
	for old, was := range t.all {
		if m.at.Sub(was.at) > max(keepSizes, within) {
			delete(t.all, old)
		}
	}
	return m
}

// ImageFsInfo tells what the layers of images take, and what the containers' writable layers do. Layers are counted once,
// as they were measured when they were unpacked.
func (i imageService) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	answer := &runtimeapi.ImageFsInfoResponse{}
	for n, sn := range snapshot.Snapshotters() {
		layers, writable, err := i.s.snapshotUsage(ctx, sn)
		if err != nil {
			return nil, err
		}
		if n > 0 && layers.inodes+writable.inodes == 0 {
			continue // one that nobody uses, but for the default
		}
		answer.ImageFilesystems = append(answer.ImageFilesystems, i.s.filesystem(sn, layers))
		answer.ContainerFilesystems = append(answer.ContainerFilesystems, i.s.filesystem(sn, writable))
	}
	return answer, nil
}

// snapshotUsage adds up the snapshots of the CRI's namespace.
func (s *Server) snapshotUsage(ctx context.Context, sn *snapshot.Snapshotter) (layers, writable measured, err error) {
	var active []snapshot.ID
	err = s.d.View(ctx, func(tx *state.Tx) error {
		layers, active = measured{at: time.Now()}, nil
		for one, err := range sn.All(tx, Namespace) {
			switch {
			case err != nil:
				s.log.Warn("snapshot", "key", one.Key, "error", err)
			case one.Kind == snapshot.Committed:
				layers.size += one.Size
				layers.inodes += one.Inodes
			case one.Kind == snapshot.Active:
				active = append(active, one.ID)
			}
		}
		return nil
	})
	writable.at = layers.at
	for _, id := range active {
		m := s.sizeOf(ctx, sn, id)
		writable.size += m.size
		writable.inodes += m.inodes
	}
	return layers, writable, err
}

// sizeOf measures a writable layer, or gives a measurement that is as old as the configuration allows.
func (s *Server) sizeOf(ctx context.Context, sn *snapshot.Snapshotter, id snapshot.ID) measured {
	return s.sizes.of(ctx, s.d, sn, id, time.Duration(s.config().CRI.ImageStatsCollectPeriod))
}

// filesystem tells of what is on the file system of a snapshotter.
func (s *Server) filesystem(sn *snapshot.Snapshotter, m measured) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp: m.at.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.snapshotDir(sn)},
		UsedBytes: &runtimeapi.UInt64Value{Value: uint64(m.size)}, InodesUsed: &runtimeapi.UInt64Value{Value: uint64(m.inodes)},
	}
}

// snapshotDir is a directory on the file system of a snapshotter: its own, or before the first pull the root.
func (s *Server) snapshotDir(sn *snapshot.Snapshotter) string {
	dir := s.d.Path("snapshots", sn.Name())
	if _, err := os.Stat(dir); err != nil {
		return s.d.Path()
	}
	return dir
}
