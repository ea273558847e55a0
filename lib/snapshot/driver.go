// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Driver keeps the trees of snapshots; their records are not its business. Each snapshot has a directory ([Path]) that
// its driver makes and that goes to the trash with it. A driver whose trees lie elsewhere, on a device or with another
// program, notes there what it needs to find one again. A directory may be renamed, with all that is in it.
//
// A chain is a snapshot and all that it stands on, the top first.
type Driver interface {
	// Name is that of the bucket, of the directory below snapshots, and the one that containerd's clients use.
	Name() string
	// Ready tells whether the driver can work in this root and on this kernel. Its error says what to do instead.
	Ready(d *state.Dir) error
	// Late tells whether a tree can be made before what it stands on, which the commit then names (containerd's rebase).
	// Such a driver's tree is a directory, [FS], that takes a layer as lib/layer unpacks it. Otherwise the parent must be
	// there when the tree is staged.
	Late() bool
	// Stage makes the tree of a new snapshot on top of a committed one, or an empty one. What a kill leaves is garbage.
	Stage(ctx context.Context, d *state.Dir, id, parent ID) error
	// Fix makes what is committed of an active tree: under the id to, so that the active one stays as it is until a record
	// says otherwise, or in place when both ids are one, which no record names. With a snapshotter of another process,
	// whose active tree is then committed, it can but be committed again until then. Doing it again changes nothing.
	Fix(ctx context.Context, d *state.Dir, from, to ID) (Fixed, error)
	// Maps tells whether Mounts can show the owners of files as the labels LabelUIDMapping and LabelGIDMapping say.
	Maps(d *state.Dir) bool
	// Adopt prepares the root of a staged tree for its parent, which may be none, and for the labels that s has. It is
	// called with the record's transaction, so it does little.
	Adopt(d *state.Dir, s Info, parent ID) error
	// Mounts describes how to mount the active snapshot or the view at the head of a chain. With own, an active one can be
	// told from the mount to be mounted: its FS is the source of a bind mount, or upper directory or source of an overlay.
	Mounts(ctx context.Context, d *state.Dir, chain []Info, own bool) ([]mount.Mount, error)
	// Open gives the directories that make up the head of a chain, for reading, as overlayfs would stack them, the top first.
	Open(ctx context.Context, d *state.Dir, chain []Info) (*Trees, error)
	// Check tells whether the directory of a snapshot is there, with the tree that its record means.
	Check(d *state.Dir, s Info) error
	// Usage measures what a snapshot occupies on the disk by itself: bytes of blocks and inodes, each once however many
	// names it has.
	Usage(ctx context.Context, d *state.Dir, id ID) (size, inodes int64, err error)
	// Sync makes a tree durable, or with fresh only what Stage has made.
	Sync(d *state.Dir, id ID, fresh bool) error
	// Drop throws a snapshot away that no record names. One that is not there is success.
	Drop(d *state.Dir, id ID) error
}

// Fixed is what is committed of a tree.
type Fixed struct {
	ID ID // that of the active tree with a driver that commits trees as they are
	// What it occupies where that is not what the active tree did; otherwise zero. See [Driver.Usage].
	Size, Inodes int64
	Verity       digest.Digest // see [Info]
}

// Snapshotter is the snapshots of one driver: records and trees.
type Snapshotter struct{ Driver }

// Stage is [Driver.Stage]. Want of room is a [*state.RoomError].
func (sn *Snapshotter) Stage(ctx context.Context, d *state.Dir, id, parent ID) error {
	return state.NoRoom(sn.Driver.Stage(ctx, d, id, parent), sn.Path(d, id))
}

// The snapshotters.
var (
	Overlay = &Snapshotter{overlay{}}
	Native  = &Snapshotter{native{}}
	Btrfs   = &Snapshotter{subvolumes{}}
	Erofs   = &Snapshotter{images{}}
)

// own are those that need no other process.
var own = []*Snapshotter{Overlay, Native, Btrfs, Erofs}

// proxies are those that others serve.
var proxies atomic.Pointer[[]*Snapshotter]

// Serve adds the snapshotters of other processes to those of ctrd, in place of what it was told before. A program says it
// once, before it looks at any snapshot. A name that one of ctrd's own has is errdefs.ErrInvalidArgument.
func Serve(all ...Proxy) error {
	var made []*Snapshotter
	for _, p := range all {
		for _, sn := range slices.Concat(own, made) {
			if sn.Name() == p.Name {
				return fmt.Errorf("snapshotter %q: there is one of that name already; the name that a server has for its own may be another: %w", p.Name, errdefs.ErrInvalidArgument)
			}
		}
		made = append(made, &Snapshotter{newProxy(p)})
	}
	proxies.Store(&made)
	return nil
}

