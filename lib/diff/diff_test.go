// SPDX-License-Identifier: Apache-2.0

package diff_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: devices and trusted attributes")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// picture describes each name below a directory: all that an inode has, and with links also which names are one inode.
// The time of the root is left out unless links is set.
func picture(t testing.TB, root string, links bool) map[string]string {
	t.Helper()
	all, first := map[string]string{}, map[uint64]string{}
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		must(t, err)
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		text := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		if name != "/" || links {
			text += fmt.Sprintf(" %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			must(t, err)
			text += fmt.Sprintf(" %d %x", st.Size, sha256.Sum256(data))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			must(t, err)
			text += " -> " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			text += fmt.Sprintf(" dev %x", st.Rdev)
		}
		text += xattrs(t, path, links)
		if links && st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			text += " is " + first[st.Ino]
		}
		all[name] = text
		return nil
	}))
	return all
}

func xattrs(t testing.TB, path string, overlay bool) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	var all []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || !overlay && strings.Contains(name, ".overlay.") {
			continue
		}
		v := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(path, name, v)
		must(t, err)
		all = append(all, fmt.Sprintf(" %s=%q", name, v[:k]))
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

func equal(t testing.TB, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%q:\n got %q\nwant %q", name, got[name], want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			t.Errorf("%q is there: %q", name, got[name])
		}
	}
}

// unpack makes a directory of a layer. It reports false when the layer is not one.
func unpack(t testing.TB, data []byte, below ...string) (string, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layer")
	must(t, os.Mkdir(dir, 0o755))
	r, err := layer.Apply(t.Context(), bytes.NewReader(data), dir, layer.Options{})
	if err == nil {
		must(t, layer.Inherit(dir, r.Implied, below))
	}
	return dir, err
}

func write(t testing.TB, from, to diff.Tree, o diff.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	r, err := diff.Write(t.Context(), &b, from, to, o)
	must(t, err)
	if r.Descriptor.Digest.Algorithm().FromBytes(b.Bytes()) != r.Descriptor.Digest || r.Descriptor.Size != int64(b.Len()) {
		t.Errorf("%+v of %d bytes", r.Descriptor, b.Len())
	}
	return b.Bytes()
}

var (
	longName = strings.Repeat(strings.Repeat("l", 60)+"/", 3) + strings.Repeat("n", 200)
	names    = []string{"a", "b", "c", "d/e", "d/f/g", "d/f", "d", "h", "h/i", "h/j/k", "ä\xff", "sp ace", longName, "-x", "z"}
	caps     = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)

// program makes the tar of a layer from random bytes.
func program(bytesOf []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	next := func(n int) int {
		if len(bytesOf) == 0 {
			return 0
		}
		v := int(bytesOf[0]) % n
		bytesOf = bytesOf[1:]
		return v
	}
	kinds := map[string]byte{} // of what is there: only a name of a directory has names below, only others are linked
	below := func(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }
	for len(bytesOf) > 0 {
		name := names[next(len(names))]
		h := &tar.Header{
			Format: tar.FormatPAX, Name: name, Mode: []int64{0o644, 0o755, 0o4711, 0o1777, 0}[next(5)], Uid: []int{0, 1, 1000, 3_000_000_000}[next(4)], Gid: next(3),
			ModTime: time.Unix([]int64{0, 1700000000, -5, 1 << 33}[next(4)], int64(next(3))*123456789), PAXRecords: map[string]string{},
		}
		data := ""
		switch next(12) {
		case 0, 1, 2:
			h.Typeflag, data = tar.TypeReg, strings.Repeat(string(rune('a'+next(26))), next(4)*3000)
			h.Size = int64(len(data))
		case 3, 4:
			h.Typeflag = tar.TypeDir
		case 5:
			h.Typeflag, h.Linkname = tar.TypeSymlink, names[next(len(names))]
		case 6, 7:
			h.Typeflag, h.Linkname = tar.TypeLink, names[next(len(names))]
		case 8:
			h.Typeflag = tar.TypeFifo
		case 9:
			h.Typeflag, h.Devmajor, h.Devminor = []byte{tar.TypeChar, tar.TypeBlock}[next(2)], int64(next(2)), 1+int64(next(2))*1_000_000
		case 10:
			dir, base := filepath.Split(name)
			h = &tar.Header{Typeflag: tar.TypeReg, Name: dir + ".wh." + base}
		case 11:
			h = &tar.Header{Typeflag: tar.TypeReg, Name: filepath.Dir(name) + "/.wh..wh..opq"}
		}
		wrong := h.Typeflag == tar.TypeLink && (kinds[h.Linkname] == 0 || kinds[h.Linkname] == tar.TypeDir || h.Linkname == name || below(h.Linkname, name))
		for other, kind := range kinds {
			wrong = wrong || kind != tar.TypeDir && below(name, other)
		}
		if wrong {
			continue
		}
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			kinds[dir] = tar.TypeDir
		}
		if h.PAXRecords != nil { // no whiteout
			kinds[name] = h.Typeflag
			maps.DeleteFunc(kinds, func(other string, _ byte) bool { return h.Typeflag != tar.TypeDir && below(other, name) })
		}
		if h.PAXRecords != nil && h.Typeflag != tar.TypeLink {
			for i, v := range []string{"", strings.Repeat("v", 300), "\x00\n=", "x"} {
				if next(6) == 0 {
					h.PAXRecords[fmt.Sprintf("SCHILY.xattr.trusted.x%d", i)] = v
				}
			}
			if h.Typeflag == tar.TypeReg && next(6) == 0 {
				h.PAXRecords["SCHILY.xattr.security.capability"] = caps
			}
		}
		if w.WriteHeader(h) == nil {
			w.Write([]byte(data))
		}
	}
	w.Close()
	return b.Bytes()
}

