// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// raw patches fields of a header that archive/tar would not write.
func raw(t testing.TB, e ent, patch func(h []byte)) []byte {
	b := archive(t, e)
	patch(b[:512])
	for i := 148; i < 156; i++ {
		b[i] = ' '
	}
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func TestHostile(t *testing.T) {
	base256 := func(at int, v ...byte) func([]byte) {
		return func(h []byte) { copy(h[at:], v) }
	}
	pax := func(records map[string]string) ent {
		e := file("f", "")
		e.PAXRecords = records
		return e
	}
	chr := func(major, minor int64) ent {
		return ent{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev", Devmajor: major, Devminor: minor, Format: tar.FormatGNU}}
	}
	many := map[string]string{}
	for i := range 300 {
		many[fmt.Sprintf("SCHILY.xattr.user.%0240d", i)] = "x"
	}
	cases := []struct {
		name string
		data []byte
	}{
		{"dotdot", archive(t, file("../victim", "x"))},
		{"inner dotdot", archive(t, file("a/../../victim", "x"))},
		{"absolute dotdot", archive(t, file("/../victim", "x"))},
		{"dotdot directory", archive(t, dir(".."))},
		{"dotdot whiteout", archive(t, file("../.wh.victim", ""))},
		{"dotdot opaque", archive(t, file("../.wh..wh..opq", ""))},
		{"whiteout of dot", archive(t, file("a/.wh..", ""))},
		{"whiteout of dotdot", archive(t, file("a/.wh...", ""))},
		{"whiteout of nothing", archive(t, file("a/.wh.", ""))},
		{"link to outside", archive(t, link("f", "../victim/secret"))},
		{"absolute link", archive(t, link("f", "/etc/passwd"))},
		{"link to nothing", archive(t, link("f", "none"))},
		{"link through a link", archive(t, symlink("s", "/etc"), link("f", "s/passwd"))},
		{"link through a file", archive(t, file("s", ""), link("f", "s/passwd"))},
		{"link to the root", archive(t, link("f", "./"))},
		{"link to a directory", archive(t, dir("d"), link("f", "d"))},
		{"link to a parent", archive(t, dir("d"), link("d/f", "d"))},
		{"symbolic link to nothing", archive(t, symlink("s", ""))},
		{"link to itself", archive(t, file("f", "x"), link("f", "./f"))},
		{"link to a whiteout's inside", archive(t, file(".wh.w", ""), link("f", "w/x"))},
		{"through a file", archive(t, file("f", ""), file("f/g", ""))},
		{"through a device", archive(t, chr(1, 3), file("dev/g", ""))},
		{"links in a circle", archive(t, symlink("a", "b"), symlink("b", "a"), file("a/x", ""))},
		{"link to itself as parent", archive(t, symlink("a", "a"), file("a/x", ""))},
		{"growing link", archive(t, symlink("a", "a/a/a/a"), file("a/x", ""))},
		{"root is a file", archive(t, file("./", "x").as(tar.TypeReg, "."))},
		{"long name", archive(t, file(strings.Repeat("d/", 2100)+"f", ""))},
		{"long component", archive(t, file(strings.Repeat("n", 256), ""))},
		{"long target", archive(t, symlink("s", strings.Repeat("n", 5000)))},
		{"8 EiB", raw(t, file("f", ""), base256(124, 0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))},
		{"negative size", raw(t, file("f", ""), base256(124, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))},
		{"huge owner", raw(t, file("f", ""), base256(108, 0x80, 0, 0, 1, 0, 0, 0, 0))},
		{"negative owner", raw(t, file("f", ""), base256(116, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe))},
		{"no-change owner", raw(t, file("f", ""), base256(108, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff))},
		{"major", archive(t, chr(4096, 1))},
		{"minor", archive(t, chr(1, 1<<20))},
		{"negative minor", raw(t, chr(1, 1), base256(337, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))},
		{"large xattr", archive(t, pax(map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 65537)}))},
		{"xattr with a long name", archive(t, pax(map[string]string{"SCHILY.xattr.user." + strings.Repeat("x", 256): "x"}))},
		{"many xattrs", archive(t, pax(many))},
		{"unknown type", raw(t, file("f", ""), func(h []byte) { h[156] = 'Z' })},
		{"no tar", bytes.Repeat([]byte("this is no tar archive. "), 1000)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tmp := t.TempDir()
			os.MkdirAll(filepath.Join(tmp, "victim"), 0o755)
			os.WriteFile(filepath.Join(tmp, "victim/secret"), []byte("secret"), 0o644)
			before := listing(t, filepath.Join(tmp, "victim"))
			_, err := apply(t, filepath.Join(tmp, "layer"), c.data, Options{})
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			if after := listing(t, filepath.Join(tmp, "victim")); !slices.Equal(before, after) {
				t.Errorf("outside was %v, is %v", before, after)
			}
			if es, _ := os.ReadDir(tmp); len(es) != 2 {
				t.Errorf("outside has %v", es)
			}
			if es, _ := filepath.Glob(filepath.Join(tmp, "layer/f")); len(es) != 0 && !strings.HasPrefix(c.name, "through") && c.name != "link to itself" && !strings.Contains(c.name, "xattr") {
				t.Errorf("left %v", es)
			}
		})
	}
}

