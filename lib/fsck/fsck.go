// SPDX-License-Identifier: Apache-2.0

// Package fsck checks the invariants of the state directory. It changes nothing and takes no lock, so
// what it says of things that are being made or removed at the same moment may be out of date.
//
// The invariants, each of which a crash at any point preserves:
//
//   - every recorded blob has its file, of the recorded size (and with Deep, of its digest)
//   - every image's target is recorded; so are at least one manifest of an index, and the configuration and
//     the layers of every manifest that is
//   - every snapshot has its directory, with the fs-verity that its record says or none any more (and with Deep, with those
//     contents), and a committed parent unless it is the first
//   - every container has its snapshot and a spec
//   - the blob that an unfinished ingest shares with another namespace has its file
//   - every activation of mounts has its directory, with what was mounted there
//   - every lease and every namespace can be read
//   - no key is in both databases
//
// What no record names is garbage: the next collection removes it, and it is reported as such.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// Severity says what a finding means.
type Severity string

// Broken breaks an invariant; Garbage is left over and harmless; Unprotected is whole as far as can be told, and has lost what
// tells of changes.
const (
	Broken      Severity = "broken"
	Garbage     Severity = "garbage"
	Unprotected Severity = "unprotected"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Severity  Severity `json:"severity"`
	Kind      string   `json:"kind"` // database, content, ingest, image, snapshot, container, lease, mounts, namespace, task
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name"`
	Text      string   `json:"text"`
}

// Options say how far to look.
type Options struct {
	Deep bool // read every blob, and every layer that has fs-verity, and compare its digest
}

type checker struct {
	ctx   context.Context
	d     *state.Dir
	tx    *state.Tx
	deep  bool
	found []Finding

	blobs      map[digest.Digest]bool // recorded in any namespace
	snapshots  map[string]bool        // snapshotter/directory
	containers map[string]bool        // namespace/id
	mounts     map[string]bool        // directories of activations
	logs       map[string]bool        // namespace and container.Container.Files
}

// lookAgain is how long Check waits before it looks at damage again.
const lookAgain = 100 * time.Millisecond

// Check looks at the whole state directory. Damage is a finding, not an error. What another process removes while
// it is looked at may look broken, so damage is told only when a second look finds it too.
func Check(ctx context.Context, d *state.Dir, o Options) ([]Finding, error) {
	first, err := check(ctx, d, o)
	if err != nil || Whole(first) == nil {
		return first, err
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(lookAgain):
	}
	second, err := check(ctx, d, o)
	return slices.DeleteFunc(second, func(f Finding) bool {
		return f.Severity == Broken && !slices.ContainsFunc(first, func(g Finding) bool {
			return f.Severity == g.Severity && f.Kind == g.Kind && f.Namespace == g.Namespace && f.Name == g.Name
		})
	}), err
}

func check(ctx context.Context, d *state.Dir, o Options) ([]Finding, error) {
	var c *checker
	err := d.View(ctx, func(tx *state.Tx) error {
		c = &checker{ctx: ctx, d: d, tx: tx, deep: o.Deep, blobs: map[digest.Digest]bool{}, snapshots: map[string]bool{}, containers: map[string]bool{}, mounts: map[string]bool{}, logs: map[string]bool{}}
		return errors.Join(c.content(), c.snapshot(), c.image(), c.container(), c.sandbox(), c.lease(), c.activation(), c.namespace())
	})
	var damaged *state.DamagedError
	if errors.As(err, &damaged) {
		c.add(Broken, "database", "", damaged.Path, "%v", damaged.Err)
		return c.found, nil // without records nothing can be told from garbage
	}
	if err != nil {
		return nil, err
	}
	if err := c.garbage(); err != nil {
		return c.found, err
	}
	if ctx.Err() != nil { // what was not looked at any more is not whole for it
		return nil, context.Cause(ctx)
	}
	return c.found, nil
}

func (c *checker) add(s Severity, kind, ns, name, format string, args ...any) {
	c.found = append(c.found, Finding{s, kind, ns, name, fmt.Sprintf(format, args...)})
}

// each walks the records of all namespaces. A record that cannot be decoded is a finding, and so is one
// that is in both databases. note is called for every record, fn for those that were decoded.
func each[T any](c *checker, kind string, namespaces func(*state.Tx) ([]string, error), all func(*state.Tx, string) iter.Seq2[T, error], note func(ns string, v T) (name string), fn func(ns string, v T)) error {
	names, err := namespaces(c.tx)
	if err != nil {
		return err
	}
	for _, ns := range names {
		last := ""
		for v, err := range all(c.tx, ns) {
			if c.ctx.Err() != nil {
				return context.Cause(c.ctx)
			}
			name := note(ns, v)
			if name == last { // they come in order
				c.add(Broken, kind, ns, name, "it is in both databases")
			}
			last = name
			if err != nil {
				c.add(Broken, kind, ns, name, "%v", err)
				continue
			}
			fn(ns, v)
		}
	}
	return nil
}