// again unpacks a layer, writes it, and does both again: the directory is the same, and so is the tar.
func again(t *testing.T, data []byte) {
	needRoot(t)
	one, err := unpack(t, data)
	if err != nil {
		return // no layer
	}
	first := write(t, nil, diff.Tree{one}, diff.Options{})
	two, err := unpack(t, first)
	must(t, err)
	equal(t, picture(t, two, true), picture(t, one, true))
	if second := write(t, nil, diff.Tree{two}, diff.Options{}); !bytes.Equal(first, second) {
		t.Error("the second tar is another one")
	}
}

func random(r *rand.Rand, n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

func TestAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 150 {
		t.Run(fmt.Sprint(i), func(t *testing.T) { again(t, program(random(r, 20+i*4))) })
	}
}

// inMemory has the trees of a fuzz target in memory: on a disk most of its time goes to making and removing them.
func inMemory(f *testing.F) {
	f.Helper()
	const dir = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC {
		f.Setenv("TMPDIR", dir)
	}
}

// maxProgram bounds what a fuzz target makes of random bytes: many small layers find more than a large one.
const maxProgram = 200

func FuzzAgain(f *testing.F) {
	inMemory(f)
	r := rand.New(rand.NewPCG(3, 3))
	for range 5 {
		f.Add(random(r, maxProgram))
	}
	f.Fuzz(func(t *testing.T, data []byte) { again(t, program(data[:min(len(data), maxProgram)])) })
}

// overlay mounts a tree; the top is written if work is given.
func overlay(t testing.TB, tree diff.Tree, work string) (string, func()) {
	t.Helper()
	at := t.TempDir()
	lower := append([]string{}, tree...)
	data := "index=off,redirect_dir=off,metacopy=off"
	if work != "" {
		data += ",upperdir=" + lower[0] + ",workdir=" + work
		lower = lower[1:]
	} else if len(lower) == 1 {
		lower = append(lower, t.TempDir())
	}
	must(t, unix.Mount("overlay", at, "overlay", 0, data+",lowerdir="+strings.Join(lower, ":")))
	undo := func() { unix.Unmount(at, unix.MNT_DETACH) }
	t.Cleanup(undo)
	return at, undo
}

