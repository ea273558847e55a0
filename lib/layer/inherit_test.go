// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func owned(name string, mode int64, uid, gid int) ent {
	return ent{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: uid, Gid: gid}}
}

// mode is what stat -c '%a %u:%g' prints.
func mode(t *testing.T, path string) string {
	st := stat(t, path)
	return fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
}

// A directory that a layer has files in and does not list looks as it does below.
func TestImpliedParents(t *testing.T) {
	attr := owned("attr/", 0o700, 5, 6)
	attr.PAXRecords = map[string]string{"SCHILY.xattr.user.kind": "below"}
	m := merge(t, Options{},
		[]ent{owned("./", 0o711, 3, 4), owned("tmp/", 0o1777, 0, 0), owned("srv/", 0o755, 0, 0), owned("srv/app/", 0o750, 1000, 1000), attr, owned("gone/", 0o700, 9, 9), owned("opq/", 0o700, 9, 9), owned("opq/in/", 0o700, 9, 9), file("plain", ""), owned("again/", 0o700, 9, 9)},
		[]ent{file("tmp/x", ""), file("srv/app/y", ""), file("attr/z", ""), file(".wh.gone", ""), file("opq/.wh..wh..opq", ""), file("opq/in/x", ""), file("plain/x", ""), file("new/x", ""), file(".wh.again", ""), file("again/x", "")},
		[]ent{file("tmp/x2", ""), file("srv/app/deep/y2", ""), file("gone/x", ""), file("again/x3", ""), owned("srv/", 0o701, 1, 1)},
	)
	for path, want := range map[string]string{
		"": "711 3:4", "tmp": "1777 0:0", "srv": "701 1:1", "srv/app": "750 1000:1000", "srv/app/deep": "755 0:0", "attr": "700 5:6",
		"gone": "755 0:0", "opq": "700 9:9", "opq/in": "755 0:0", "plain": "755 0:0", "new": "755 0:0", "again": "755 0:0",
	} {
		if got := mode(t, filepath.Join(m, path)); got != want {
			t.Errorf("/%s: %s, want %s", path, got, want)
		}
	}
	if got := getxattr(t, filepath.Join(m, "attr"), "user.kind"); got != "below" {
		t.Errorf("extended attribute %q", got)
	}
}

// An opaque root hides all that is below, but keeps what the root itself is.
func TestOpaqueRoot(t *testing.T) {
	for _, opt := range []Options{{}, {UserXattr: true}} {
		m := merge(t, opt,
			[]ent{owned("./", 0o711, 3, 4), file("a", "1"), dir("d"), file("d/old", ""), symlink("l", "a"), file("both", "1"), file("kind/x", "")},
			[]ent{file("b", "2"), file("d/old2", "")},
			[]ent{file(".wh..wh..opq", ""), file("c", "3"), file("d/new", ""), file("both", "3"), file("kind", "file")},
			[]ent{file("a", "4")},
		)
		if got := names(t, m); got != "a both c d kind" {
			t.Errorf("root has %s", got)
		}
		if got := names(t, filepath.Join(m, "d")); got != "new" {
			t.Errorf("d has %s", got)
		}
		if content(t, filepath.Join(m, "a")) != "4" || content(t, filepath.Join(m, "both")) != "3" {
			t.Error("wrong content")
		}
		if got := mode(t, m); got != "711 3:4" {
			t.Errorf("root: %s", got)
		}
	}
}

// Links and files of the layers below are not followed out of them.
func TestInheritStaysInside(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	os.Chmod(outside, 0o700)
	os.Mkdir(filepath.Join(outside, "sub"), 0o700)
	below := mustApply(t, symlink("a", outside), symlink("b", "/"+outside))
	own := filepath.Join(t.TempDir(), "own")
	r, err := apply(t, own, archive(t, file("a/sub/x", ""), file("b/sub/x", "")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Inherit(own, r.Implied, []string{below}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "a/sub"} {
		if st := stat(t, filepath.Join(own, name)); st.Mode&0o7777 != 0o755 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
	}
}