// Snapshotters lists all of them, the default first.
func Snapshotters() []*Snapshotter {
	if more := proxies.Load(); more != nil {
		return slices.Concat(own, *more)
	}
	return own
}

// Fetcher is a driver that may have an image's layer, or bring it, without being given it (containerd's remote snapshots).
type Fetcher interface {
	// Fetch stages an image's layer on top of another, or on none, and reports whether the driver has it; then it is as if
	// it had been unpacked and committed. Otherwise it is staged as [Driver.Stage] does it. target is its chain id, and
	// labels say what it is of.
	Fetch(ctx context.Context, d *state.Dir, id, parent ID, target string, labels map[string]string) (has bool, err error)
	// Fetched tells whether a layer is one that Fetch has reported.
	Fetched(d *state.Dir, id ID) bool
}

// Cleaner is a driver whose removals may leave something for later.
type Cleaner interface {
	// Clean does what removals have left. Collections call it last.
	Clean(ctx context.Context, d *state.Dir) error
}

// Remaker is a driver of which [Driver.Fix] throws away the tree that it is given in place, when it has made another thing of it.
type Remaker interface{ Remakes() }

// viewer is a driver of which a view is another thing than an active snapshot from its beginning.
type viewer interface {
	StageView(ctx context.Context, d *state.Dir, id, parent ID) error
}

// sorter is a driver that can remove a snapshot only after those that stand on it.
type sorter interface {
	Sort(d *state.Dir, ids []ID)
}

// Named gives the snapshotter of a name; without a name it is Overlay. One that is not there is
// errdefs.ErrInvalidArgument.
func Named(name string) (*Snapshotter, error) {
	if name == "" {
		return Overlay, nil
	}
	var names []string
	for _, sn := range Snapshotters() {
		if sn.Name() == name {
			return sn, nil
		}
		names = append(names, sn.Name())
	}
	return nil, fmt.Errorf("snapshotter %q: it is none of %s: %w", name, strings.Join(names, ", "), errdefs.ErrInvalidArgument)
}

// Has tells whether a record that names a snapshotter, or none, means this one.
func (sn *Snapshotter) Has(name string) bool {
	other, err := Named(name)
	return err == nil && other == sn
}

// Namespaces lists the namespaces that have snapshots of any snapshotter.
func Namespaces(tx *state.Tx) ([]string, error) {
	var all []string
	for _, sn := range Snapshotters() {
		names, err := sn.Namespaces(tx)
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// All yields the snapshots of a namespace, of one snapshotter after the other, each by key.
func All(tx *state.Tx, ns string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for _, sn := range Snapshotters() {
			for s, err := range sn.All(tx, ns) {
				if !yield(s, err) {
					return
				}
			}
		}
	}
}

func (sn *Snapshotter) records() state.Table[Info] {
	return state.Table[Info]{Name: "snapshots/" + sn.Name()}
}

// ID names the directory of a snapshot: 16 hexadecimal digits at random, or of an image's layer its whole chain id, so
// that no two layers share one. A root may have directories of layers with only 16 digits of it, which older programs
// made: a record says which.
type ID string

// NewID makes a random id.
func NewID() ID {
	b := make([]byte, 8)
	rand.Read(b)
	return ID(hex.EncodeToString(b))
}

// LayerID is the id of an image's layer, which is the same in every namespace.
func LayerID(chain digest.Digest) ID {
	if chain.Algorithm() == digest.SHA256 {
		return ID(chain.Encoded())
	}
	return ID(chain.Algorithm().String() + "-" + chain.Encoded())
}

// LayerIDs are the ids that the directory of a layer may have: the one that is made, and that of older programs.
func LayerIDs(chain digest.Digest) []ID { return []ID{LayerID(chain), ID(chain.Encoded()[:16])} }

// Path joins names below the directory of a snapshot.
func (sn *Snapshotter) Path(d *state.Dir, id ID, elem ...string) string {
	return pathOf(sn.Driver, d, id, elem...)
}

func pathOf(v Driver, d *state.Dir, id ID, elem ...string) string {
	return d.Path(append([]string{"snapshots", v.Name(), string(id)}, elem...)...)
}

// FS is the tree of a snapshot, with a driver whose trees are directories.
func (sn *Snapshotter) FS(d *state.Dir, id ID) string { return fsOf(sn.Driver, d, id) }

func fsOf(v Driver, d *state.Dir, id ID) string { return pathOf(v, d, id, "fs") }

// checkTree is Check for a tree that is a directory.
func checkTree(path string) error {
	st, err := os.Stat(path)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s is no directory: %w", path, errdefs.ErrDataLoss)
	}
	return err
}

