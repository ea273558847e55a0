// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// layers makes a directory a map; the key is a path, the value says what it is: "dir", "opaque",
// "whiteout", "fifo", "-> target", or else the text of a regular file.
func layers(t *testing.T, top ...map[string]string) []string {
	t.Helper()
	var dirs []string
	for _, files := range top {
		dir := t.TempDir()
		dirs = append(dirs, dir)
		for name, what := range files {
			make1(t, filepath.Join(dir, name), what)
		}
	}
	return dirs
}

func make1(t *testing.T, p, what string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	target, link := strings.CutPrefix(what, "-> ")
	switch {
	case link:
		must(t, os.Symlink(target, p))
	case what == "dir":
		must(t, os.MkdirAll(p, 0o755))
	case what == "opaque":
		must(t, os.MkdirAll(p, 0o755))
		must(t, unix.Setxattr(p, "trusted.overlay.opaque", []byte("y"), 0))
	case what == "whiteout":
		must(t, unix.Mknod(p, unix.S_IFCHR, 0))
	case what == "fifo":
		must(t, unix.Mkfifo(p, 0o644))
	default:
		must(t, os.WriteFile(p, []byte(what), 0o644))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("whiteouts need root")
	}
}

func slurp(open Opener, name string) (string, error) {
	f, err := open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func TestLayers(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/secret", []byte("secret"), 0o644))
	l := LayerFS(layers(t,
		map[string]string{
			"etc/top": "top", "etc/both": "upper", "gone": "whiteout", "opq": "opaque", "opq/new": "new",
			"a/file": "dir", "filedir": "a file hides a directory", "dir-over-file/x": "x",
			"up": "-> ../../../../../../../../../../../../../../etc/top", "abs": "-> /etc/low",
			"etc/rel": "-> ../opq/./new", "outside": "-> " + outside + "/secret", "dirlink": "-> " + outside,
			"loop": "-> loop", "l1": "-> /l2/x", "l2": "-> /l1/x", "etclink": "-> etc", "dots": "-> etclink/../etc/both",
			"fifo": "fifo", "nothing": "-> /none", "hidden/by": "whiteout",
		},
		map[string]string{
			"etc/both": "lower", "etc/low": "low", "gone": "gone", "opq/old": "old", "opq/sub/f": "f",
			"a/file": "in the way", "filedir/y": "y", "dir-over-file": "file", "hidden/by": "hidden",
		},
		map[string]string{"dir-over-file/z": "z", "gone": "gone", "etc/deep": "deep"},
	))
	for name, want := range map[string]string{
		"/etc/top": "top", "etc/both": "upper", "/etc/low": "low", "/etc/deep": "deep", "/opq/new": "new",
		"/filedir": "a file hides a directory", "/dir-over-file/x": "x", "/up": "top", "/abs": "low",
		"/etc/rel": "new", "/../../etc/top": "top", "/etclink/low": "low", "/dots": "upper", "/etc/../etc/./top": "top",
	} {
		if got, err := slurp(l.Open, name); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]error{
		"/gone": fs.ErrNotExist, "/opq/old": fs.ErrNotExist, "/opq/sub/f": fs.ErrNotExist, "/none": fs.ErrNotExist,
		"/dir-over-file/z": fs.ErrNotExist, "/outside": fs.ErrNotExist, "/dirlink/secret": fs.ErrNotExist,
		"/nothing": fs.ErrNotExist, "/hidden/by": fs.ErrNotExist, "/filedir/y": unix.ENOTDIR, "/etc/top/x": unix.ENOTDIR,
		"/loop": unix.ELOOP, "/l1": unix.ELOOP, "/fifo": errdefs.ErrInvalidArgument, "/etc": errdefs.ErrInvalidArgument,
		"/": errdefs.ErrInvalidArgument, "": errdefs.ErrInvalidArgument, "/a/file": errdefs.ErrInvalidArgument,
		"/" + strings.Repeat("x", 300): unix.ENAMETOOLONG,
	} {
		if got, err := slurp(l.Open, name); !errors.Is(err, want) {
			t.Errorf("%s: %q, %v; want %v", name, got, err, want)
		}
	}
}

// A tree of links that doubles at each step ends.
func TestLayersLinkBomb(t *testing.T) {
	files := map[string]string{"d/x": "dir"}
	for i := range 60 {
		files[fmt.Sprintf("l%d", i)] = fmt.Sprintf("-> l%d/../l%d", i+1, i+1)
	}
	_, err := LayerFS(layers(t, files)).Open("/l0")
	if !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
}

func TestLayersKernelOnly(t *testing.T) {
	needRoot(t)
	dirs := layers(t, map[string]string{"moved/f": "f", "meta": "zeros"})
	must(t, unix.Setxattr(dirs[0]+"/moved", "trusted.overlay.redirect", []byte("/old"), 0))
	must(t, unix.Setxattr(dirs[0]+"/meta", "trusted.overlay.metacopy", []byte{}, 0))
	for _, name := range []string{"/moved/f", "/meta"} {
		if _, err := LayerFS(dirs).Open(name); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The kernel is the judge: random layers, each path asked of both.
func TestLayersAgainstOverlay(t *testing.T) {
	needRoot(t)
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { againstOverlay(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func againstOverlay(t *testing.T, r *rand.Rand) {
	names := []string{"a", "b", "c"}
	random := func() string {
		p := ""
		for range 1 + r.IntN(3) {
			p += "/" + names[r.IntN(len(names))]
		}
		return p
	}
	var dirs []string
	for range 2 + r.IntN(4) {
		dir := t.TempDir()
		dirs = append(dirs, dir)
		for i := range 8 {
			p := filepath.Join(dir, random())
			if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
				continue
			}
			if _, err := os.Lstat(p); err == nil {
				continue
			}
			kinds := []string{"dir", "opaque", "whiteout", "-> " + random(), "-> .." + random(), fmt.Sprintf("%s %d", dir, i), fmt.Sprintf("%s %d", dir, -i)}
			// A whiteout in the lowest layer is shown as a device by no kernel, and hides nothing.
			make1(t, p, kinds[r.IntN(len(kinds))])
		}
	}
	view := t.TempDir()
	if err := unix.Mount("overlay", view, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(dirs, ":")); err != nil {
		t.Fatal(err)
	}
	defer func() { must(t, unix.Unmount(view, 0)) }()
	l := LayerFS(dirs)
	for range 200 {
		p := random()
		got, err := slurp(l.Open, p)
		want, werr := readIn(view, p)
		if got != want || (err == nil) != (werr == nil) {
			t.Errorf("%s: %q, %v; overlayfs: %q, %v", p, got, err, want, werr)
		}
	}
}

// readIn reads a file as a process would whose root is dir.
func readIn(dir, name string) (string, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(root)
	fd, err := -1, error(unix.EAGAIN)
	for err == unix.EAGAIN { // while others rename or mount, anywhere, ".." cannot be vouched for
		fd, err = unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT})
	}
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", errors.Join(err, errors.New("not regular"))
	}
	b, err := io.ReadAll(f)
	return string(b), err
}

// Whoever swaps a directory for a link to the host's while files are read must gain nothing.
func TestLayersRace(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/passwd", []byte("secret"), 0o644))
	dir := layers(t, map[string]string{"real/passwd": "image", "x": "dir"})[0]
	must(t, os.Symlink(outside, dir+"/evil"))
	must(t, os.Rename(dir+"/real", dir+"/etc"))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir+"/etc", unix.AT_FDCWD, dir+"/evil", unix.RENAME_EXCHANGE)
			}
		}
	}()
	l, seen := LayerFS([]string{dir}), 0
	for range 3000 {
		got, err := slurp(l.Open, "/x/../etc/passwd")
		if got == "secret" {
			t.Error("read a file outside the layer")
			break
		}
		if err == nil {
			seen++
		}
	}
	close(stop)
	<-done
	if seen == 0 {
		t.Error("the race never let the right file through")
	}
}