func (c *checker) content() error {
	read := map[digest.Digest]bool{}
	note := func(_ string, b content.Blob) string {
		c.blobs[b.Digest] = true
		return b.Digest.String()
	}
	return each(c, "content", content.Namespaces, content.All, note, func(ns string, b content.Blob) {
		f, err := content.Open(c.d, b.Digest)
		if err != nil {
			c.add(Broken, "content", ns, b.Digest.String(), "%v", err)
			return
		}
		defer f.Close()
		st, err := f.Stat()
		switch {
		case err != nil:
			c.add(Broken, "content", ns, b.Digest.String(), "%v", err)
		case st.Size() != b.Size:
			c.add(Broken, "content", ns, b.Digest.String(), "its file has %d bytes, its record says %d", st.Size(), b.Size)
		case c.deep && !read[b.Digest]:
			read[b.Digest] = true
			v := b.Digest.Verifier()
			if _, err := io.Copy(v, reader{c.ctx, f}); err != nil {
				c.add(Broken, "content", ns, b.Digest.String(), "%v", err)
			} else if !v.Verified() {
				c.add(Broken, "content", ns, b.Digest.String(), "its file has another digest")
			}
		}
	})
}

// reader ends when its context does.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

func (c *checker) snapshot() error {
	var errs []error
	for _, sn := range snapshot.Snapshotters() {
		errs = append(errs, c.snapshotsOf(sn))
	}
	return errors.Join(errs...)
}

func (c *checker) snapshotsOf(sn *snapshot.Snapshotter) error {
	if names, err := sn.Namespaces(c.tx); err != nil || len(names) > 0 {
		if away := sn.Ready(c.d); errdefs.IsUnavailable(away) {
			// What cannot be asked is not broken, and its directories are no garbage.
			err := each(c, "snapshot", sn.Namespaces, sn.All, c.noteSnapshot(sn), func(string, snapshot.Info) {})
			return errors.Join(fmt.Errorf("snapshots that cannot be looked at: %w", away), err)
		}
	}
	read := map[string]error{}
	return each(c, "snapshot", sn.Namespaces, sn.All, c.noteSnapshot(sn), func(ns string, s snapshot.Info) {
		if err := sn.Check(c.d, s); err != nil && !snapshot.Unproven(err) {
			c.add(Broken, "snapshot", ns, s.Key, "its directory: %s", told(err))
		} else if p, ok := sn.Driver.(snapshot.Prover); ok {
			c.contents(p, ns, s, read)
		}
		if s.Parent == "" {
			return
		}
		parent, err := sn.Get(c.tx, ns, s.Parent)
		if err != nil {
			c.add(Broken, "snapshot", ns, s.Key, "its parent: %v", err)
		} else if parent.Kind != snapshot.Committed {
			c.add(Broken, "snapshot", ns, s.Key, "its parent %q is not committed", s.Parent)
		}
	})
}

// told is an error with the next step, where it names one.
func told(err error) string {
	var next interface{ Hint() string }
	if errors.As(err, &next) {
		return fmt.Sprintf("%v; %s", err, next.Hint())
	}
	return err.Error()
}

// contents compares what is committed of a snapshot with its record, with deep, and tells what nothing protects any more. read
// has what was read, with its error.
func (c *checker) contents(p snapshot.Prover, ns string, s snapshot.Info, read map[string]error) {
	key := string(s.ID) + s.Verity.String()
	err, known := read[key]
	if c.deep && !known {
		err = p.Prove(c.ctx, c.d, s)
		read[key] = err
	}
	if err != nil {
		c.add(Broken, "snapshot", ns, s.Key, "its contents: %s", told(err))
		return
	}
	switch at, lost := p.Proven(c.d, s); {
	case !lost:
	case c.deep:
		c.add(Unprotected, "snapshot", ns, s.Key, "it has no fs-verity any more, as in a copy of the root; its contents are right now")
	case at.IsZero():
		c.add(Unprotected, "snapshot", ns, s.Key, "it has no fs-verity any more, as in a copy of the root; its next use compares its contents, and so does fsck --deep")
	default:
		c.add(Unprotected, "snapshot", ns, s.Key, "it has no fs-verity any more, as in a copy of the root; its contents were right at %s, and the file has not been written to since then", at.UTC().Format(time.RFC3339))
	}
}