// TestRefusedByKernel: what only the kernel finds wrong is the layer's fault, too.
func TestRefusedByKernel(t *testing.T) {
	needRoot(t)
	for _, e := range []ent{file("f", ""), dir("d")} {
		e.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"}
		if _, err := apply(t, filepath.Join(t.TempDir(), "l"), archive(t, e), Options{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", e.Name, err)
		}
	}
}

// TestMemoryBomb: what a small archive can make the unpacker remember is bounded.
func TestMemoryBomb(t *testing.T) {
	large := dir("d")
	large.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 3000)}
	many := make([]ent, maxKept/maxXattr+1)
	for i := range many {
		many[i] = dir(fmt.Sprint("d", i%3))
		many[i].PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", maxXattr)}
	}
	for name, c := range map[string]struct {
		kept    int // by the entries before
		entries []ent
	}{
		"attributes": {0, many},
		"attribute":  {maxKept - 3000, []ent{large}},
		"path":       {maxKept - 3000, []ent{file(strings.Repeat("d/", 100)+"f", "")}},
		"whiteouts":  {maxKept - 300, []ent{file(".wh.a"+strings.Repeat("x", 200), ""), file(".wh.b"+strings.Repeat("x", 200), "")}},
	} {
		u, err := newUnpacker(t.TempDir(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		u.kept = c.kept
		err = u.unpack(t.Context(), bytes.NewReader(archive(t, c.entries...)))
		if u.close(); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "have more than") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSparseBomb: what sparse files claim is bounded, although it takes no space.
func TestSparseBomb(t *testing.T) {
	old := func(size string) []byte {
		e := file("f", "").as(tar.TypeReg, "f")
		e.Format = tar.FormatGNU
		return raw(t, e, func(h []byte) {
			h[156] = 'S'
			copy(h[386:], "00000000000\x0000000000000\x00") // a map that has an empty piece
			copy(h[483:], size)
		})
	}
	for _, size := range []string{"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff", "\x80\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00"} {
		_, err := apply(t, filepath.Join(t.TempDir(), "l"), old(size), Options{})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%x: %v", size, err)
		}
	}
	d := filepath.Join(t.TempDir(), "l")
	if _, err := apply(t, d, old("00010000000\x00"), Options{}); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, filepath.Join(d, "f")); st.Size != 0o10000000 || st.Blocks != 0 {
		t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
}

// TestRacingSwap: another process turns directories of the layer into links to the outside and back,
// while files are unpacked into them.
func TestRacingSwap(t *testing.T) {
	tmp := t.TempDir()
	layer, victim := filepath.Join(tmp, "layer"), filepath.Join(tmp, "victim")
	os.Mkdir(layer, 0o755)
	os.Mkdir(victim, 0o700)
	os.WriteFile(filepath.Join(victim, "f0"), []byte("secret"), 0o600)
	before := fmt.Sprint(listing(t, victim), stat(t, victim).Mode, stat(t, victim).Mtim)
	var entries []ent
	for i := range 192 {
		d := fmt.Sprintf("d/e%d", i%96)
		e := dir(d)
		e.Mode, e.Uid = 0o777, 12
		n := file(fmt.Sprintf("%s/p%d", d, i), "").as(tar.TypeFifo, fmt.Sprintf("%s/p%d", d, i))
		n.Mode = 0o6777
		entries = append(entries, e, file(fmt.Sprintf("%s/f%d", d, i%3), "x"), n, symlink(fmt.Sprintf("%s/s%d", d, i), "x"),
			link(fmt.Sprintf("%s/h%d", d, i), fmt.Sprintf("%s/f%d", d, i%3)), file(d+"/.wh.f1", ""), file(d+"/sub/.wh..wh..opq", ""))
	}
	data := archive(t, entries...)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		link, aside := filepath.Join(tmp, "link"), filepath.Join(tmp, "aside")
		os.Symlink(victim, link)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(layer, "d")
			if i%2 == 0 {
				name = filepath.Join(layer, fmt.Sprintf("d/e%d", i%96))
			}
			// The directory and the link change places, as atomically as an attacker can.
			if unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE) == nil {
				unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE)
			}
			if i%16 == 0 && os.Rename(name, aside) == nil {
				os.Symlink("../../victim", name)
				os.Remove(name)
				os.Rename(aside, name)
			}
			os.RemoveAll(aside)
			time.Sleep(time.Duration(i%4) * 20 * time.Microsecond)
		}
	}()
	worked, failed := 0, 0
	for range 20 {
		if _, err := Apply(t.Context(), bytes.NewReader(data), layer, Options{}); err != nil {
			failed++
		} else {
			worked++
		}
		old := filepath.Join(tmp, "old")
		os.Rename(layer, old)
		os.RemoveAll(old)
		os.Mkdir(layer, 0o755)
	}
	close(stop)
	<-done
	t.Logf("%d worked, %d failed", worked, failed)
	if after := fmt.Sprint(listing(t, victim), stat(t, victim).Mode, stat(t, victim).Mtim); after != before {
		t.Errorf("outside was %s\nis %s", before, after)
	}
	if _, err := unix.Lgetxattr(victim, "trusted.overlay.opaque", nil); err == nil {
		t.Error("the outside became opaque")
	}
}

