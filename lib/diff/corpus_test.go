// SPDX-License-Identifier: Apache-2.0

package diff_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
)

// item is one entry of a layer of the corpus.
type item struct {
	tar.Header
	data string
}

// then is the time of all entries that have no other one.
var then = time.Unix(1_600_000_000, 123_456_789)

func with(i item, change func(*item)) item {
	change(&i)
	return i
}

func entry(kind byte, name, data string) item {
	return item{tar.Header{Typeflag: kind, Name: name, Size: int64(len(data)), Mode: 0o644, ModTime: then}, data}
}

func regular(name, data string) item { return entry(tar.TypeReg, name, data) }
func folder(name string) item {
	return with(entry(tar.TypeDir, name, ""), func(i *item) { i.Mode = 0o755 })
}
func gone(name string) item   { return item{Header: tar.Header{Typeflag: tar.TypeReg, Name: name}} }
func opaque(name string) item { return gone(name + ".wh..wh..opq") }
func symbolic(name, target string) item {
	return with(entry(tar.TypeSymlink, name, ""), func(i *item) { i.Mode, i.Linkname = 0o777, target })
}
func hard(name, target string) item {
	return with(entry(tar.TypeLink, name, ""), func(i *item) { i.Linkname = target })
}
func fifo(name string) item { return entry(tar.TypeFifo, name, "") }
func device(kind byte, name string, major, minor int64) item {
	return with(entry(kind, name, ""), func(i *item) { i.Devmajor, i.Devminor = major, minor })
}
func mode(m int64, i item) item      { return with(i, func(i *item) { i.Mode = m }) }
func owner(u, g int, i item) item    { return with(i, func(i *item) { i.Uid, i.Gid = u, g }) }
func at(when time.Time, i item) item { return with(i, func(i *item) { i.ModTime = when }) }
func attr(i item, kv ...string) item {
	return with(i, func(i *item) {
		i.PAXRecords = maps.Clone(i.PAXRecords)
		if i.PAXRecords == nil {
			i.PAXRecords = map[string]string{}
		}
		for n := 0; n < len(kv); n += 2 {
			i.PAXRecords["SCHILY.xattr."+kv[n]] = kv[n+1]
		}
	})
}

// pack makes a tar as a layer has it, with an entry for the root if there is any other.
func pack(t testing.TB, items []item) []byte {
	t.Helper()
	if len(items) > 0 && items[0].Name != "./" {
		items = slices.Insert(slices.Clone(items), 0, folder("./"))
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		i.Format = tar.FormatPAX
		must(t, w.WriteHeader(&i.Header))
		_, err := io.WriteString(w, i.data)
		must(t, err)
	}
	must(t, w.Close())
	return bytes.ReplaceAll(b.Bytes(), []byte(sparse), []byte("GNU.sparse."))
}

// described lists all that a tar says of each entry.
func described(t testing.TB, data []byte) (all []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		if len(content) > 100 {
			content = fmt.Appendf(nil, "%.20q and so on, %d bytes", content, len(content))
		}
		all = append(all, fmt.Sprintf("%c %q %o %d:%d %d.%09d -> %q dev %d:%d %d %q %q", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid,
			h.ModTime.Unix(), h.ModTime.Nanosecond(), h.Linkname, h.Devmajor, h.Devminor, h.Size, content, h.PAXRecords))
	}
}

// hardCase is a layer that is difficult to keep. Its entries stand as diff writes them: what is gone first, then names in the
// order of their bytes.
type hardCase struct {
	name  string
	lower []item            // the layer below, if any
	layer []item            // the layer
	act   func(root string) // in place of a layer: what a program does in a container
	// What comes out, where that is not what went in: of layers of an overlay, and of two trees that were compared.
	overlay, trees []item
}

var (
	hundred = strings.Repeat("h", 100)
	most    = strings.Repeat("m", 255)
	none    = []item{}
)

