// SPDX-License-Identifier: Apache-2.0

// Package account says what every byte below the root and the state directory is for, and who holds it. It changes
// nothing and takes no lock, so what it says of things that are being made or removed at the same moment may be out of
// date.
package account

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/btrfs"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// Use says what something is for.
type Use string

// The uses.
const (
	Held    Use = "held"    // something holds it
	Garbage Use = "garbage" // nothing does: the next collection removes it
	Trash   Use = "trash"   // it is removed, and waits to be deleted
	System  Use = "system"  // it is ctrd's own: databases, locks, the journal
	Unknown Use = "unknown" // it is not ctrd's
)

// Piece is a file or directory that is for one thing.
type Piece struct {
	Name    string      `json:"name"`  // its path below the root or, after state/, below the state directory
	Part    string      `json:"part"`  // the name in the table of the state directory under which it lies; other: of none
	Use     Use         `json:"use"`   // what it is for
	Bytes   int64       `json:"bytes"` // on the disk
	Files   int64       `json:"files"` // names, directories included
	Holders []gc.Holder `json:"holders,omitempty"`
}

// parts are the names below the two directories, and how many levels below each the pieces are.
var (
	rootParts = []part{
		{"meta.db", 0}, {"content/blobs", 2}, {"content/ingest", 1}, {"snapshots", 2}, {"containers", 2}, {"networks", 2}, {"trash", 1}, {"reserve", 0}, {"locks", 0}, {"pair", 0},
		{"meta.db.new", 0},
	}
	stateParts = []part{
		{"run.db", 0}, {"tasks", 2}, {"io.containerd.runtime.v2.task", 2}, {"pods", 2}, {"events", 0}, {"leases", 0}, {"mounts", 0}, {"uploads", 0}, {"locks", 0}, {"trash", 1}, {"reserve", 0}, {"s", 0}, {"boot", 0}, {"pair", 0},
		{"pairing", 0}, {"run.db.new", 0}, {"netns", 2}, {"ipam", 0},
	}
)

type part struct {
	name   string
	levels int
}

// Other is the part of what lies in none.
const Other = "other"

// Parts lists the parts of the root and, after state/, of the state directory, in the order in which to show them.
func Parts() (all []string) {
	for _, p := range rootParts {
		all = append(all, p.name)
	}
	for _, p := range stateParts {
		all = append(all, "state/"+p.name)
	}
	return append(all, Other)
}

// All gives the pieces of both directories. Their bytes are all that there are: a file with several names counts once,
// and what is mounted somewhere below does not count.
func All(ctx context.Context, d *state.Dir) ([]Piece, error) {
	w := &walk{ctx: ctx, seen: map[[2]uint64]bool{}}
	if err := w.records(d); err != nil {
		return nil, err
	}
	for _, side := range []struct {
		prefix, dir string
		parts       []part
	}{{"", d.Path(), rootParts}, {"state/", d.Run(), stateParts}} {
		if err := w.side(side.prefix, side.dir, side.parts); err != nil {
			return nil, fmt.Errorf("account of %s: %w", side.dir, err)
		}
	}
	return w.all, nil
}

type walk struct {
	ctx     context.Context
	holders *gc.Holders
	files   map[string]gc.Holder // by namespace and container.Container.Files
	tasks   map[string]gc.Holder // by namespace and id
	seen    map[[2]uint64]bool   // files with several names
	dev     uint64
	all     []Piece
}

// records finds out who holds what.
func (w *walk) records(d *state.Dir) error {
	held, err := lease.Live(d)
	if err != nil {
		return err
	}
	return d.View(w.ctx, func(tx *state.Tx) error {
		w.files, w.tasks = map[string]gc.Holder{}, map[string]gc.Holder{}
		for name := range held[lease.Files] {
			w.files[name] = gc.Holder{Kind: gc.Process}
		}
		if w.holders, err = gc.FindHolders(tx, held); err != nil {
			return err
		}
		names, err := container.Namespaces(tx)
		if err != nil {
			return err
		}
		for _, ns := range names {
			for c, err := range container.All(tx, ns) {
				if err == nil {
					h := gc.Holder{Kind: "containers", Namespace: ns, Name: c.ID}
					w.files[ns+"/"+c.Files()], w.tasks[ns+"/"+c.ID] = h, h
				}
			}
		}
		return nil
	})
}

// side walks the root or the state directory.
func (w *walk) side(prefix, dir string, parts []part) error {
	st, err := lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	w.dev = st.Dev
	w.add(prefix, Piece{Name: "", Part: Other, Use: System, Bytes: st.Blocks * 512, Files: 1})
	return w.dir(prefix, dir, "", parts)
}

