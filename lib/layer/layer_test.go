// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// ent is one entry of a test's archive.
type ent struct {
	tar.Header
	data string
}

func file(name, data string) ent {
	return ent{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}
func dir(name string) ent {
	return ent{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}
func symlink(name, target string) ent {
	return ent{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}
func link(name, target string) ent {
	return ent{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

func archive(t testing.TB, entries ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if len(h.PAXRecords) > 0 || h.ModTime.Nanosecond() != 0 {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func apply(t testing.TB, into string, data []byte, opt Options) (Result, error) {
	t.Helper()
	if err := os.MkdirAll(into, 0o755); err != nil {
		t.Fatal(err)
	}
	return Apply(t.Context(), bytes.NewReader(data), into, opt)
}

func mustApply(t testing.TB, entries ...ent) string {
	t.Helper()
	d := filepath.Join(t.TempDir(), "layer")
	data := archive(t, entries...)
	r, err := apply(t, d, data, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.FromBytes(data); r.DiffID != want || r.Bytes != int64(len(data)) {
		t.Errorf("got %s, %d bytes; want %s, %d", r.DiffID, r.Bytes, want, len(data))
	}
	return d
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func getxattr(t testing.TB, path, name string) string {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func gz(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zst(t testing.TB, data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func TestCompressions(t *testing.T) {
	needRoot(t)
	plain := archive(t, file("f", strings.Repeat("x", 3<<20)), dir("d"), file("d/g", "g"))
	padded := append(slices.Clone(plain), make([]byte, 70000)...) // as tar -b does
	half := len(plain) / 2
	cases := []struct {
		name, media string
		data, plain []byte
	}{
		{"oci tar", "application/vnd.oci.image.layer.v1.tar", plain, plain},
		{"padding", "application/vnd.oci.image.layer.v1.tar", padded, padded},
		{"oci gzip", "application/vnd.oci.image.layer.v1.tar+gzip", gz(t, padded), padded},
		{"two members", "application/vnd.oci.image.layer.v1.tar+gzip", append(gz(t, plain[:half]), gz(t, plain[half:])...), plain},
		{"oci zstd", "application/vnd.oci.image.layer.v1.tar+zstd", zst(t, plain), plain},
		{"two frames", "application/vnd.oci.image.layer.v1.tar+zstd", append(zst(t, plain[:half]), zst(t, plain[half:])...), plain},
		{"nondistributable", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", gz(t, plain), plain},
		{"docker", "application/vnd.docker.image.rootfs.diff.tar.gzip", gz(t, plain), plain},
		{"docker plain", "application/vnd.docker.image.rootfs.diff.tar", plain, plain},
		{"docker zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd", zst(t, plain), plain},
		{"docker foreign", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", gz(t, plain), plain},
		{"docker gzip that is none", "application/vnd.docker.image.rootfs.diff.tar.gzip", plain, plain},
		{"docker gzip that is zstd", "application/vnd.docker.image.rootfs.diff.tar.gzip", zst(t, plain), plain},
		{"unknown", "", gz(t, plain), plain},
		{"padded gzip", "application/vnd.oci.image.layer.v1.tar+gzip", append(gz(t, plain), make([]byte, 5000)...), plain},
		{"padded members", "", append(append(gz(t, plain[:half]), gz(t, plain[half:])...), 0), plain},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := filepath.Join(t.TempDir(), "layer")
			r, err := apply(t, d, c.data, Options{MediaType: c.media})
			if err != nil {
				t.Fatal(err)
			}
			if r.DiffID != digest.FromBytes(c.plain) {
				t.Errorf("diff id %s is not the tar's", r.DiffID)
			}
			if r.Bytes != int64(len(c.plain)) || r.Inodes != 4 || r.Size < 3<<20 {
				t.Errorf("%+v", r)
			}
			if content(t, filepath.Join(d, "d/g")) != "g" {
				t.Error("wrong content")
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	plain := archive(t, file("f", "x"))
	for _, c := range []struct{ media, data string }{
		{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", string(plain)},
		{"application/vnd.oci.image.config.v1+json", "{}"},
		{"", "\xfd7zXZ\x00rest"},
		{"", "BZh91AY&SY"},
	} {
		_, err := apply(t, t.TempDir(), []byte(c.data), Options{MediaType: c.media})
		if !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", c.media, err)
		}
	}
	d := mustApply(t, file("BZh", "a tar all the same"))
	if content(t, filepath.Join(d, "BZh")) != "a tar all the same" {
		t.Error("wrong content")
	}
}

func TestInodes(t *testing.T) {
	needRoot(t)
	when := time.Date(2020, 1, 2, 3, 4, 5, 678901234, time.UTC)
	read := when.Add(time.Hour)
	h := func(e ent, change func(*tar.Header)) ent {
		e.ModTime, e.AccessTime = when, read
		e.Format = tar.FormatPAX
		change(&e.Header)
		return e
	}
	long := strings.Repeat("long/", 60) + strings.Repeat("n", 255)
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	d := mustApply(t,
		h(dir("./"), func(h *tar.Header) { h.Mode = 0o751; h.Gid = 9 }),
		h(dir("d"), func(h *tar.Header) { h.Mode = 0o2775; h.Uid, h.Gid = 5, 6 }),
		h(file("d/suid", "x"), func(h *tar.Header) { h.Mode = 0o6755; h.Uid, h.Gid = 1000, 1000 }),
		h(file("d/odd", "x"), func(h *tar.Header) { h.Mode = 0o1666; h.Uid, h.Gid = 4294967294, 0 }),
		h(dir("d/plain"), func(h *tar.Header) { h.Mode = 0o1777 }),
		h(file("cap", "x"), func(h *tar.Header) {
			h.Uid = 7
			h.PAXRecords = map[string]string{
				"SCHILY.xattr.security.capability": caps, "SCHILY.xattr.user.a": "b\x00c",
				"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.security.selinux": "x",
			}
		}),
		h(symlink("abs", "/etc/passwd"), func(h *tar.Header) {
			h.Uid = 8
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.no": "x", "SCHILY.xattr.trusted.yes": "y"}
		}),
		h(symlink("up", "../../../etc/passwd"), func(*tar.Header) {}),
		link("hard", "/d/suid"), link("hardsym", "abs"),
		h(file("dev", ""), func(h *tar.Header) {
			h.Typeflag, h.Mode, h.Devmajor, h.Devminor, h.Gid = tar.TypeChar, 0o622, 4095, 1048575, 3
		}),
		h(file("blk", ""), func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, 8, 1 }),
		h(file("fifo", ""), func(h *tar.Header) { h.Typeflag, h.Mode = tar.TypeFifo, 0o666 }),
		h(file(long, "deep"), func(*tar.Header) {}),
		h(file("/absolute/name", "abs"), func(*tar.Header) {}),
		ent{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}},
	)
	for _, c := range []struct {
		name     string
		mode     uint32
		uid, gid uint32
	}{
		{"", unix.S_IFDIR | 0o751, 0, 9},
		{"d", unix.S_IFDIR | 0o2775, 5, 6},
		{"d/suid", unix.S_IFREG | 0o6755, 1000, 1000},
		{"d/odd", unix.S_IFREG | 0o1666, 4294967294, 0},
		{"d/plain", unix.S_IFDIR | 0o1777, 0, 0},
		{"cap", unix.S_IFREG | 0o644, 7, 0},
		{"abs", unix.S_IFLNK | 0o777, 8, 0},
		{"dev", unix.S_IFCHR | 0o622, 0, 3},
		{"blk", unix.S_IFBLK | 0o644, 0, 0},
		{"fifo", unix.S_IFIFO | 0o666, 0, 0},
		{long, unix.S_IFREG | 0o644, 0, 0},
		{"absolute/name", unix.S_IFREG | 0o644, 0, 0},
	} {
		st := stat(t, filepath.Join(d, c.name))
		if st.Mode != c.mode || st.Uid != c.uid || st.Gid != c.gid {
			t.Errorf("%q: mode %o owner %d:%d", c.name, st.Mode, st.Uid, st.Gid)
		}
		if time.Unix(st.Mtim.Unix()) != when.Local() {
			t.Errorf("%q: mtime %v", c.name, time.Unix(st.Mtim.Unix()))
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG && time.Unix(st.Atim.Unix()) != read.Local() {
			t.Errorf("%q: atime %v", c.name, time.Unix(st.Atim.Unix()))
		}
	}
	if st := stat(t, filepath.Join(d, "absolute")); st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 || st.Gid != 0 {
		t.Errorf("missing parent: %o %d:%d", st.Mode, st.Uid, st.Gid)
	}
	if st := stat(t, filepath.Join(d, "dev")); unix.Major(st.Rdev) != 4095 || unix.Minor(st.Rdev) != 1048575 {
		t.Errorf("device %x", st.Rdev)
	}
	if a, b := stat(t, filepath.Join(d, "hard")), stat(t, filepath.Join(d, "d/suid")); a.Ino != b.Ino {
		t.Error("hard link is a copy")
	}
	if a, b := stat(t, filepath.Join(d, "hardsym")), stat(t, filepath.Join(d, "abs")); a.Ino != b.Ino {
		t.Error("a hard link followed the symbolic link")
	}
	for _, c := range []struct{ name, xattr, want string }{
		{"cap", "security.capability", caps}, {"cap", "user.a", "b\x00c"}, {"abs", "trusted.yes", "y"},
		{"cap", "trusted.overlay.redirect", ""}, {"cap", "user.overlay.opaque", ""}, {"cap", "security.selinux", ""},
	} {
		if got := getxattr(t, filepath.Join(d, c.name), c.xattr); got != c.want {
			t.Errorf("%s: %s=%q", c.name, c.xattr, got)
		}
	}
	if l, _ := os.Readlink(filepath.Join(d, "abs")); l != "/etc/passwd" {
		t.Errorf("link target changed to %q", l)
	}
}

// A blob of no bytes, of every media type, is a layer that changes nothing.
func TestEmptyLayer(t *testing.T) {
	for _, media := range []string{
		"", "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	} {
		r, err := apply(t, t.TempDir(), nil, Options{MediaType: media})
		if err != nil || r.DiffID != digest.FromBytes(nil) || r.Bytes != 0 || r.Inodes != 1 {
			t.Errorf("%q: %+v, %v", media, r, err)
		}
	}
}

// What follows gzip's padding is no padding.
func TestGarbageBehindGzip(t *testing.T) {
	plain := archive(t, file("f", "x"))
	for _, more := range []string{"x", "\x00x", "\x00\x00\x1f\x8b\x08", "\x1f\x8b"} {
		if _, err := apply(t, t.TempDir(), append(gz(t, plain), more...), Options{}); err == nil {
			t.Errorf("%q behind the last member is accepted", more)
		}
	}
}

// Archives from before POSIX mark a directory by the slash behind its name.
func TestDirectoryOfV7(t *testing.T) {
	for _, typeflag := range []byte{'0', 0} {
		data := raw(t, dir("olddir/"), func(h []byte) {
			h[156] = typeflag
			copy(h[257:265], make([]byte, 8))
		})
		data = append(data[:512], archive(t, file("olddir/f", "x"))...)
		d := t.TempDir()
		if _, err := apply(t, d, data, Options{}); err != nil {
			t.Errorf("type %q: %v", typeflag, err)
		} else if content(t, filepath.Join(d, "olddir/f")) != "x" {
			t.Errorf("type %q: wrong content", typeflag)
		}
	}
}

// TestUmask: modes do not depend on the umask, and the process's umask is left alone.
func TestUmask(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	d := mustApply(t, file("f", "x"), dir("d"), ent{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o666}}, file("i/j/f", ""))
	for name, want := range map[string]uint32{"": 0o755, "f": 0o644, "d": 0o755, "p": 0o666, "i": 0o755, "i/j": 0o755} {
		if st := stat(t, filepath.Join(d, name)); st.Mode&0o7777 != want {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
	}
}

func TestSetgidTarget(t *testing.T) {
	needRoot(t)
	d := filepath.Join(t.TempDir(), "layer")
	os.Mkdir(d, 0o755)
	os.Chown(d, 0, 77)
	os.Chmod(d, 0o755|os.ModeSetgid)
	if _, err := apply(t, d, archive(t, file("f", "x"), dir("d"), symlink("s", "f"), file("e/f", "")), Options{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "d", "s", "e", "e/f"} {
		if st := stat(t, filepath.Join(d, name)); st.Gid != 0 || st.Mode&unix.S_ISGID != 0 {
			t.Errorf("%s: group %d mode %o", name, st.Gid, st.Mode)
		}
	}
}

// TestSymlinkParents: a path through a link of the same layer leads where chroot would lead.
func TestSymlinkParents(t *testing.T) {
	outside := t.TempDir()
	d := mustApply(t,
		symlink("lib", "usr/lib"), file("lib/x", "x"), // usr/lib is made
		dir("usr/bin"), symlink("bin", "/usr/bin"), file("bin/sh", "sh"),
		symlink("out", outside), file("out/f", "scoped"),
		symlink("up", "../../../../../../tmp/up"), file("up/g", "scoped"),
		symlink("a", "b"), symlink("b", "usr/../c/."), dir("c"), file("a/z", "z"),
		link("bin/sh2", "bin/sh"),
		dir("real"), file("real/q", "q"), symlink("real2", "real"), dir("real2"), file("real2/r", "r"), // a directory replaces a link
	)
	for name, want := range map[string]string{
		"usr/lib/x": "x", "usr/bin/sh": "sh", outside + "/f": "scoped", "tmp/up/g": "scoped", "c/z": "z", "usr/bin/sh2": "sh", "real/q": "q", "real2/r": "r",
	} {
		if got := content(t, filepath.Join(d, name)); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if es, _ := os.ReadDir(outside); len(es) != 0 {
		t.Errorf("written outside: %v", es)
	}
	if st := stat(t, filepath.Join(d, "real2")); st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Error("the directory entry did not replace the link")
	}
}

func TestReplace(t *testing.T) {
	d := mustApply(t,
		file("f", "one"), file("f", "two"),
		file("was-file", "x"), dir("was-file"), file("was-file/in", "in"),
		dir("was-dir"), file("was-dir/a/b/c", "c"), file("was-dir", "file"),
		symlink("was-link", "/etc/passwd"), file("was-link", "file"),
		dir("again"), file("again/old", ""), file("again", ""), file("again/new", "").as(tar.TypeReg, "again2/new"),
		dir("twice"), ent{Header: tar.Header{Typeflag: tar.TypeDir, Name: "twice", Mode: 0o700}},
		file("h1", "h"), link("h2", "h1"), file("h1", "other"),
	)
	for name, want := range map[string]string{"f": "two", "was-file/in": "in", "was-dir": "file", "was-link": "file", "again": "", "h1": "other", "h2": "h"} {
		if got := content(t, filepath.Join(d, name)); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if st := stat(t, filepath.Join(d, "twice")); st.Mode&0o7777 != 0o700 {
		t.Errorf("the second entry of a directory counts: %o", st.Mode)
	}
}

func (e ent) as(kind byte, name string) ent {
	e.Typeflag, e.Name = kind, name
	return e
}

func TestEpoch(t *testing.T) {
	e := dir("d")
	e.ModTime = time.Unix(0, 0)
	d := mustApply(t, e, file("d/f", "x"))
	for _, n := range []string{"d", "d/f"} {
		if st := stat(t, filepath.Join(d, n)); st.Mtim.Sec != 0 {
			t.Errorf("%s: %v", n, st.Mtim)
		}
	}
}

// TestSparse reads what GNU tar wrote, in its two ways.
func TestSparse(t *testing.T) {
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 30
	f.WriteAt([]byte("middle"), 512<<20)
	f.WriteAt([]byte("start"), 0)
	f.Truncate(size)
	f.Close()
	for _, format := range []string{"gnu", "posix"} {
		t.Run(format, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "t.tar")
			run(t, "tar", "-C", src, "--sparse", "--format="+format, "-cf", out, "sparse")
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > 1<<20 {
				t.Fatal("the archive is not sparse")
			}
			d := filepath.Join(t.TempDir(), "layer")
			if _, err := apply(t, d, data, Options{}); err != nil {
				t.Fatal(err)
			}
			st := stat(t, filepath.Join(d, "sparse"))
			if st.Size != size || st.Blocks*512 > 1<<20 {
				t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
			}
			g, _ := os.Open(filepath.Join(d, "sparse"))
			defer g.Close()
			buf := make([]byte, 8)
			g.ReadAt(buf, 512<<20)
			if string(buf) != "middle\x00\x00" {
				t.Errorf("%q", buf)
			}
		})
	}
}

// TestAgainstTar compares with what GNU tar unpacks of a tree of the machine.
func TestAgainstTar(t *testing.T) {
	needRoot(t)
	for _, format := range []string{"gnu", "posix", "ustar"} {
		t.Run(format, func(t *testing.T) {
			tmp := t.TempDir()
			out, theirs, ours := filepath.Join(tmp, "t.tar"), filepath.Join(tmp, "theirs"), filepath.Join(tmp, "ours")
			run(t, "tar", "-C", "/", "--format="+format, "-cf", out, "etc", "bin")
			os.Mkdir(theirs, 0o755)
			run(t, "tar", "-C", theirs, "-xpf", out)
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := apply(t, ours, data, Options{}); err != nil {
				t.Fatal(err)
			}
			if a, b := listing(t, theirs), listing(t, ours); !slices.Equal(a, b) {
				for _, l := range a {
					if !slices.Contains(b, l) {
						t.Errorf("want %s", l)
					}
				}
				for _, l := range b {
					if !slices.Contains(a, l) {
						t.Errorf("got %s", l)
					}
				}
			}
		})
	}
}

// listing has a line for each entry of a tree, with all that an archive keeps.
func listing(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		st := stat(t, p)
		line := fmt.Sprintf("%s %o %d:%d n%d r%x %d", p[len(root):], st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			line += " " + digest.FromString(content(t, p)).String()
		case unix.S_IFLNK:
			l, _ := os.Readlink(p)
			line += " -> " + l
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestUsage(t *testing.T) {
	d := mustApply(t, file("a", strings.Repeat("x", 100000)), link("b", "a"), dir("d"), file("d/c", "x"), symlink("s", "a"))
	unix.Sync()
	size, inodes, err := Usage(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	du := strings.Fields(run(t, "du", "-s", "--block-size=1", d))[0]
	if strconv.FormatInt(size, 10) != du || inodes != 5 {
		t.Errorf("%d bytes, du says %s; %d inodes", size, du, inodes)
	}
}

func TestNotEmpty(t *testing.T) {
	d := t.TempDir()
	os.WriteFile(filepath.Join(d, "x"), nil, 0o644)
	if _, err := apply(t, d, archive(t), Options{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v", err)
	}
	if _, err := Apply(t.Context(), bytes.NewReader(archive(t)), d+"/none", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestTruncated(t *testing.T) {
	noise := make([]byte, 2<<20) // does not compress
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	plain := archive(t, file("f", string(noise)), file("g", "g"))
	for name, data := range map[string][]byte{"plain": plain, "gzip": gz(t, plain), "zstd": zst(t, plain)} {
		for _, n := range []int{3, 100, 1000, len(data) / 2} {
			_, err := apply(t, filepath.Join(t.TempDir(), "l"), data[:n], Options{})
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s cut at %d of %d: %v", name, n, len(data), err)
			}
		}
		if name != "plain" { // the tar itself needs not say where it ends
			if _, err := apply(t, filepath.Join(t.TempDir(), "l"), data[:len(data)-3], Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s without its last bytes: %v", name, err)
			}
		}
	}
	damaged := gz(t, plain)
	damaged[len(damaged)/2] ^= 0xff
	if _, err := apply(t, filepath.Join(t.TempDir(), "l"), damaged, Options{}); err == nil {
		t.Error("damaged gzip accepted")
	}
}

func TestReadError(t *testing.T) {
	want := errors.New("connection reset")
	plain := archive(t, file("f", strings.Repeat("x", 1<<20)))
	_, err := Apply(t.Context(), io.MultiReader(bytes.NewReader(plain[:1<<19]), errReader{want}), t.TempDir(), Options{})
	if !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
	if _, err := Apply(t.Context(), errReader{want}, t.TempDir(), Options{}); !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("stop")
	r, w := io.Pipe()
	go func() {
		w.Write(archive(t, file("f", "x"))[:1024])
		cancel(stop)
		// A file without an end.
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		tw.WriteHeader(&tar.Header{Name: "g", Size: 1 << 39})
		w.Write(b.Bytes())
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	if _, err := Apply(ctx, r, t.TempDir(), Options{}); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	r.Close()
}

func TestMaxSize(t *testing.T) {
	data := archive(t, file("f", strings.Repeat("x", 1<<20)))
	if _, err := apply(t, t.TempDir(), gz(t, data), Options{MaxSize: 1 << 19}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	if _, err := apply(t, t.TempDir(), gz(t, data), Options{MaxSize: int64(len(data))}); err != nil {
		t.Error(err)
	}
}