// FuzzApply: no input makes anything outside the directory change, nor a panic.
// inMemory has the trees of a fuzz target in memory: on a disk most of its time goes to making and removing them.
func inMemory(f *testing.F) {
	f.Helper()
	const dir = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC {
		f.Setenv("TMPDIR", dir)
	}
}

func FuzzApply(f *testing.F) {
	inMemory(f)
	for _, e := range [][]ent{
		{file("a/b", "x"), dir("a"), symlink("l", "../../.."), file("l/x", "x"), link("h", "a/b")},
		{file(".wh.a", ""), file("a/.wh..wh..opq", ""), file("a/b", "y"), symlink("a", "/"), file("a/c", "z")},
		{file("../x", ""), file("/../x", "")},
		{ent{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev", Devmajor: 1, Devminor: 3}}, file("dev/x", "")},
		{symlink("a", "b"), symlink("b", "a/../../outside"), file("a/x", ""), link("q", "b/x")},
	} {
		data := archive(f, e...)
		f.Add(data)
		f.Add(gz(f, data))
		f.Add(zst(f, data))
	}
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		tmp, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(tmp)
		layer, outside := filepath.Join(tmp, "in/layer"), filepath.Join(tmp, "outside")
		for _, d := range []string{layer, outside} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		os.WriteFile(filepath.Join(outside, "x"), []byte("secret"), 0o600)
		hold(t, layer, tmp, data)
	})
}

func hold(t *testing.T, layer, tmp string, data []byte) {
	before := fmt.Sprint(listing(t, filepath.Join(tmp, "outside")))
	Apply(t.Context(), bytes.NewReader(data), layer, Options{MaxSize: 16 << 20})
	if after := fmt.Sprint(listing(t, filepath.Join(tmp, "outside"))); after != before {
		t.Errorf("outside was %s, is %s", before, after)
	}
	if es, _ := os.ReadDir(tmp); len(es) != 2 {
		t.Errorf("outside has %v", es)
	}
	if es, _ := os.ReadDir(filepath.Join(tmp, "in")); len(es) != 1 {
		t.Errorf("outside has %v", es)
	}
}