// dir walks a directory that has parts in it, or below it.
func (w *walk) dir(prefix, dir, below string, parts []part) error {
	names, err := readNames(filepath.Join(dir, below))
	if err != nil {
		return err
	}
	for _, name := range names {
		rel := filepath.Join(below, name)
		found, inside := part{Other, 0}, false
		for _, p := range parts {
			if p.name == rel {
				found = p
			}
			inside = inside || strings.HasPrefix(p.name, rel+"/")
		}
		switch {
		case inside:
			err = w.own(prefix, dir, rel, Other)
			if err == nil {
				err = w.dir(prefix, dir, rel, parts)
			}
		default:
			err = w.part(prefix, dir, rel, found, found.levels)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// part walks a part down to its pieces.
func (w *walk) part(prefix, dir, rel string, p part, levels int) error {
	path := filepath.Join(dir, rel)
	st, err := lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if levels == 0 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		piece, err := w.measure(path)
		if err != nil {
			return err
		}
		piece.Name, piece.Part = rel, p.name
		w.judge(prefix, path, &piece, levels != p.levels || p.levels == 0)
		w.add(prefix, piece)
		return nil
	}
	if err := w.own(prefix, dir, rel, p.name); err != nil {
		return err
	}
	names, err := readNames(path)
	for _, name := range names {
		if err == nil {
			err = w.part(prefix, dir, filepath.Join(rel, name), p, levels-1)
		}
	}
	return err
}

// own adds a directory itself, without what is in it.
func (w *walk) own(prefix, dir, rel, part string) error {
	st, err := lstat(filepath.Join(dir, rel))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		w.add(prefix, Piece{Name: rel, Part: part, Use: System, Bytes: st.Blocks * 512, Files: 1})
	}
	return err
}

func (w *walk) add(prefix string, p Piece) {
	p.Name = strings.TrimSuffix(prefix+p.Name, "/")
	if p.Part != Other {
		p.Part = prefix + p.Part
	}
	if p.Name == "" {
		p.Name = "."
	}
	w.all = append(w.all, p)
}

// judge says what a piece is for.
func (w *walk) judge(prefix, path string, p *Piece, complete bool) {
	base, up := filepath.Base(path), filepath.Base(filepath.Dir(path))
	by := func(all ...gc.Holder) {
		p.Holders, p.Use = all, Held
		if len(all) == 0 {
			p.Use = Garbage
		}
	}
	switch {
	case p.Part == Other:
		p.Use = Unknown
	case !complete:
		p.Use = Garbage // a file where a directory of pieces should be
	case p.Part == "content/blobs":
		by(w.holders.Blob(digest.Digest(up + ":" + base))...)
	case p.Part == "content/ingest":
		by(w.holders.Ingest(path)...)
		if strings.Count(base, "-") == 1 && !strings.HasPrefix(base, "ref-") {
			by(w.holders.Blob(digest.Digest(strings.Replace(base, "-", ":", 1)))...)
		}
	case p.Part == "snapshots":
		if sn, err := snapshot.Named(up); err == nil {
			by(w.holders.Dir(sn, snapshot.ID(strings.TrimSuffix(base, ".new")))...)
		} else {
			p.Use = Unknown
		}
	case p.Part == "containers":
		by(one(w.files, up+"/"+base)...)
	case p.Part == "tasks" || p.Part == "io.containerd.runtime.v2.task":
		by(one(w.tasks, up+"/"+base)...)
	case p.Part == "trash":
		p.Use = Trash
	default:
		p.Use = System
	}
}

func one(m map[string]gc.Holder, key string) []gc.Holder {
	if h, ok := m[key]; ok {
		return []gc.Holder{h}
	}
	return nil
}

// measure adds up a file or a directory with all that is in it; what vanishes meanwhile counts nothing.
func (w *walk) measure(top string) (p Piece, err error) {
	err = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = w.ctx.Err()
		}
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		st, err := lstat(path)
		if err != nil {
			return nil
		}
		if st.Dev != w.dev && e.IsDir() && !isSubvolume(path) {
			return filepath.SkipDir
		}
		key := [2]uint64{st.Dev, st.Ino}
		if st.Nlink > 1 && !e.IsDir() {
			if w.seen[key] {
				return nil
			}
			w.seen[key] = true
		}
		p.Bytes += st.Blocks * 512
		p.Files++
		return nil
	})
	return p, err
}

// isSubvolume tells whether a directory of another device is a subvolume of the file system that it lies on, and no mount.
func isSubvolume(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	mounted, err := mount.Mounted(path)
	return err == nil && !mounted && btrfs.IsSubvolume(f)
}

func lstat(path string) (st unix.Stat_t, err error) {
	if err := unix.Lstat(path, &st); err != nil {
		return st, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return st, nil
}

// readNames lists a directory; one that is gone is empty.
func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
