// SPDX-License-Identifier: Apache-2.0

package erofs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/erofs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func none(string) bool { return false }

// image writes an image of a tree.
func image(t testing.TB, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	must(t, err)
	_, err = erofs.Write(t.Context(), f, dir, none)
	must(t, errors.Join(err, f.Close()))
	return f.Name()
}

// mounted mounts an image until the end of the test.
func mounted(t testing.TB, file string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	at := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", file, at).CombinedOutput(); err != nil {
		if kinds, _ := os.ReadFile("/proc/filesystems"); !bytes.Contains(kinds, []byte("erofs")) {
			t.Skip("the kernel has no erofs")
		}
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
	return at
}

// strange fills a tree with what there may be in a layer.
func strange(t testing.TB, dir string) {
	t.Helper()
	put := func(name string, data []byte) { must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644)) }
	must(t, os.MkdirAll(dir+"/d/e/f", 0o755))
	put("empty", nil)
	for _, n := range []int{1, 1023, 1024, 1025, 4095, 4096, 4097, 1 << 20, 3<<20 + 7} {
		put(fmt.Sprint("d/size-", n), bytes.Repeat([]byte("0123456789abcde"), n/15+1)[:n])
	}
	put("d/"+strings.Repeat("n", 255), []byte("x"))
	put("d/caf\xe9 \n:,\\", []byte("x"))
	put("d/set-id", []byte("x"))
	must(t, os.Chown(dir+"/d/set-id", 1<<31+12, 34))
	must(t, os.Chmod(dir+"/d/set-id", 0o755|os.ModeSetuid|os.ModeSetgid|os.ModeSticky))
	must(t, os.Link(dir+"/d/set-id", dir+"/second"))
	must(t, os.Symlink("../d", dir+"/d/link"))
	must(t, os.Symlink(strings.Repeat("t", 4000), dir+"/d/long"))
	must(t, unix.Mkfifo(dir+"/d/fifo", 0o600))
	must(t, unix.Mknod(dir+"/d/socket", unix.S_IFSOCK|0o600, 0))
	must(t, unix.Mknod(dir+"/d/device", unix.S_IFBLK|0o600, int(unix.Mkdev(4000, 300000))))
	must(t, unix.Mknod(dir+"/d/whiteout", unix.S_IFCHR, 0))
	must(t, unix.Setxattr(dir+"/d/e", "trusted.x", bytes.Repeat([]byte("v"), 3000), 0))
	must(t, unix.Setxattr(dir+"/d/e", "trusted.overlay.opaque", []byte("y"), 0))
	must(t, unix.Setxattr(dir+"/empty", "user.empty", nil, 0))
	must(t, unix.Setxattr(dir+"/second", "security.capability", []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	// More names than fit into a block, with a first block that is full to the byte.
	for i := range 700 {
		put(fmt.Sprintf("d/e/f/%05d%s", i, strings.Repeat("x", i%120)), []byte(fmt.Sprint(i)))
	}
	holed, err := os.Create(dir + "/holed")
	must(t, err)
	must(t, holed.Truncate(64<<20))
	for _, at := range []int64{0, 30 << 20, 64<<20 - 3} {
		_, err = holed.WriteAt([]byte("end"), at)
		must(t, err)
	}
	must(t, holed.Close())
	for _, name := range []string{"/holed", "/d/e", "/d", ""} {
		when := time.Unix(-12345, 123456789)
		must(t, os.Chtimes(dir+name, when, when))
	}
}

// listing tells all of a tree, but for the numbers of inodes.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	all, first := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		rel := strings.TrimPrefix(path, dir)
		text := fmt.Sprintf("%o %d:%d %d.%d %d names, device %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink, st.Rdev)
		if st.Nlink > 1 && !e.IsDir() {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			text += " is " + first[st.Ino]
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			must(t, err)
			text += fmt.Sprintf(" %d bytes, %x", len(data), crc(data))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			must(t, err)
			text += " -> " + to
		}
		names := make([]byte, 1<<16)
		n, err := unix.Llistxattr(path, names)
		must(t, err)
		for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
			if name == "" {
				continue
			}
			value := make([]byte, 1<<16)
			n, err := unix.Lgetxattr(path, name, value)
			must(t, err)
			text += fmt.Sprintf(" %s=%x", name, value[:n])
		}
		all[rel] = text
		return nil
	})
	must(t, err)
	return all
}

func crc(data []byte) (sum uint64) {
	for _, b := range data {
		sum = sum*1099511628211 + uint64(b) + 1
	}
	return sum
}

func same(t testing.TB, want, got map[string]string) {
	t.Helper()
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%.60q is\n%.300s, want\n%.300s", name, got[name], text)
		}
	}
	if len(want) != len(got) {
		t.Errorf("%d names, want %d", len(got), len(want))
	}
}

// TestWrite: the kernel shows of an image what was in the tree, and the format's own checker accepts it.
func TestWrite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	strange(t, dir)
	file := image(t, dir)
	if _, err := exec.LookPath("fsck.erofs"); err == nil {
		if out, err := exec.Command("fsck.erofs", file).CombinedOutput(); err != nil {
			t.Errorf("fsck.erofs: %v: %s", err, out)
		}
	}
	at := mounted(t, file)
	want, got := listing(t, dir), listing(t, at)
	same(t, want, got)
	i, err := erofs.Look(file)
	var st unix.Stat_t
	must(t, unix.Stat(file, &st))
	if err != nil || i.Inodes != int64(len(want))-1 || i.Size != st.Size || uint32(i.Mode) != 0o40755 {
		t.Errorf("%+v %v, want %d inodes", i, err, len(want)-1)
	}
	if st.Blocks*512 > 16<<20 {
		t.Errorf("holes take %d bytes", st.Blocks*512)
	}
	again, err := os.ReadFile(image(t, dir))
	must(t, err)
	if first, err := os.ReadFile(file); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the same tree gives another image: %v", err)
	}
}

// TestEmpty: a tree without anything is an image, too.
func TestEmpty(t *testing.T) {
	dir := t.TempDir()
	same(t, listing(t, dir), listing(t, mounted(t, image(t, dir))))
}

// TestDamaged: what is no image, was cut off or was changed is told.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/f", make([]byte, 10000), 0o644))
	whole, err := os.ReadFile(image(t, dir))
	must(t, err)
	file := filepath.Join(t.TempDir(), "image")
	for name, change := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"zero":      func(b []byte) []byte { return make([]byte, len(b)) },
		"cut off":   func(b []byte) []byte { return b[:len(b)-1] },
		"changed":   func(b []byte) []byte { b[1024+36]++; return b },
		"no root":   func(b []byte) []byte { clear(b[len(b)-4096:]); return b },
		"no blocks": func(b []byte) []byte { return b[:4096] },
	} {
		must(t, os.WriteFile(file, change(bytes.Clone(whole)), 0o600))
		if i, err := erofs.Look(file); !errdefs.IsDataLoss(err) {
			t.Errorf("%s: %+v %v", name, i, err)
		}
	}
}

// TestCancel: the end of the context ends the work.
func TestCancel(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/f", make([]byte, 10000), 0o644))
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	must(t, err)
	defer f.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := erofs.Write(ctx, f, dir, none); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