// Gone tells whether an error of [Driver.Check] says that a tree is not there, or is not the one that its record means. Any other
// error says nothing of that.
func Gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errdefs.IsNotFound(err) || errdefs.IsDataLoss(err)
}

// Trees are directories to be read, until they are closed. Nothing is to be written there.
type Trees struct {
	Dirs  []string
	files []*os.File // mounts that are seen nowhere else, as directories
}

// Close gives up what was mounted to be read. No trees at all may be closed, too.
func (t *Trees) Close() (err error) {
	if t == nil {
		return nil
	}
	for _, f := range t.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Dirs yields the ids of all directories, recorded or not, in an order in which they can be dropped.
func (sn *Snapshotter) Dirs(d *state.Dir) iter.Seq2[ID, error] {
	return func(yield func(ID, error) bool) {
		entries, err := os.ReadDir(d.Path("snapshots", sn.Name()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			yield("", err)
			return
		}
		ids := make([]ID, len(entries))
		for i, e := range entries {
			ids[i] = ID(e.Name())
		}
		if s, ok := sn.Driver.(sorter); ok {
			s.Sort(d, ids)
		}
		for _, id := range ids {
			if !yield(id, nil) {
				return
			}
		}
	}
}

// Layers gives the directories that make up a snapshot and all that it stands on, the top first, which stay where they are.
// Those of a driver that has to mount them are errdefs.ErrNotImplemented; [Driver.Open] does.
func (sn *Snapshotter) Layers(ctx context.Context, tx *state.Tx, d *state.Dir, ns, key string) ([]string, error) {
	chain, err := sn.Chain(tx, ns, key)
	if err != nil {
		return nil, err
	}
	t, err := sn.Open(ctx, d, chain)
	if err != nil {
		return nil, err
	}
	if len(t.files) > 0 {
		return nil, errors.Join(fmt.Errorf("the layers of the snapshotter %s are no directories: %w", sn.Name(), errdefs.ErrNotImplemented), t.Close())
	}
	return t.Dirs, nil
}

// Mounts describes how to mount a snapshot, in the form that containerd's snapshotter of this name has. A committed
// snapshot is not mounted: ErrCommitted.
func (sn *Snapshotter) Mounts(ctx context.Context, tx *state.Tx, d *state.Dir, ns, key string) ([]mount.Mount, error) {
	return sn.mounts(ctx, tx, d, ns, key, false)
}

func (sn *Snapshotter) mounts(ctx context.Context, tx *state.Tx, d *state.Dir, ns, key string, own bool) ([]mount.Mount, error) {
	chain, err := sn.Chain(tx, ns, key)
	if err != nil {
		return nil, err
	}
	if chain[0].Kind == Committed {
		return nil, fmt.Errorf("mounts of snapshot %q: %w", key, ErrCommitted)
	}
	return sn.Driver.Mounts(ctx, d, chain, own)
}

// ErrCommitted says that a snapshot is committed and so cannot be mounted; its kind is
// errdefs.ErrFailedPrecondition.
var ErrCommitted = fmt.Errorf("it is committed; prepare or view one on top of it: %w", errdefs.ErrFailedPrecondition)

// bind is a bind mount of a directory; mode is ro or rw.
func bind(dir, mode string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{mode, "rbind"}}}
}

// bindTree is a bind mount of the whole tree of an active snapshot or a view, with the owners that its labels say.
func bindTree(dir string, s Info) []mount.Mount {
	mode := "rw"
	if s.Kind == View {
		mode = "ro"
	}
	m := bind(dir, mode)
	mapOwners(&m[0], s.Labels)
	return m
}

// syncNames makes the names in the directory of a snapshot durable, its own, and those in further directories.
func syncNames(v Driver, d *state.Dir, id ID, more ...string) error {
	dir := pathOf(v, d, id)
	for _, path := range append(more, dir, filepath.Dir(dir)) {
		if err := state.SyncDir(path); err != nil {
			return fmt.Errorf("sync snapshot %s: %w", id, err)
		}
	}
	return nil
}

// syncFS writes out the file system that a directory is on.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync snapshot: %w", err)
	}
	defer f.Close()
	return state.SyncFS(f, dir)
}