var corpus = []hardCase{
	{name: "the root alone", layer: []item{folder("./")}},
	{name: "file of no bytes", layer: []item{regular("f", "")}},
	{name: "file over blocks", layer: []item{regular("a", strings.Repeat("a", 511)), regular("b", strings.Repeat("b", 512)), regular("c", strings.Repeat("c", 513)), regular("d", strings.Repeat("d", 300_000))}},
	{name: "root's own attributes", lower: []item{regular("f", "")}, layer: []item{owner(7, 8, mode(0o1751, folder("./")))}},

	{name: "whiteout of a file", lower: []item{regular("f", "x"), regular("g", "")}, layer: []item{gone(".wh.f")}},
	{name: "whiteout of a directory", lower: []item{folder("d/"), regular("d/f", "x")}, layer: []item{gone(".wh.d")}},
	{name: "whiteout deep down", lower: []item{folder("a/"), folder("a/b/"), regular("a/b/f", "x"), regular("a/b/g", "")},
		layer: []item{folder("a/"), folder("a/b/"), gone("a/b/.wh.f")}},
	{name: "whiteout of a symbolic link", lower: []item{folder("d/"), symbolic("l", "d")}, layer: []item{gone(".wh.l")}},
	{name: "whiteout of a device", lower: []item{device(tar.TypeChar, "null", 1, 3)}, layer: []item{gone(".wh.null")}},
	{name: "whiteout of nothing", lower: []item{regular("f", "")}, layer: []item{gone(".wh.never"), regular("g", "")},
		trees: []item{regular("g", "")}},
	{name: "whiteout of a strange name", lower: []item{regular(" \n\xff", "")}, layer: []item{gone(".wh. \n\xff")}},
	{name: "whiteout and file of one name", lower: []item{folder("d/"), regular("d/f", "")}, layer: []item{gone(".wh.d"), regular("d", "x")},
		overlay: []item{regular("d", "x")}, trees: []item{regular("d", "x")}},
	{name: "whiteout and directory of one name", lower: []item{folder("d/"), regular("d/old", "")}, layer: []item{gone(".wh.d"), mode(0o700, folder("d/")), regular("d/new", "")},
		overlay: []item{mode(0o700, folder("d/")), opaque("d/"), regular("d/new", "")}, trees: []item{mode(0o700, folder("d/")), gone("d/.wh.old"), regular("d/new", "")}},

	{name: "opaque directory", lower: []item{folder("d/"), regular("d/old", ""), folder("d/sub/"), regular("d/sub/f", "")}, layer: []item{folder("d/"), opaque("d/"), regular("d/new", "")},
		trees: []item{folder("d/"), gone("d/.wh.old"), gone("d/.wh.sub"), regular("d/new", "")}},
	{name: "opaque and empty", lower: []item{folder("d/"), regular("d/old", "")}, layer: []item{folder("d/"), opaque("d/")},
		trees: []item{folder("d/"), gone("d/.wh.old")}},
	{name: "opaque with the same names", lower: []item{folder("d/"), folder("d/s/"), regular("d/s/f", "old"), regular("d/g", "old")},
		layer: []item{folder("d/"), opaque("d/"), regular("d/g", "new"), mode(0o711, folder("d/s/"))},
		trees: []item{folder("d/"), regular("d/g", "new"), mode(0o711, folder("d/s/")), gone("d/s/.wh.f")}},
	{name: "opaque in opaque", lower: []item{folder("a/"), folder("a/b/"), regular("a/b/f", "")}, layer: []item{folder("a/"), opaque("a/"), mode(0o700, folder("a/b/")), opaque("a/b/"), regular("a/b/g", "")},
		trees: []item{folder("a/"), mode(0o700, folder("a/b/")), gone("a/b/.wh.f"), regular("a/b/g", "")}},
	{name: "opaque root", lower: []item{regular("f", ""), folder("d/"), regular("d/f", "")}, layer: []item{folder("./"), opaque(""), regular("g", "")},
		trees: []item{gone(".wh.d"), gone(".wh.f"), regular("g", "")}},

	{name: "hard links in a directory", layer: []item{regular("a", "x"), hard("b", "a"), hard("c", "a")}},
	{name: "hard links across directories", layer: []item{folder("a/"), folder("a/b/"), regular("a/b/f", "x"), folder("c/"), hard("c/f", "a/b/f"), hard("z", "a/b/f")}},
	{name: "hard links with all attributes", layer: []item{owner(5, 6, mode(0o4755, attr(regular("a", "x"), "user.a", "b"))), owner(5, 6, mode(0o4755, hard("b", "a")))}},
	{name: "hard links to a symbolic link", layer: []item{symbolic("a", "none"), mode(0o777, hard("b", "a"))}},
	{name: "hard links to a FIFO and a device", layer: []item{fifo("a"), hard("b", "a"), device(tar.TypeBlock, "c", 8, 1), hard("d", "c")}},
	{name: "hard links to a long name", layer: []item{folder(hundred + "/"), regular(hundred+"/"+most, "x"), hard("z", hundred+"/"+most)}},
	{name: "hard link of a name that is another file below", lower: []item{regular("a", "old"), hard("b", "a")}, layer: []item{regular("a", "new"), hard("b", "a")}},
	{name: "one of two links is replaced", lower: []item{regular("a", "old"), hard("b", "a")}, layer: []item{regular("b", "new")}},

	{name: "capabilities", layer: []item{attr(mode(0o755, regular("v2", "x")), "security.capability", caps), attr(regular("v3", ""), "security.capability",
		"\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xe8\x03\x00\x00")}},
	{name: "user attributes", layer: []item{attr(folder("d/"), "user.dir", "x"), attr(regular("f", ""), "user.a", "=\n\x00\xff", "user.b", "1", "user.long", strings.Repeat("v", 3000), "user.é", "x")}},
	{name: "attribute without a value", layer: []item{attr(regular("f", ""), "user.empty", "")}},
	{name: "trusted attributes of all kinds", layer: []item{attr(device(tar.TypeChar, "c", 1, 3), "trusted.a", "b"), attr(folder("d/"), "trusted.a", "b"), attr(fifo("p"), "trusted.a", "b"), attr(symbolic("s", "x"), "trusted.a", "b")}},
	{name: "access control lists", layer: []item{attr(mode(0o2674, folder("d/")), "system.posix_acl_access", acl, "system.posix_acl_default", acl), attr(mode(0o674, regular("f", "")), "system.posix_acl_access", acl)}},
	{name: "an attribute is gone", lower: []item{attr(regular("f", "x"), "user.a", "b"), attr(folder("d/"), "user.a", "b")}, layer: []item{folder("d/"), regular("f", "x")}},
	{name: "attributes of the host are no part", layer: []item{attr(regular("f", ""), "security.selinux", "x", "trusted.overlay.redirect", "/etc", "user.overlay.opaque", "y")},
		overlay: []item{regular("f", "")}, trees: []item{regular("f", "")}},

	{name: "devices", layer: []item{device(tar.TypeChar, "a", 0, 1), device(tar.TypeChar, "b", 4095, 1_048_575), mode(0o660, owner(0, 6, device(tar.TypeBlock, "c", 8, 1))), device(tar.TypeBlock, "d", 0, 0)}},
	{name: "FIFOs", layer: []item{mode(0o622, fifo("p")), mode(0, owner(1, 1, fifo("q")))}},
	{name: "a device has another number", lower: []item{device(tar.TypeChar, "d", 1, 3)}, layer: []item{device(tar.TypeChar, "d", 1, 5)}},

	{name: "times", layer: []item{at(time.Unix(0, 0), regular("epoch", "")), at(time.Unix(1<<33, 999_999_999), regular("far", "")), at(time.Unix(1, 1), folder("folder/")),
		at(time.Unix(-5, 500_000_000), regular("negative", "")), at(time.Unix(9, 100), symbolic("symbolic", "x"))}},
	{name: "time alone by a nanosecond", lower: []item{regular("f", "x"), folder("d/")}, layer: []item{at(then.Add(1), folder("d/")), at(then.Add(-1), regular("f", "x"))}},

	{name: "names of 100 bytes and more", layer: []item{regular(hundred[:99], ""), regular(hundred, ""), regular(hundred+"h", "")}},
	{name: "names of 255 bytes and more", layer: []item{folder(most + "/"), folder(most + "/" + most + "/"), regular(most+"/"+most+"/"+most, "x")}},
	{name: "symbolic link to a long name", layer: []item{symbolic("a", strings.Repeat("t", 101)), symbolic("b", strings.Repeat("../", 1000)+"x")}},
	{name: "names that are not UTF-8", layer: []item{folder("d\xc3/"), regular("d\xc3/\xe4", "x"), hard("z\xff", "d\xc3/\xe4"), symbolic("z\xff\xff", "\xfe"), regular("\x80\xff", "")}},
	{name: "names with all other bytes", layer: []item{regular("\x01\x02\t", ""), regular("\n", ""), regular(" ", ""), regular("  two", ""), regular("#", ""), regular("-rf", ""), regular("...", ""), regular(".w", ""),
		regular(`\`, ""), regular("a=b", ""), regular("é", "")}},
	{name: "an order that is not that of paths", layer: []item{folder("a/"), regular("a/x", ""), regular("a-b", ""), regular("a.b", "")}},

	{name: "file to directory", lower: []item{regular("a", "x")}, layer: []item{folder("a/"), regular("a/b", "")}},
	{name: "directory to file", lower: []item{folder("a/"), regular("a/b", "")}, layer: []item{regular("a", "x")}},
	{name: "directory to symbolic link", lower: []item{folder("a/"), regular("a/b", ""), folder("c/")}, layer: []item{symbolic("a", "c")}},
	{name: "symbolic link to directory", lower: []item{symbolic("a", "c"), folder("c/"), regular("c/f", "")}, layer: []item{folder("a/"), regular("a/g", "")}},
	{name: "symbolic link to file", lower: []item{regular("b", ""), symbolic("l", "b")}, layer: []item{regular("l", "x")}},
	{name: "file to device to FIFO", lower: []item{regular("a", ""), device(tar.TypeChar, "b", 1, 3)}, layer: []item{device(tar.TypeChar, "a", 1, 3), fifo("b")}},

	{name: "mode alone", lower: []item{folder("d/"), regular("d/f", "x"), regular("g", "y")}, layer: []item{mode(0o1777, folder("d/")), mode(0o4711, regular("g", "y"))}},
	{name: "owner alone", lower: []item{regular("f", "x"), symbolic("l", "f")}, layer: []item{owner(3_000_000_000, 1, regular("f", "x")), owner(0, 5, symbolic("l", "f"))}},
	{name: "content alone", lower: []item{regular("f", "one"), regular("g", "")}, layer: []item{regular("f", "two")}},
	{name: "the same again", lower: []item{folder("d/"), regular("d/f", "x")}, layer: []item{folder("d/"), regular("d/f", "x")}, trees: none},

	{name: "symbolic links in a circle", layer: []item{symbolic("a", "b"), symbolic("b", "a"), symbolic("c", "c"), symbolic("d", "."), symbolic("e", "/")}},
	{name: "symbolic links that lead out", layer: []item{symbolic("a", "/etc/passwd"), symbolic("b", "../../../../etc"), symbolic("c", " \xff")}},
	{name: "holes of GNU tar", layer: []item{holed("f", 16<<20, 8<<20, "where")}, overlay: holes, trees: holes},

	{name: "a program makes holes", act: func(root string) { os.Truncate(root+"/f", 4<<20) }, lower: []item{regular("f", "x")},
		overlay: []item{regular("f", "x"+strings.Repeat("\x00", 4<<20-1))}},
	{name: "a program changes a mode", act: func(root string) { os.Chmod(root+"/f", 0o600) }, lower: []item{regular("f", "x"), regular("g", "")},
		overlay: []item{mode(0o600, regular("f", "x"))}},
	{name: "a program changes an owner", act: func(root string) { os.Lchown(root+"/l", 4, 5) }, lower: []item{symbolic("l", "x")},
		overlay: []item{owner(4, 5, symbolic("l", "x"))}},
	{name: "a program makes sockets", act: func(root string) {
		unix.Mknod(root+"/new", unix.S_IFSOCK|0o600, 0)
		os.Remove(root + "/f")
		unix.Mknod(root+"/f", unix.S_IFSOCK|0o600, 0)
	}, lower: []item{regular("f", "x")}, overlay: []item{gone(".wh.f")}},
	{name: "a program links to a file of a lower layer", act: func(root string) { os.Mkdir(root+"/z", 0o755); os.Link(root+"/a/f", root+"/z/g") }, lower: []item{folder("a/"), regular("a/f", "x")},
		overlay: []item{folder("a/"), regular("a/f", "x"), folder("z/"), hard("z/g", "a/f")},
		trees:   []item{folder("z/"), regular("z/g", "x"), folder("a/"), hard("a/f", "z/g")}},
	{name: "a program makes a directory anew", act: func(root string) { os.RemoveAll(root + "/d"); os.Mkdir(root+"/d", 0o700) }, lower: []item{folder("d/"), regular("d/f", "")},
		overlay: []item{mode(0o700, folder("d/")), opaque("d/")}, trees: []item{mode(0o700, folder("d/")), gone("d/.wh.f")}},
	{name: "a program makes a directory of a file", act: func(root string) { os.Remove(root + "/f"); os.Mkdir(root+"/f", 0o755) }, lower: []item{regular("f", "")},
		overlay: []item{folder("f/"), opaque("f/")}, trees: []item{folder("f/")}},
	{name: "a program puts a directory back", act: func(root string) {
		os.RemoveAll(root + "/d")
		os.Mkdir(root+"/d", 0o755)
		os.WriteFile(root+"/d/f", []byte("x"), 0o644)
		os.Chtimes(root+"/d/f", then, then)
		os.Chtimes(root+"/d", then, then)
	}, lower: []item{folder("d/"), regular("d/f", "x"), regular("d/g", "")},
		overlay: []item{folder("d/"), opaque("d/"), regular("d/f", "x")}, trees: []item{folder("d/"), gone("d/.wh.g")}},
}

// acl is a list of access rights as Linux keeps it (acl(5)): of the owner, user 1000, the group, the mask and the others.
const acl = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
	"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// sparse stands for the prefix of the records of GNU tar's format 1.0, which archive/tar does not write.
const sparse = "GNU_sparse."

// holed is a file of GNU tar with nothing but holes and some data. What it has begins with a map: the pieces, each with its
// offset and its length.
func holed(name string, size, offset int64, data string) item {
	pieces := fmt.Sprintf("1\n%d\n%d\n", offset, len(data))
	return with(regular(name, pieces+strings.Repeat("\x00", 512-len(pieces))+data), func(i *item) {
		i.PAXRecords = map[string]string{sparse + "major": "1", sparse + "minor": "0", sparse + "name": name, sparse + "realsize": fmt.Sprint(size)}
	})
}

var holes = []item{regular("f", strings.Repeat("\x00", 8<<20)+"where"+strings.Repeat("\x00", 8<<20-5))}

// TestCorpus: what goes in by a layer comes out by a diff, byte for byte, as a layer of an overlay and as a tree of its own;
// the same of what a program does. Times that a program leaves are set to then.
func TestCorpus(t *testing.T) {
	needRoot(t)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			if c.overlay == nil {
				c.overlay = c.layer
			}
			if c.trees == nil {
				c.trees = c.overlay
			}
			t.Run("overlayfs", func(t *testing.T) { comesOut(t, c.overlay, c.ofOverlay(t)) })
			t.Run("native", func(t *testing.T) { comesOut(t, c.trees, c.ofTrees(t)) })
		})
	}
}

func comesOut(t *testing.T, items []item, got []byte) {
	t.Helper()
	want := pack(t, items)
	if bytes.Equal(got, want) {
		return
	}
	t.Errorf("got\n%s\nwant\n%s", strings.Join(described(t, got), "\n"), strings.Join(described(t, want), "\n"))
}

// ofOverlay unpacks the layers side by side, and writes the upper one.
func (c hardCase) ofOverlay(t *testing.T) []byte {
	t.Helper()
	var from diff.Tree
	if c.lower != nil {
		lower, err := unpack(t, pack(t, c.lower))
		must(t, err)
		from = diff.Tree{lower}
	}
	if c.act == nil {
		upper, err := unpack(t, pack(t, c.layer), from...)
		must(t, err)
		to := append(diff.Tree{upper}, from...)
		all := write(t, from, to, diff.Options{})
		var mounted bytes.Buffer
		_, err = diff.Compare(t.Context(), &mounted, shows(from), shows(to), diff.Options{})
		must(t, err)
		if !bytes.Equal(all, mounted.Bytes()) {
			t.Error("the mounts of the two differ by something else")
		}
		return all
	}
	d := dirs(t, "upper", "work")
	at, undo := overlay(t, append(diff.Tree{d[0]}, from...), d[1])
	c.act(at)
	undo()
	return write(t, from, append(diff.Tree{d[0]}, from...), diff.Options{Latest: then})
}

// shows is the mount of a view of layers, as a snapshotter gives it.
func shows(tree diff.Tree) []mount.Mount {
	switch len(tree) {
	case 0:
		return nil
	case 1:
		return []mount.Mount{{Type: "bind", Source: tree[0], Options: []string{"ro", "rbind"}}}
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(tree, ":")}}}
}

// ofTrees puts the layers onto copies, and compares these.
func (c hardCase) ofTrees(t *testing.T) []byte {
	t.Helper()
	d := dirs(t, "below", "above")
	put := func(items []item, dir string) {
		t.Helper()
		_, err := diff.Apply(t.Context(), bytes.NewReader(pack(t, items)), layer.Options{}, bind(dir))
		must(t, err)
	}
	if c.lower == nil {
		put(c.layer, d[1])
		return write(t, nil, diff.Tree{d[1]}, diff.Options{})
	}
	put(c.lower, d[0])
	must(t, layer.Copy(t.Context(), d[0], d[1]))
	if c.act == nil {
		put(c.layer, d[1])
		return write(t, diff.Tree{d[0]}, diff.Tree{d[1]}, diff.Options{})
	}
	c.act(d[1])
	return write(t, diff.Tree{d[0]}, diff.Tree{d[1]}, diff.Options{Latest: then})
}

// A link of a layer to a file that only a lower layer has is refused, by name, for every driver: the specification has
// none, and unpacking a layer by itself cannot make one.
func TestLinkToLower(t *testing.T) {
	needRoot(t)
	lower, err := unpack(t, pack(t, []item{regular("f", "x")}))
	must(t, err)
	data := pack(t, []item{hard("g", "f")})
	_, err = unpack(t, data, lower)
	for what, err := range map[string]error{
		"overlayfs": err,
		"native": func() error {
			_, err := diff.Apply(t.Context(), bytes.NewReader(data), layer.Options{}, bind(lower))
			return err
		}(),
	} {
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `"g"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if left, err := filepath.Glob(filepath.Dir(lower) + "/.layer-*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// A file of more than 8 GiB, the largest number that the old header has room for, is read and written; its holes take no
// room, and are not read from the disk.
func TestHugeHole(t *testing.T) {
	needRoot(t)
	const size = 8<<30 + 1
	dir, err := unpack(t, pack(t, []item{holed("f", size, size-3, "end")}))
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(dir+"/f", &st))
	if st.Size != size || st.Blocks > 64 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
	r, w := io.Pipe()
	go func() {
		_, err := diff.Write(t.Context(), w, nil, diff.Tree{dir}, diff.Options{})
		w.CloseWithError(err)
	}()
	in := tar.NewReader(r)
	for range 2 {
		h, err := in.Next()
		must(t, err)
		if h.Name == "f" && h.Size != size {
			t.Errorf("written as one of %d bytes", h.Size)
		}
	}
	r.CloseWithError(io.EOF) // the zeros themselves are in the corpus
}