func (c *checker) noteSnapshot(sn *snapshot.Snapshotter) func(string, snapshot.Info) string {
	return func(_ string, s snapshot.Info) string {
		c.snapshots[sn.Name()+"/"+string(s.ID)] = true
		return s.Key
	}
}

func (c *checker) image() error {
	return each(c, "image", image.Namespaces, image.All, func(_ string, i image.Image) string { return i.Name }, func(ns string, i image.Image) {
		b, err := content.Get(c.tx, ns, i.Target.Digest)
		switch {
		case err != nil:
			c.add(Broken, "image", ns, i.Name, "its target: %v", err)
		case b.Size != i.Target.Size:
			c.add(Broken, "image", ns, i.Name, "its target has %d bytes, its record says %d", b.Size, i.Target.Size)
		default:
			if err := c.refs(ns, i.Target); err != nil {
				c.add(Broken, "image", ns, i.Name, "%v", err)
			}
		}
	})
}

// maxFaults is how many faults of one image are told.
const maxFaults = 8

// refs checks that what a recorded index or manifest leads to is recorded, too. An index can list one
// document many times, and so can the indexes in it: each is read once.
func (c *checker) refs(ns string, target ocispec.Descriptor) error {
	var errs []error
	seen := map[digest.Digest]bool{}
	for next := []ocispec.Descriptor{target}; len(next) > 0 && c.ctx.Err() == nil; {
		desc := next[0]
		next = next[1:]
		if !image.IsIndex(desc.MediaType) && !image.IsManifest(desc.MediaType) || seen[desc.Digest] {
			continue
		}
		seen[desc.Digest] = true
		var err error
		if image.IsManifest(desc.MediaType) {
			err = c.manifest(ns, desc)
		} else {
			var here []ocispec.Descriptor
			here, err = c.index(ns, desc)
			next = append(next, here...)
		}
		if err != nil {
			errs = append(errs, err)
		}
		if len(errs) == maxFaults {
			errs = append(errs, errors.New("there may be more"))
			break
		}
	}
	return errors.Join(errs...)
}

func (c *checker) manifest(ns string, desc ocispec.Descriptor) error {
	data, err := content.ReadAll(c.d, desc, image.MaxManifest)
	if err != nil {
		return err
	}
	m, err := image.ParseManifest(data, desc.MediaType)
	if errdefs.IsNotImplemented(err) {
		return nil // it is of something that is no image
	}
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	kept, err := c.named(ns, desc.Digest)
	if err != nil {
		return err
	}
	for _, part := range append(m.Layers, m.Config) {
		if _, err := content.Get(c.tx, ns, part.Digest); err != nil && (len(kept) == 0 || kept[part.Digest.String()]) {
			return fmt.Errorf("its manifest %s refers to: %w", desc.Digest, err)
		}
	}
	return nil
}

// named gives the digests that a blob's labels name. A layer that its manifest's labels leave out was discarded when
// it had been unpacked.
func (c *checker) named(ns string, dg digest.Digest) (map[string]bool, error) {
	b, err := content.Get(c.tx, ns, dg)
	all := map[string]bool{}
	for k, v := range b.Labels {
		if strings.HasPrefix(k, "containerd.io/gc.ref.content.") {
			all[v] = true
		}
	}
	return all, err
}