// disturb changes a mounted tree at random.
func disturb(t testing.TB, r *rand.Rand, root string) {
	for range 25 {
		a, b := filepath.Join(root, names[r.IntN(len(names))]), filepath.Join(root, names[r.IntN(len(names))])
		if st, err := os.Stat(filepath.Dir(a)); err == nil && !st.IsDir() { // RemoveAll would open it, and wait for a FIFO
			continue
		}
		switch r.IntN(13) { // what cannot be done is not done
		case 0, 1:
			os.MkdirAll(filepath.Dir(a), 0o755)
			if st, err := os.Lstat(a); err != nil || st.Mode().IsRegular() { // a FIFO would make it wait
				os.WriteFile(a, random(r, r.IntN(5000)), 0o600)
			}
		case 2:
			os.RemoveAll(a)
		case 3:
			os.RemoveAll(a)
			os.MkdirAll(a, 0o711)
		case 4:
			os.Rename(a, b)
		case 5:
			os.Chmod(a, 0o4755)
		case 6:
			os.Lchown(a, 5, 6)
		case 7:
			os.Symlink("x", a)
		case 8:
			os.Link(a, b)
		case 9:
			unix.Mknod(a, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
		case 10:
			unix.Lsetxattr(a, "trusted.new", random(r, 10), 0)
		case 11:
			if st, err := os.Lstat(a); err == nil && st.Mode().IsRegular() {
				os.Truncate(a, 100_000)
			}
		case 12:
			unix.Mknod(a, unix.S_IFSOCK|0o600, 0)
		}
	}
}

// expected compares two pictures as Changes does.
func expected(from, to map[string]string) []string {
	var all []string
	for name, text := range to {
		if old, ok := from[name]; !ok {
			all = append(all, name+" add")
		} else if old != text {
			all = append(all, name+" modify")
		}
	}
	for name := range from {
		isGone := func(name string) bool {
			_, ok := to[name]
			return !ok
		}
		if dir := filepath.Dir(name); isGone(name) && !isGone(dir) && strings.HasPrefix(to[dir], "4") {
			all = append(all, name+" delete")
		}
	}
	slices.Sort(all)
	return all
}

func changes(t testing.TB, from, to diff.Tree) []string {
	t.Helper()
	var all []string
	for c, err := range diff.Changes(t.Context(), from, to) {
		must(t, err)
		all = append(all, c.Path+" "+string(c.Kind))
	}
	slices.Sort(all)
	return all
}

func withoutSockets(p map[string]string) map[string]string {
	maps.DeleteFunc(p, func(_, text string) bool { return strings.HasPrefix(text, "14") })
	return p
}

// TestOverlay: what the kernel makes of changes in an overlay is understood as the kernel shows it, and the layer shows
// the same again. The same holds for two trees that have nothing to do with each other.
func TestOverlay(t *testing.T) {
	needRoot(t)
	r := rand.New(rand.NewPCG(11, 12))
	for i := range 60 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			base, err := unpack(t, program(random(r, 300)))
			if err != nil {
				return
			}
			middle, upper, work := t.TempDir(), t.TempDir(), t.TempDir()
			at, undo := overlay(t, diff.Tree{middle, base}, work)
			disturb(t, r, at)
			undo()
			from := diff.Tree{middle, base}
			seen, undo := overlay(t, from, "")
			before := picture(t, seen, false)
			undo()
			at, undo = overlay(t, diff.Tree{upper, middle, base}, work)
			disturb(t, r, at)
			undo()
			to := diff.Tree{upper, middle, base}
			seen, undo = overlay(t, to, "")
			after := picture(t, seen, false)
			undo()

			if got, want := changes(t, from, to), expected(before, after); !slices.Equal(got, want) {
				t.Errorf("changes:\n got %q\nwant %q", got, want)
			}
			if got := changes(t, to, to); len(got) != 0 {
				t.Errorf("a tree differs from itself: %q", got)
			}
			withoutSockets(after)
			shows := func(what string, from, to diff.Tree, want map[string]string) {
				t.Helper()
				dir, err := unpack(t, write(t, from, to, diff.Options{}), from...)
				must(t, err)
				seen, undo := overlay(t, append(diff.Tree{dir}, from...), "")
				defer undo()
				got := withoutSockets(picture(t, seen, false))
				if t.Failed() {
					return
				}
				if equal(t, got, want); t.Failed() {
					t.Log(what)
				}
			}
			shows("the uppermost", from, to, after)
			shows("two at once", diff.Tree{base}, to, after)
			shows("back", to, from, withoutSockets(before))
			other, err := unpack(t, program(random(r, 200)))
			if err == nil {
				shows("another", diff.Tree{other}, to, after)
			}
		})
	}
}
