// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshotapi"
	"ctrd.dev/ctrd/lib/state"
)

// Proxy says where a snapshotter is that another process serves by containerd's snapshots API.
type Proxy struct {
	Name    string // what it is called here
	Address string // the path of its unix socket
	// Snapshotter is what it is called there; empty: Name.
	Snapshotter string
	// Root is the directory that all of its trees are in; empty: they may be anywhere but where ctrd or the system has its own.
	Root string
	// Annotate has pulls tell it of the image and its layers, so that it may fetch these itself.
	Annotate bool
	// Maps tells that owners of files may be mapped in its mounts (containerd's capability remap-ids).
	Maps bool
}

// proxyNamespace is the namespace in which all of ctrd's snapshots are at a server, as its layers are shared by the namespaces
// of a root.
const proxyNamespace = "ctrd"

// Time that a server has for an answer. Making a snapshot may be a copy of a whole tree, and fetching a layer.
const (
	makeWithin = 10 * time.Minute
	askWithin  = 30 * time.Second
)

// Labels of snapshots at a server.
const (
	labelTarget = "containerd.io/snapshot.ref" // of a layer, its chain id
)

// proxy keeps snapshots with another program. The directory of a snapshot has a file that names them there; see [note].
type proxy struct {
	Proxy
	making, asking *snapshotapi.Client
	mu             sync.Mutex
	silent         time.Time // until then nothing is removed, as the server did not answer
}

func newProxy(p Proxy) *proxy {
	c := snapshotapi.Client{Address: p.Address, Snapshotter: p.Name, Namespace: proxyNamespace, Timeout: makeWithin}
	if p.Snapshotter != "" {
		c.Snapshotter = p.Snapshotter
	}
	a := c
	a.Timeout = askWithin
	return &proxy{Proxy: p, making: &c, asking: &a}
}

func (p *proxy) Name() string { return p.Proxy.Name }

// ProxyError says that a snapshotter of another process failed. Its kind is that of its cause.
type ProxyError struct {
	Name, Address string
	Err           error
}

// Error names the snapshotter.
func (e *ProxyError) Error() string { return fmt.Sprintf("snapshotter %s: %v", e.Name, e.Err) }

// Unwrap gives the cause.
func (e *ProxyError) Unwrap() error { return e.Err }

// Hint names the next step.
func (e *ProxyError) Hint() string {
	if !errdefs.IsUnavailable(e.Err) {
		return ""
	}
	return "is its server running, and is " + e.Address + " its socket? proxy_plugins in the configuration says so"
}

func (p *proxy) wrap(err error) error {
	if err == nil {
		return nil
	}
	return &ProxyError{p.Proxy.Name, p.Address, err}
}

// lies says that a server answered what cannot be.
func (p *proxy) lies(format string, args ...any) error {
	return p.wrap(fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrFailedPrecondition))
}

// Ready asks the server for a snapshot that is not there.
func (p *proxy) Ready(*state.Dir) error {
	_, err := p.asking.Stat(context.Background(), "ctrd/none")
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	return p.wrap(err)
}

// Late is false: a server wants the parent when a snapshot is prepared.
func (p *proxy) Late() bool { return false }

// note is the file in the directory of a snapshot: what is with the server for it. It is written before the server is asked, so
// that what it has can be found and removed.
type note struct {
	// Key is of the active snapshot or the view. No two notes have the same.
	Key string `json:"key"`
	// Below is the name of what it stands on, if anything.
	Below string `json:"below,omitempty"`
	// Layer is the name of what another one has committed as this layer: a server that fetches layers itself. Then there was
	// never anything under Key.
	Layer string `json:"layer,omitempty"`
}

// noteFile is the name of the file of a note.
const noteFile = "proxy.json"

// maxNote bounds a note, in bytes.
const maxNote = 64 << 10

// committed is the name of what is committed of an active snapshot, and look that of a view of it, for readers.
func (n note) committed() string {
	if n.Layer != "" {
		return n.Layer
	}
	return n.Key + "-committed"
}

func (n note) look() string { return n.Key + "-view" }

