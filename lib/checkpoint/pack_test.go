// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// TestUnpackHoles: an archive of some blocks does not become a file of any size.
func TestUnpackHoles(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, data []byte) (header []byte) {
		at := b.Len()
		must(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(data))}))
		_, err := w.Write(data)
		must(t, err)
		must(t, w.Flush())
		return b.Bytes()[at : at+512]
	}
	var records []byte
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=pages-1.img", "GNU.sparse.realsize=67108864"} {
		n := len(r) + 4
		records = fmt.Appendf(records, "%d %s\n", n, r)
	}
	pax := put("pax", records)
	pax[156] = tar.TypeXHeader
	copy(pax[148:156], "        ")
	sum := 0
	for _, c := range pax {
		sum += int(c)
	}
	copy(pax[148:156], fmt.Sprintf("%06o\x00 ", sum))
	put("pages-1.img", append([]byte("0\n"), make([]byte, 510)...)) // a map of no data
	must(t, w.Close())
	dir := t.TempDir()
	if err := Unpack(t.Context(), &b, dir); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "has holes") {
		t.Error(err)
	}
	if all, _ := os.ReadDir(dir); len(all) > 0 {
		t.Errorf("there is %v", all)
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
