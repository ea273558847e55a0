// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// model is what a stack of layers shows, as the image specification says it: by path, the mode of a directory or
// -1 for a file.
type model map[string]int64

func (m model) drop(path string) {
	maps.DeleteFunc(m, func(p string, _ int64) bool { return p == path || isBelow(p, path) })
}

func isBelow(p, dir string) bool { return dir == "" && p != "" || strings.HasPrefix(p, dir+"/") }

// change is one layer of the model.
type change struct {
	own      model           // -2: a directory that the layer only implies
	removed  map[string]bool // by a whiteout
	emptied  map[string]bool // by an opaque whiteout
	archived []ent
}

const implied = -2

func (c *change) parents(path string) {
	for dir, _ := split(path); ; dir, _ = split(dir) {
		if _, ok := c.own[dir]; !ok {
			c.own[dir] = implied
		}
		if dir == "" {
			return
		}
	}
}

// forget drops what the layer itself said of a path so far.
func (c *change) forget(path string) {
	c.own.drop(path)
	for _, m := range []map[string]bool{c.removed, c.emptied} {
		maps.DeleteFunc(m, func(p string, _ bool) bool { return p == path || isBelow(p, path) })
	}
}

var modelPaths = []string{"a", "b", "c", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "a/b/c", "b/a/c", "c/c/c", ""}

// add gives the layer one more entry.
func (c *change) add(kind, path string, mode int64) {
	parent, base := split(path)
	switch kind {
	case "file":
		c.forget(path)
		c.parents(path)
		c.own[path] = -1
		c.archived = append(c.archived, file(path, "x"))
	case "dir":
		if c.own[path] == -1 {
			c.forget(path)
		}
		c.parents(path)
		c.own[path] = mode
		c.archived = append(c.archived, owned(path+"/", mode, 0, 0))
	case "whiteout":
		c.parents(path)
		c.removed[path] = true
		c.archived = append(c.archived, file(join(parent, ".wh."+base), ""))
	case "opaque":
		c.parents(join(path, "x"))
		c.emptied[path] = true
		c.archived = append(c.archived, file(join(path, ".wh..wh..opq"), ""))
	}
}

// apply puts the layer onto what is below.
func (m model) apply(c *change) {
	for p := range c.removed {
		m.drop(p)
	}
	for p := range c.emptied {
		maps.DeleteFunc(m, func(q string, _ int64) bool { return isBelow(q, p) })
	}
	for _, p := range slices.Sorted(maps.Keys(c.own)) {
		mode := c.own[p]
		below, there := m[p]
		switch {
		case mode == -1:
			m.drop(p)
			m[p] = -1
		case there && below != -1 && mode == implied: // as it is
		case mode == implied:
			m.drop(p)
			m[p] = 0o755
		default:
			if there && below == -1 {
				m.drop(p)
			}
			m[p] = mode
		}
	}
}

func (m model) String() string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "/%s %o\n", p, m[p])
	}
	return b.String()
}

// check makes layers of a program, three bytes an entry, and compares what an overlay of them shows with the model.
func check(t *testing.T, program []byte) {
	needRoot(t)
	kinds := []string{"file", "dir", "whiteout", "opaque"}
	want := model{"": 0o755}
	tmp := t.TempDir()
	var lower []string
	for n := range 3 {
		c := &change{own: model{}, removed: map[string]bool{}, emptied: map[string]bool{}}
		for i := 0; i+2 < len(program) && i < 3*40; i += 3 {
			if int(program[i])%3 != n {
				continue
			}
			kind, path := kinds[program[i]/3%4], modelPaths[int(program[i+1])%len(modelPaths)]
			if path == "" && kind != "opaque" && kind != "dir" {
				continue
			}
			c.add(kind, path, 0o700+int64(program[i+2]%8))
		}
		dir := filepath.Join(tmp, fmt.Sprint(n))
		r, err := apply(t, dir, archive(t, fixRoot(c.archived)...), Options{})
		if err != nil {
			return // an entry below a file
		}
		for range 2 { // the second time changes nothing
			if err := Inherit(dir, r.Implied, lower); err != nil {
				t.Fatal(err)
			}
		}
		want.apply(c)
		lower = slices.Insert(lower, 0, dir)
	}
	target := filepath.Join(tmp, "merged")
	os.Mkdir(target, 0o755)
	if err := unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(target, unix.MNT_DETACH)
	got := model{}
	err := filepath.WalkDir(target, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := int64(-1)
		if d.IsDir() {
			mode = int64(stat(t, p).Mode & 0o7777)
		}
		got[strings.TrimPrefix(strings.TrimPrefix(p, target), "/")] = mode
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Errorf("program %v:\n%swant\n%s", program, got, want)
	}
}

// fixRoot names the root as archives do.
func fixRoot(entries []ent) []ent {
	for i, e := range entries {
		if e.Typeflag == tar.TypeDir && e.Name == "/" {
			entries[i].Name = "./"
		}
	}
	return entries
}

// Random stacks of three layers look as the specification says.
func TestModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		program := make([]byte, 3*(1+r.IntN(20)))
		for i := range program {
			program[i] = byte(r.Uint32())
		}
		check(t, program)
	}
}

func FuzzModel(f *testing.F) {
	inMemory(f)
	f.Add([]byte{3, 0, 1, 1, 3, 0, 10, 0, 0})
	f.Add([]byte{3, 11, 1, 0, 0, 0, 11, 11, 0})
	f.Fuzz(check)
}