func (p *proxy) read(d *state.Dir, id ID) (n note, err error) {
	f, err := os.Open(pathOf(p, d, id, noteFile))
	if err != nil {
		return n, fmt.Errorf("snapshot: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err == nil {
		err = json.Unmarshal(data, &n)
	}
	if err == nil && n.Key == "" {
		err = errors.New("it has no key")
	}
	if err != nil {
		err = fmt.Errorf("snapshot: %s: %w: %w", f.Name(), err, errdefs.ErrDataLoss)
	}
	return n, err
}

func (p *proxy) write(d *state.Dir, id ID, n note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	dir := pathOf(p, d, id)
	f, err := os.OpenFile(filepath.Join(dir, noteFile+".new"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, noteFile))
	}
	if err == nil {
		err = state.SyncDir(dir)
	}
	return err
}

// begin makes the directory of a snapshot and its note, and gives the name of its parent at the server. What a killed process
// has left there goes first.
func (p *proxy) begin(ctx context.Context, d *state.Dir, id, parent ID) (n note, err error) {
	if parent != "" {
		up, err := p.read(d, parent)
		if err != nil {
			return n, err
		}
		n.Below = up.committed()
	}
	if err := p.drop(ctx, d, id); err != nil {
		return n, err
	}
	n.Key = "ctrd/" + string(NewID()) + "/" + strings.TrimSuffix(string(id), ".new")
	dir := pathOf(p, d, id)
	err = os.MkdirAll(filepath.Join(dir, "fs"), 0o700)
	if err == nil {
		err = p.write(d, id, n)
	}
	for _, above := range []string{filepath.Dir(dir), d.Path("snapshots")} {
		if err == nil {
			err = state.SyncDir(above)
		}
	}
	if err != nil {
		return n, fmt.Errorf("snapshot: %w", err)
	}
	crash.Point("snapshot.noted")
	return n, nil
}

func (p *proxy) Stage(ctx context.Context, d *state.Dir, id, parent ID) error {
	n, err := p.begin(ctx, d, id, parent)
	if err != nil {
		return err
	}
	mounts, err := p.making.Prepare(ctx, n.Key, n.Below, keep(nil))
	crash.Point("snapshot.stage")
	if err == nil {
		err = p.expect(ctx, n.Key, n.Below, snapshotapi.Active)
	}
	if err != nil {
		return p.wrap(err)
	}
	return p.show(d, id, mounts)
}

// StageView is Stage for what is only looked at.
func (p *proxy) StageView(ctx context.Context, d *state.Dir, id, parent ID) error {
	n, err := p.begin(ctx, d, id, parent)
	if err == nil && parent == "" {
		_, err = p.making.Prepare(ctx, n.Key, "", keep(nil)) // many servers have no view of nothing
		return p.wrap(err)
	}
	if err == nil {
		_, err = p.making.View(ctx, n.Key, n.Below, keep(nil))
		err = p.wrap(err)
	}
	return err
}

// keep adds the label by which a containerd keeps it.
func keep(labels map[string]string) map[string]string {
	// A containerd that serves the snapshotter is to keep what its own records do not name.
	all := map[string]string{label.Root: "ctrd"}
	for k, v := range labels {
		all[k] = v
	}
	return all
}