// index gives what of an index is recorded. One manifest is enough, as a pull brings those of one
// platform.
func (c *checker) index(ns string, desc ocispec.Descriptor) (here []ocispec.Descriptor, err error) {
	data, err := content.ReadAll(c.d, desc, image.MaxManifest)
	if err != nil {
		return nil, err
	}
	x, err := image.ParseIndex(data, desc.MediaType)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	var fault error
	for _, m := range x.Manifests {
		switch _, err := content.Get(c.tx, ns, m.Digest); {
		case err == nil:
			here = append(here, ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size})
		case !errdefs.IsNotFound(err):
			fault = err
		}
	}
	if len(here) == 0 && fault == nil && len(x.Manifests) > 0 {
		return nil, fmt.Errorf("none of the manifests of its index %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return here, fault
}

func (c *checker) container() error {
	note := func(ns string, k container.Container) string {
		c.containers[ns+"/"+k.ID], c.logs[ns+"/"+k.Files()] = true, true
		return k.ID
	}
	return each(c, "container", container.Namespaces, container.All, note, func(ns string, k container.Container) {
		if _, err := container.Spec(c.tx, ns, k.ID); err != nil {
			c.add(Broken, "container", ns, k.ID, "%v", err)
		}
		if k.SnapshotKey == "" {
			return
		}
		sn, err := snapshot.Named(k.Snapshotter)
		if err == nil {
			_, err = sn.Get(c.tx, ns, k.SnapshotKey)
		}
		if err != nil {
			c.add(Broken, "container", ns, k.ID, "its snapshot: %v", err)
		}
	})
}

func (c *checker) sandbox() error {
	id := func(_ string, s sandbox.Sandbox) string { return s.ID }
	return each(c, "sandbox", sandbox.Namespaces, sandbox.All, id, func(ns string, s sandbox.Sandbox) {
		if s.Name == "" {
			return
		}
		named, err := sandbox.ByName(c.tx, ns, s.Name)
		if err != nil {
			c.add(Broken, "sandbox", ns, s.ID, "its name %q: %v", s.Name, err)
		} else if named.ID != s.ID {
			c.add(Broken, "sandbox", ns, s.ID, "its name %q is that of sandbox %q", s.Name, named.ID)
		}
	})
}

// lease and namespace look whether the records can be decoded. What a lease holds need not be there.
func (c *checker) lease() error {
	name := func(_ string, l lease.Record) string { return l.ID }
	return each(c, "lease", lease.Namespaces, lease.All, name, func(string, lease.Record) {})
}

func (c *checker) activation() error {
	note := func(_ string, a activation.Activation) string {
		c.mounts[a.ID] = true
		return a.Name
	}
	return each(c, "mounts", activation.Namespaces, activation.All, note, func(ns string, a activation.Activation) {
		if err := a.Check(c.d); err != nil {
			c.add(Broken, "mounts", ns, a.Name, "%v", err)
		}
	})
}

func (c *checker) namespace() error {
	for n, err := range namespace.All(c.tx) {
		if err != nil && !state.IsRecordError(err) {
			return err
		}
		if err != nil {
			c.add(Broken, "namespace", n.Name, n.Name, "%v", err)
		}
	}
	return nil
}

// shared looks whether the blobs are there that unfinished ingests take over from another namespace.
func (c *checker) shared() error {
	for r, err := range content.RefIngests(c.d) {
		if err := errors.Join(err, c.ctx.Err()); err != nil {
			return err
		}
		if !r.Shared {
			continue
		}
		c.blobs[r.Expected] = true
		if _, err := os.Stat(content.Path(c.d, r.Expected)); err != nil {
			c.add(Broken, "ingest", r.Namespace, r.Ref, "the blob that it shares: %v", err)
		}
	}
	return nil
}

// garbage lists the files that no record names.
func (c *checker) garbage() error {
	if err := c.shared(); err != nil {
		return err
	}
	for f, err := range content.Files(c.d) {
		if err := errors.Join(err, c.ctx.Err()); err != nil {
			return err
		}
		if !c.blobs[f.Digest] {
			c.add(Garbage, "content", "", f.Path, "no record names it")
		}
	}
	for _, sn := range snapshot.Snapshotters() {
		for id, err := range sn.Dirs(c.d) {
			if err := errors.Join(err, c.ctx.Err()); err != nil {
				return err
			}
			if !c.snapshots[sn.Name()+"/"+string(id)] {
				c.add(Garbage, "snapshot", "", string(id), "no record names it")
			}
		}
	}
	for id, err := range activation.Dirs(c.d) {
		if err := errors.Join(err, c.ctx.Err()); err != nil {
			return err
		}
		if !c.mounts[id] && !activation.Live(c.d, id) {
			c.add(Garbage, "mounts", "", id, "no record names it")
		}
	}
	for dir, err := range task.Dirs(c.d) {
		if err := errors.Join(err, c.ctx.Err()); err != nil {
			return err
		}
		ns, id, _ := strings.Cut(dir, "/")
		if !c.containers[dir] {
			c.add(Garbage, "task", ns, id, "no container has this task")
		}
	}
	for dir, err := range task.LogDirs(c.d) {
		if err := errors.Join(err, c.ctx.Err()); err != nil {
			return err
		}
		ns, id, _ := strings.Cut(dir, "/")
		if !c.logs[dir] {
			c.add(Garbage, "container", ns, id, "a log without a container")
		}
	}
	for _, bin := range []string{c.d.Path("trash"), c.d.Run("trash")} {
		entries, err := os.ReadDir(bin)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if len(entries) > 0 {
			c.add(Garbage, "trash", "", bin, "%d entries wait to be deleted", len(entries))
		}
	}
	return nil
}

// Whole tells whether no invariant is broken; the error of one that is has the kind errdefs.ErrDataLoss.
func Whole(found []Finding) error {
	n := 0
	for _, f := range found {
		if f.Severity == Broken {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("the state directory has %d broken invariants: %w", n, errdefs.ErrDataLoss)
}
