// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// merge unpacks layers, the lowest first, and mounts them as an overlay.
func merge(t *testing.T, opt Options, layers ...[]ent) string {
	t.Helper()
	needRoot(t)
	tmp := t.TempDir()
	var lower []string
	for i, entries := range layers {
		d := filepath.Join(tmp, string(rune('a'+i)))
		r, err := apply(t, d, archive(t, entries...), opt)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time changes nothing
			if err := Inherit(d, r.Implied, lower); err != nil {
				t.Fatal(err)
			}
		}
		lower = slices.Insert(lower, 0, d)
	}
	target := filepath.Join(tmp, "merged")
	os.Mkdir(target, 0o755)
	data := "lowerdir=" + strings.Join(lower, ":")
	if opt.UserXattr {
		data += ",userxattr"
	}
	if err := unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, data); err != nil {
		t.Fatalf("mount %s: %v", data, err)
	}
	t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
	return target
}

func names(t *testing.T, dir string) string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range es {
		if _, err := os.Lstat(filepath.Join(dir, e.Name())); err != nil {
			t.Errorf("%s is listed and cannot be looked at: %v", e.Name(), err)
		}
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestWhiteouts(t *testing.T) {
	below := []ent{
		file("gone", ""), file("stays", ""), dir("gonedir"), file("gonedir/x", ""),
		dir("opaque"), file("opaque/old", ""), dir("opaque/sub"), file("opaque/sub/old", ""),
		dir("replaced"), file("replaced/old", ""), dir("replaced2"), file("replaced2/old", ""), dir("replaced3"), file("replaced3/old", ""),
		file("file1", "old"), file("file2", "old"), dir("merged"), file("merged/old", ""), symlink("lib", "usr/lib"), file("usr/lib/so", ""), file("usr/lib/so2", ""),
	}
	for name, above := range map[string][]ent{
		"whiteouts first": {
			file(".wh.gone", ""), file(".wh.gonedir", ""), file("opaque/.wh..wh..opq", ""), file("opaque/new", ""), file("opaque/sub/new", ""),
			file("opaque/.wh.old", ""), file("opaque/sub/.wh.old", ""),
			file(".wh.replaced", ""), dir("replaced"), file("replaced/new", ""),
			file(".wh.replaced2", ""), file("replaced2/new", ""), // without an entry of its own
			file(".wh.replaced3", ""), file("replaced3", ""),
			file(".wh.file1", ""), file("file1", "new"), file("merged/new", ""),
			symlink("lib", "usr/lib"), file("lib/.wh.so", ""), file(".wh..wh.aufs", ""), dir(".wh..wh.orph"), file("never", ""), file(".wh.never-was", ""),
		},
		"whiteouts last": {
			file("never", ""), symlink("lib", "usr/lib"), file("merged/new", ""),
			file("file1", "new"), file(".wh.file1", ""), file("replaced3", ""), file(".wh.replaced3", ""),
			file("replaced2/new", ""), file(".wh.replaced2", ""), dir("replaced"), file("replaced/new", ""), file(".wh.replaced", ""),
			dir("opaque"), file("opaque/new", ""), file("opaque/sub/new", ""), file("opaque/sub/.wh.old", ""), file("opaque/.wh.old", ""), file("opaque/.wh..wh..opq", ""),
			file("lib/.wh.so", ""), file(".wh.gonedir", ""), file(".wh.gone", ""), file(".wh.never-was", ""),
		},
	} {
		for _, opt := range []Options{{}, {UserXattr: true}} {
			t.Run(name, func(t *testing.T) {
				m := merge(t, opt, below, above)
				for dir, want := range map[string]string{
					".":          "file1 file2 lib merged never opaque replaced replaced2 replaced3 stays usr",
					"opaque":     "new sub",
					"opaque/sub": "new",
					"replaced":   "new",
					"replaced2":  "new",
					"merged":     "new old",
					"usr/lib":    "so2",
				} {
					if got := names(t, filepath.Join(m, dir)); got != want {
						t.Errorf("%s has %q, not %q", dir, got, want)
					}
				}
				if content(t, filepath.Join(m, "file1")) != "new" || content(t, filepath.Join(m, "file2")) != "old" {
					t.Error("wrong file")
				}
			})
		}
	}
}

// TestPlinks: layers of the aufs days keep hard-linked files aside.
func TestPlinks(t *testing.T) {
	d := mustApply(t, dir(".wh..wh.plnk"), file(".wh..wh.plnk/12.34", "x"), link("a", ".wh..wh.plnk/12.34"), link("b", ".wh..wh.plnk/12.34"))
	if got := names(t, d); got != "a b" {
		t.Errorf("has %q", got)
	}
	if content(t, filepath.Join(d, "a")) != "x" || stat(t, filepath.Join(d, "a")).Nlink != 2 {
		t.Error("a and b are not one file")
	}
}

// TestUnprivileged: without the right to make a device the error names the entry.
func TestUnprivileged(t *testing.T) {
	needRoot(t)
	tmp := t.TempDir()
	bin := filepath.Join(tmp, "test")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := tmp; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		os.Chmod(d, 0o777)
	}
	run(t, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all",
		"env", "TMPDIR="+tmp, bin, "-test.run", "^TestAsNobody$", "-test.v")
}

func TestAsNobody(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("run by TestUnprivileged")
	}
	as := func(e ent) ent { e.Uid, e.Gid = os.Geteuid(), os.Getegid(); return e }
	ro := as(dir("ro"))
	ro.Mode = 0o500
	root := as(dir("./"))
	root.Mode = 0o555
	d := filepath.Join(t.TempDir(), "l")
	if _, err := apply(t, d, archive(t, root, ro, as(file("ro/f", "x")), as(file("ro/.wh..wh..opq", "")), as(file("ro/.wh.w", ""))), Options{UserXattr: true}); err != nil {
		t.Fatal(err)
	}
	if getxattr(t, d+"/ro", "user.overlay.opaque") != "y" || content(t, d+"/ro/f") != "x" {
		t.Error("not unpacked")
	}
	os.Chmod(d, 0o755)
	os.Chmod(d+"/ro", 0o755)
	for name, e := range map[string]ent{
		"dev/null": as(ent{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3}}),
		"of/other": {Header: tar.Header{Typeflag: tar.TypeReg, Name: "of/other", Uid: 1}},
	} {
		_, err := apply(t, filepath.Join(t.TempDir(), "l"), archive(t, e), Options{UserXattr: true})
		if err == nil || !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := apply(t, filepath.Join(t.TempDir(), "l"), archive(t, as(file("d/.wh..wh..opq", ""))), Options{})
	if err == nil || !strings.Contains(err.Error(), `"d"`) {
		t.Errorf("trusted xattr: %v", err)
	}
}