// expect tells whether a snapshot at the server is what it was asked to be.
func (p *proxy) expect(ctx context.Context, key, parent string, kind snapshotapi.Kind) error {
	i, err := p.asking.Stat(ctx, key)
	switch {
	case err != nil:
		return err
	case i.Kind != kind:
		return fmt.Errorf("it says that its snapshot %q is %s, and not %s: %w", key, i.Kind, kind, errdefs.ErrFailedPrecondition)
	case i.Parent != parent:
		return fmt.Errorf("it says that its snapshot %q stands on %q, and not on %q: %w", key, i.Parent, parent, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// show notes where the tree of an active snapshot is seen, by which a mount of it is known: FS is a link to the source of its
// bind mount. Of an overlay, Mounts has FS as the source.
func (p *proxy) show(d *state.Dir, id ID, mounts []mount.Mount) error {
	if err := p.judge(d, mounts); err != nil {
		return err
	}
	m := mounts[len(mounts)-1]
	var err error
	if isBind(m) {
		fs := fsOf(p, d, id)
		if err = os.Remove(fs); err == nil {
			err = os.Symlink(m.Source, fs)
		}
	} else if upper, _, _ := mount.Layers(m.Options); m.Type == "overlay" && upper != "" {
		err = os.Symlink(upper, pathOf(p, d, id, upperLink))
	}
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// upperLink is beside the note of an active snapshot that is an overlay, and leads to its upper directory.
const upperLink = "upper"

func isBind(m mount.Mount) bool { return binds(m) && m.Target == "" }

// binds tells whether a mount shows a directory that is there, at its target or below: the options say so whatever the type is.
func binds(m mount.Mount) bool {
	return m.Type == "bind" || m.Type == "rbind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// Fetch stages an image's layer that the server may have, or fetch, without being given it. It reports whether that is so; then
// the layer is committed. Otherwise it is staged as Stage does it. target is its chain id.
func (p *proxy) Fetch(ctx context.Context, d *state.Dir, id, parent ID, target string, labels map[string]string) (bool, error) {
	n, err := p.begin(ctx, d, id, parent)
	if err != nil {
		return false, err
	}
	all := map[string]string{labelTarget: target}
	if p.Annotate {
		for k, v := range labels {
			all[k] = v
		}
	}
	mounts, err := p.making.Prepare(ctx, n.Key, n.Below, keep(all))
	crash.Point("snapshot.stage")
	if errdefs.IsAlreadyExists(err) {
		if n.Layer, err = p.find(ctx, target, n.Below); err == nil {
			err = p.write(d, id, n)
		}
		return err == nil, err
	}
	if err == nil {
		err = p.expect(ctx, n.Key, n.Below, snapshotapi.Active)
	}
	if err != nil {
		return false, p.wrap(err)
	}
	return false, p.show(d, id, mounts)
}

// find gives the name of a committed layer that a server says it has.
func (p *proxy) find(ctx context.Context, target, parent string) (string, error) {
	all, err := p.asking.List(ctx, fmt.Sprintf("labels.%q==%q", labelTarget, target))
	if err != nil {
		return "", p.wrap(err)
	}
	for _, i := range all {
		if i.Kind == snapshotapi.Committed && i.Parent == parent && i.Labels[labelTarget] == target && i.Name != "" && len(i.Name) <= maxKey {
			return i.Name, nil
		}
	}
	return "", p.lies("it says that it has the layer %s, and lists no committed snapshot of it that stands on %q", target, parent)
}

// Fetched tells whether a layer is one that the server has without having been given it.
func (p *proxy) Fetched(d *state.Dir, id ID) bool {
	n, err := p.read(d, id)
	return err == nil && n.Layer != ""
}

// Fix commits the snapshot at the server, where the active one is then gone: a record that says otherwise, as the process was
// killed in between, is committed by doing it again.
func (p *proxy) Fix(ctx context.Context, d *state.Dir, from, _ ID) (Fixed, error) {
	f := Fixed{ID: from}
	n, err := p.read(d, from)
	if err != nil || n.Layer != "" {
		return f, err
	}
	i, err := p.asking.Stat(ctx, n.Key)
	switch {
	case err == nil && i.Kind == snapshotapi.Active:
		if err := p.sync(ctx, d, n); err != nil {
			return f, err
		}
		labels := i.Labels
		if target, ok := labels[labelTarget]; ok {
			labels = map[string]string{labelTarget: target}
		}
		err = p.making.Commit(ctx, n.committed(), n.Key, keep(labels))
		crash.Point("snapshot.proxied")
	case errdefs.IsNotFound(err): // it was committed
		err = nil
	case err == nil:
		err = fmt.Errorf("it says that its snapshot %q is %s: %w", n.Key, i.Kind, errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = p.expect(ctx, n.committed(), n.Below, snapshotapi.Committed)
	}
	if err == nil {
		f.Size, f.Inodes, err = p.asking.Usage(ctx, n.committed())
	}
	return f, p.wrap(err)
}

// sync writes out what was written into an active snapshot, wherever that is.
func (p *proxy) sync(ctx context.Context, d *state.Dir, n note) error {
	mounts, err := p.asking.Mounts(ctx, n.Key)
	if err != nil {
		return p.wrap(err)
	}
	if err := p.judge(d, mounts); err != nil {
		return err
	}
	dirs, err := dirsOf(mounts)
	if err != nil || len(dirs) == 0 {
		return err
	}
	return syncFS(dirs[0])
}

// Maps is what the configuration says, where the kernel can do it.
func (p *proxy) Maps(d *state.Dir) bool { return p.Proxy.Maps && mapsTree(d) }

func (p *proxy) Adopt(d *state.Dir, s Info, _ ID) error {
	if !p.Proxy.Maps && (s.Labels[LabelUIDMapping] != "" || s.Labels[LabelGIDMapping] != "") {
		return p.wrap(errNoMap)
	}
	if upper, err := filepath.EvalSymlinks(pathOf(p, d, s.ID, upperLink)); err == nil {
		return shift(upper, s.Labels)
	}
	return adoptTree(d, fsOf(p, d, s.ID), s)
}

// Mounts asks the server.
func (p *proxy) Mounts(ctx context.Context, d *state.Dir, chain []Info, own bool) ([]mount.Mount, error) {
	s := chain[0]
	n, err := p.read(d, s.ID)
	if err != nil {
		return nil, err
	}
	mounts, err := p.asking.Mounts(ctx, n.Key)
	if errdefs.IsNotFound(err) {
		if _, e := p.asking.Stat(ctx, n.committed()); e == nil {
			return nil, fmt.Errorf("snapshot %q was being committed when that was ended; commit it again: %w", s.Key, errdefs.ErrFailedPrecondition)
		}
	}
	if err != nil {
		return nil, p.wrap(err)
	}
	if err := p.judge(d, mounts); err != nil {
		return nil, err
	}
	m := &mounts[len(mounts)-1]
	if s.Kind == View {
		if mounts, err = readOnly(mounts); err != nil {
			return nil, err
		}
		m = &mounts[len(mounts)-1]
	}
	if own {
		if s.Kind == View && isBind(*m) {
			mounts = overlayOf(m.Source, fsOf(p, d, s.ID))
			m = &mounts[0]
		}
		if !isBind(*m) {
			m.Source = fsOf(p, d, s.ID)
		}
	}
	mapOwners(m, s.Labels)
	return mounts, nil
}

// readOnly makes mounts such that nothing can be written by them.
func readOnly(mounts []mount.Mount) ([]mount.Mount, error) {
	m := &mounts[len(mounts)-1]
	if m.Type == "overlay" {
		upper, lower, err := mount.Layers(m.Options)
		if err != nil || upper == "" {
			return mounts, err
		}
		all := bind(upper, "ro")
		switch len(lower) { // nobody has written into the upper one
		case 0:
		case 1:
			all = bind(lower[0], "ro")
		default:
			all = overlayOf(lower...)
		}
		return append(mounts[:len(mounts)-1], all...), nil
	}
	m.Options = append(slices.DeleteFunc(m.Options, func(o string) bool { return o == "rw" }), "ro")
	return mounts, nil
}

// dirsOf gives the directories that mounts show, the top first. What is neither a bind mount nor an overlay has none.
func dirsOf(mounts []mount.Mount) ([]string, error) {
	m := mounts[len(mounts)-1]
	switch {
	case len(mounts) > 1:
		return nil, nil
	case isBind(m):
		return []string{m.Source}, nil
	case m.Type == "overlay":
		upper, lower, err := mount.Layers(m.Options)
		if upper != "" {
			lower = append([]string{upper}, lower...)
		}
		return lower, err
	}
	return nil, nil
}

// Open reads by the snapshot's own mounts, and what is committed by those of a view, which stays as long as the snapshot does.
func (p *proxy) Open(ctx context.Context, d *state.Dir, chain []Info) (*Trees, error) {
	s := chain[0]
	n, err := p.read(d, s.ID)
	if err != nil {
		return nil, err
	}
	key := n.Key
	if s.Kind == Committed {
		key = n.look()
	}
	mounts, err := p.asking.Mounts(ctx, key)
	if s.Kind == Committed && errdefs.IsNotFound(err) {
		mounts, err = p.making.View(ctx, key, n.committed(), keep(nil))
		if errdefs.IsAlreadyExists(err) { // another process made it just now
			mounts, err = p.asking.Mounts(ctx, key)
		}
	}
	if err != nil {
		return nil, p.wrap(err)
	}
	if err := p.judge(d, mounts); err != nil {
		return nil, err
	}
	dirs, err := dirsOf(mounts)
	if err != nil || len(dirs) > 0 {
		return &Trees{Dirs: dirs}, err
	}
	if len(mounts) > 1 {
		return nil, p.wrap(fmt.Errorf("a snapshot of %d mounts cannot be read without being mounted: %w", len(mounts), errdefs.ErrNotImplemented))
	}
	files, err := mount.Detached(mounts...)
	if err != nil {
		return nil, p.wrap(err)
	}
	t := &Trees{files: files}
	for _, f := range files {
		t.Dirs = append(t.Dirs, fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	}
	return t, nil
}

// Check asks the server whether it has the snapshot still. One that it has lost is errdefs.ErrNotFound, and one of which it does
// not say so errdefs.ErrUnavailable.
func (p *proxy) Check(d *state.Dir, s Info) error {
	n, err := p.read(d, s.ID)
	if err != nil {
		return err
	}
	for _, key := range []string{n.committed(), n.Key} {
		if _, err = p.asking.Stat(context.Background(), key); !errdefs.IsNotFound(err) {
			break
		}
	}
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("%w: %w", err, os.ErrNotExist)
	}
	return p.wrap(err)
}

func (p *proxy) Usage(ctx context.Context, d *state.Dir, id ID) (size, inodes int64, err error) {
	n, err := p.read(d, id)
	if err != nil {
		return 0, 0, err
	}
	size, inodes, err = p.asking.Usage(ctx, n.committed())
	if errdefs.IsNotFound(err) {
		size, inodes, err = p.asking.Usage(ctx, n.Key)
	}
	return size, inodes, p.wrap(err)
}

// Sync is of the directory alone: what a server has is durable by Fix, and otherwise the server's business.
func (p *proxy) Sync(d *state.Dir, id ID, _ bool) error {
	return syncNames(p, d, id)
}

// Clean asks the server for what it has put off, as one with containerd's AsynchronousRemove does. Others may not know the call, and
// one that is away does it when it is asked again.
func (p *proxy) Clean(ctx context.Context, d *state.Dir) error {
	if _, err := os.Lstat(d.Path("snapshots", p.Name())); err != nil || p.isSilent() {
		return nil
	}
	err := p.asking.Cleanup(ctx)
	if errdefs.IsNotImplemented(err) || errdefs.IsUnavailable(err) {
		err = nil
	}
	return p.wrap(err)
}

func (p *proxy) isSilent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.silent)
}

// Drop leaves what a server that is not there cannot remove to the next collection.
func (p *proxy) Drop(d *state.Dir, id ID) error {
	if p.isSilent() {
		return nil
	}
	err := p.drop(context.Background(), d, id)
	if !errdefs.IsUnavailable(err) {
		return err
	}
	d.Warn(fmt.Errorf("a snapshot is left to the next ctrd gc: %w", err))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = time.Now().Add(askWithin)
	return nil
}

func (p *proxy) drop(ctx context.Context, d *state.Dir, id ID) error {
	dir := pathOf(p, d, id)
	n, err := p.read(d, id)
	if errors.Is(err, os.ErrNotExist) || errdefs.IsDataLoss(err) {
		return d.Trash(dir) // a process was killed before it had asked for anything
	}
	if err != nil {
		return err
	}
	for _, key := range []string{n.look(), n.Key, n.committed()} {
		err := p.asking.Remove(ctx, key)
		switch {
		case err == nil || errdefs.IsNotFound(err):
		case !errdefs.IsFailedPrecondition(err) || key != n.committed():
			return p.wrap(err)
		case n.Layer == "":
			// Others stand on it still. A collection that removes these removes it, too; its id is free.
			return os.Rename(dir, pathOf(p, d, NewID()))
		default: // others than ours stand on it
		}
	}
	crash.Point("snapshot.unproxied")
	return d.Trash(dir)
}

// Sort puts each snapshot before what it stands on, as a server removes none that others stand on.
func (p *proxy) Sort(d *state.Dir, ids []ID) {
	ofName := map[string]ID{}
	below := map[ID]string{}
	for _, id := range ids {
		if n, err := p.read(d, id); err == nil {
			ofName[n.committed()] = id
			below[id] = n.Below
		}
	}
	depth := func(id ID) (n int) {
		for ; n < maxChain && below[id] != ""; n++ {
			id = ofName[below[id]]
		}
		return n
	}
	depths := map[ID]int{}
	for _, id := range ids {
		depths[id] = depth(id)
	}
	slices.SortStableFunc(ids, func(a, b ID) int { return depths[b] - depths[a] })
}

// Where bind mounts and layers of overlays cannot be, whatever a server says.
var notTrees = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr"}

// fileSystems are the types of mounts that are taken from a server.
var fileSystems = []string{"bind", "rbind", "overlay", "btrfs", "erofs", "ext4", "squashfs", "xfs"}

// maxOptionBytes bounds the options of a mount, in bytes.
const maxOptionBytes = 1 << 20

// judge refuses mounts that a snapshotter has no business to give.
func (p *proxy) judge(d *state.Dir, mounts []mount.Mount) error {
	if len(mounts) == 0 {
		return p.lies("it gives no mounts for a snapshot")
	}
	for _, m := range mounts {
		if err := p.judgeOne(d, m); err != nil {
			return err
		}
	}
	return nil
}

func (p *proxy) judgeOne(d *state.Dir, m mount.Mount) error {
	if !slices.Contains(fileSystems, m.Type) {
		return p.wrap(fmt.Errorf("it gives a mount of type %.100q, which is none of %s: %w", m.Type, strings.Join(fileSystems, ", "), errdefs.ErrNotImplemented))
	}
	size := len(m.Source) + len(m.Target)
	for _, o := range m.Options {
		size += len(o)
	}
	if text := m.Source + m.Target + strings.Join(m.Options, ""); size > maxOptionBytes || strings.ContainsRune(text, 0) {
		return p.lies("it gives a mount that has a NUL, or more than %d bytes of options", maxOptionBytes)
	}
	if m.Target != "" && !filepath.IsLocal(strings.TrimPrefix(m.Target, "/")) && m.Target != "/" {
		return p.lies("it gives a mount at %.100q", m.Target)
	}
	if slices.Contains(m.Options, "remount") {
		return p.lies("it gives a mount with the option remount, which changes another one")
	}
	paths := []string{m.Source}
	if m.Type == "overlay" {
		if binds(m) {
			return p.lies("it gives an overlay with the option bind, which is none")
		}
		upper, lower, err := mount.Layers(m.Options)
		if err != nil {
			return p.wrap(fmt.Errorf("its overlay: %w", err))
		}
		paths = lower
		if upper != "" {
			paths = append(paths, upper)
		}
		for _, o := range m.Options {
			if work, ok := strings.CutPrefix(o, "workdir="); ok {
				paths = append(paths, work)
			}
		}
	} else if !binds(m) {
		if !filepath.IsAbs(m.Source) {
			return p.lies("it gives a mount of %.100q, which is no absolute path", m.Source)
		}
		if st, err := os.Stat(m.Source); err == nil && st.IsDir() {
			return p.lies("it gives a mount of type %s of %.200q, which is neither a device nor a file", m.Type, m.Source)
		}
		return nil
	}
	for _, path := range paths {
		if err := p.judgePath(d, path); err != nil {
			return err
		}
	}
	return nil
}

// judgePath judges a directory that is to be a tree.
func (p *proxy) judgePath(d *state.Dir, path string) error {
	if !filepath.IsAbs(path) {
		return p.lies("it gives a mount of %.100q, which is no absolute path", path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return p.lies("it gives a mount of %.200q: %v", path, err)
	}
	wrong := strings.Count(real, "/") < 2 || real == "/"
	for _, dir := range notTrees {
		wrong = wrong || within(real, dir)
	}
	for _, own := range []string{d.Path(), d.Run()} {
		if at, err := filepath.EvalSymlinks(own); err == nil {
			own = at
		}
		wrong = wrong || within(real, own) || within(own, real)
	}
	if root := p.Root; root != "" {
		if at, err := filepath.EvalSymlinks(root); err == nil {
			root = at
		}
		if real == root || !within(real, root) {
			return p.lies("it gives a mount of %.200q, which is not below %s, where its trees are", path, p.Root)
		}
	}
	if wrong {
		return p.lies("it gives a mount of %.200q, which is no place for trees of snapshots", path)
	}
	return nil
}

// within tells whether a path is a directory or below it.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && (rest == "" || rest[0] == '/')
}
