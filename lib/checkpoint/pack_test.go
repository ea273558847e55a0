// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPackUnpack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(from, "core-1.img"), []byte("core"), 0o600))
	must(t, os.WriteFile(filepath.Join(from, "pages-1.img"), bytes.Repeat([]byte("p"), 100_000), 0o600))
	var b bytes.Buffer
	must(t, Pack(t.Context(), &b, from))
	must(t, Unpack(t.Context(), bytes.NewReader(b.Bytes()), to))
	if got, err := os.ReadFile(filepath.Join(to, "pages-1.img")); err != nil || len(got) != 100_000 {
		t.Error(len(got), err)
	}
	// A second time what is there stands in the way.
	if err := Unpack(t.Context(), bytes.NewReader(b.Bytes()), to); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := Unpack(t.Context(), bytes.NewReader(b.Bytes()[:b.Len()/2]), t.TempDir()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("half an archive: %v", err)
	}
	must(t, os.Symlink("/etc", filepath.Join(from, "parent")))
	if err := Pack(t.Context(), &b, from); err == nil {
		t.Error("a checkpoint with a parent is packed")
	}
}

func TestUnpackHostile(t *testing.T) {
	for name, h := range map[string]tar.Header{
		"above":        {Name: "../out", Typeflag: tar.TypeReg},
		"absolute":     {Name: "/tmp/out", Typeflag: tar.TypeReg},
		"below":        {Name: "a/b", Typeflag: tar.TypeReg},
		"a link":       {Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		"a hard link":  {Name: "out", Typeflag: tar.TypeLink, Linkname: "../x"},
		"a device":     {Name: "out", Typeflag: tar.TypeBlock},
		"a FIFO":       {Name: "out", Typeflag: tar.TypeFifo},
		"a directory":  {Name: "out/", Typeflag: tar.TypeDir},
		"nothing":      {Name: ".", Typeflag: tar.TypeDir},
		"no directory": {Name: "..", Typeflag: tar.TypeReg},
	} {
		top := t.TempDir()
		dir := filepath.Join(top, "in")
		must(t, os.Mkdir(dir, 0o700))
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		must(t, w.WriteHeader(&h))
		must(t, w.Close())
		if err := Unpack(t.Context(), &b, dir); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		for _, d := range []string{top, dir} {
			if all, _ := os.ReadDir(d); d == top && len(all) != 1 || d == dir && len(all) != 0 {
				t.Errorf("%s: there is %v in %s", name, all, d)
			}
		}
	}
}

func FuzzUnpack(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "core-1.img", Typeflag: tar.TypeReg, Size: 1})
	w.Write([]byte("c"))
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "in")
		must(t, os.Mkdir(dir, 0o700))
		err := Unpack(t.Context(), bytes.NewReader(data), dir)
		if all, _ := os.ReadDir(top); len(all) != 1 {
			t.Error("something is outside")
		}
		all, _ := os.ReadDir(dir)
		for _, e := range all {
			if !e.Type().IsRegular() {
				t.Errorf("%s is no file", e.Name())
			}
		}
		if err == nil && len(all) == 0 {
			t.Error("nothing was unpacked")
		}
	})
}
