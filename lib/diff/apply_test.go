// SPDX-License-Identifier: Apache-2.0

package diff_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
)

// dirs makes empty directories side by side.
func dirs(t testing.TB, names ...string) (all []string) {
	t.Helper()
	base := t.TempDir()
	for _, n := range names {
		all = append(all, filepath.Join(base, n))
		must(t, os.Mkdir(all[len(all)-1], 0o755))
	}
	return all
}

func bind(dir string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rw", "rbind"}}}
}

func overlaid(upper, work string, lower ...string) []mount.Mount {
	o := []string{"upperdir=" + upper, "workdir=" + work}
	for i := range lower {
		o = append(o, "lowerdir+="+lower[i])
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: o}}
}

var stamp = regexp.MustCompile(` (\d+)\.\d{9}`)

// shown is a picture without what a layer leaves open: the root, and the times of directories that it implies.
func shown(t testing.TB, root string) map[string]string {
	t.Helper()
	all := picture(t, root, false)
	delete(all, "/")
	for name, text := range all {
		all[name] = stamp.ReplaceAllStringFunc(text, func(s string) string {
			sec, err := strconv.ParseInt(stamp.FindStringSubmatch(s)[1], 10, 64)
			if err == nil && time.Since(time.Unix(sec, 0)).Abs() < time.Hour {
				return " now"
			}
			return s
		})
	}
	return all
}

// applied puts random layers onto every form of mounts: each shows what an overlay of the unpacked layers shows, and
// what is compared and applied again gives the same.
func applied(t *testing.T, seeds ...[]byte) {
	needRoot(t)
	var stack diff.Tree
	var tars [][]byte
	for _, seed := range seeds {
		data := program(seed)
		dir, err := unpack(t, data, stack...)
		if err != nil {
			return // no layer
		}
		stack, tars = append(diff.Tree{dir}, stack...), append(tars, data)
	}
	put := func(data []byte, m []mount.Mount) {
		t.Helper()
		res, err := diff.Apply(t.Context(), bytes.NewReader(data), layer.Options{}, m)
		must(t, err)
		if digest.FromBytes(data) != res.DiffID || res.Bytes != int64(len(data)) {
			t.Errorf("%+v of %d bytes", res, len(data))
		}
	}
	at, _ := overlay(t, stack, "")
	want := shown(t, at)
	forms := dirs(t, "whole", "upper", "work", "again")
	for i, data := range tars {
		put(data, bind(forms[0]))
		if i > 0 {
			put(data, overlaid(forms[1], forms[2], stack[len(stack)-1]))
		}
	}
	same := func(name, dir string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { equal(t, shown(t, dir), want) })
	}
	same("whole", forms[0])
	onto, _ := overlay(t, diff.Tree{forms[1], stack[len(stack)-1]}, "")
	same("upper", onto)
	var b bytes.Buffer
	_, err := diff.Compare(t.Context(), &b, nil, bind(forms[0]), diff.Options{})
	must(t, err)
	put(b.Bytes(), bind(forms[3]))
	same("again", forms[3])
	for _, form := range forms {
		left, err := filepath.Glob(filepath.Join(filepath.Dir(form), ".layer-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left: %v %v", left, err)
		}
	}
}

func TestApply(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 5))
	for i := range 25 {
		t.Run(fmt.Sprint(i), func(t *testing.T) { applied(t, random(r, 200), random(r, 100+i), random(r, 60)) })
	}
}

func FuzzApply(f *testing.F) {
	inMemory(f)
	r := rand.New(rand.NewPCG(4, 4))
	for range 5 {
		f.Add(random(r, maxProgram), random(r, 100), random(r, 100))
	}
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		for _, layer := range []*[]byte{&a, &b, &c} {
			*layer = (*layer)[:min(len(*layer), maxProgram)]
		}
		applied(t, a, b, c)
	})
}

// TestApplyRebased: onto an upper directory alone a layer goes as it is, whiteouts in overlay form.
func TestApplyRebased(t *testing.T) {
	needRoot(t)
	d := dirs(t, "upper")
	data := program(random(rand.New(rand.NewPCG(1, 2)), 400))
	one, err := unpack(t, data)
	must(t, err)
	_, err = diff.Apply(t.Context(), bytes.NewReader(data), layer.Options{}, []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"rw", "upperdir=" + d[0]}}})
	must(t, err)
	equal(t, shown(t, d[0]), shown(t, one))
}

// TestApplyRebasedWhiteouts: the layers below an upper directory that has none yet may have all that the layer removes.
func TestApplyRebasedWhiteouts(t *testing.T) {
	needRoot(t)
	d := dirs(t, "upper")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{".wh.file", "listed/", "listed/.wh.file", "implied/.wh.dir"} {
		h := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		must(t, w.WriteHeader(h))
	}
	must(t, w.Close())
	_, err := diff.Apply(t.Context(), &b, layer.Options{}, []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"rw", "upperdir=" + d[0]}}})
	must(t, err)
	for _, name := range []string{"file", "listed/file", "implied/dir"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(d[0], name), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("%s is not hidden: %v, mode %o", name, err, st.Mode)
		}
	}
}

// TestApplyMounted: what is neither a bind mount nor an overlay is mounted.
func TestApplyMounted(t *testing.T) {
	needRoot(t)
	d := dirs(t, "whole", "at")
	r := rand.New(rand.NewPCG(1, 2))
	var tars [][]byte
	for range 2 {
		tars = append(tars, program(random(r, 300)))
		_, err := diff.Apply(t.Context(), bytes.NewReader(tars[len(tars)-1]), layer.Options{}, bind(d[0]))
		must(t, err)
	}
	must(t, unix.Mount("tmpfs", d[1], "tmpfs", 0, ""))
	defer unix.Unmount(d[1], unix.MNT_DETACH)
	m := []mount.Mount{{Type: "none", Source: d[1], Options: []string{"bind"}}}
	for _, data := range tars {
		_, err := diff.Apply(t.Context(), bytes.NewReader(data), layer.Options{}, m)
		must(t, err)
	}
	equal(t, shown(t, d[1]), shown(t, d[0]))
}

// What is mounted for an apply or a comparison is seen nowhere, and a kill leaves nothing of it.
func TestMountedKilled(t *testing.T) {
	needRoot(t)
	if at := os.Getenv("DIFF_TEST_AT"); at != "" {
		m := []mount.Mount{{Type: "none", Source: at, Options: []string{"bind"}}}
		if _, err := diff.Apply(t.Context(), os.Stdin, layer.Options{}, m); err != nil {
			t.Fatal(err)
		}
		return
	}
	table := func() string {
		text, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		return string(text)
	}
	at := dirs(t, "at")[0]
	before := table()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	must(t, w.WriteHeader(&tar.Header{Name: "a/one", Typeflag: tar.TypeReg, Mode: 0o644}))
	must(t, w.WriteHeader(&tar.Header{Name: "rest", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4 << 20})) // what is read ahead is there
	_, err := w.Write(make([]byte, 4<<20))
	must(t, err)
	tmp := t.TempDir()
	for _, kill := range []bool{true, false} {
		c := exec.Command("/proc/self/exe", "-test.run=^TestMountedKilled$")
		c.Env = append(os.Environ(), "DIFF_TEST_AT="+at, "TMPDIR="+tmp)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		in, err := c.StdinPipe()
		must(t, err)
		must(t, c.Start())
		_, err = in.Write(data.Bytes())
		must(t, err)
		for staged := false; !staged; time.Sleep(time.Millisecond) { // what has arrived is unpacked
			all, err := filepath.Glob(at + "/.layer-*/a/one")
			must(t, err)
			staged = len(all) > 0
		}
		if during := table(); during != before {
			t.Errorf("seen: %s", during)
		}
		if kill {
			must(t, c.Process.Kill())
			c.Wait()
		} else {
			_, err = in.Write(make([]byte, 1024))
			must(t, errors.Join(err, in.Close(), c.Wait()))
		}
		if after := table(); after != before {
			t.Errorf("left: %s", after)
		}
		left, err := os.ReadDir(tmp)
		must(t, err)
		if len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if all, _ := filepath.Glob(at + "/.layer-*"); kill {
			must(t, os.RemoveAll(all[0]))
		} else if len(all) > 0 {
			t.Errorf("left: %v", all)
		}
	}
	if _, err := os.Stat(at + "/a/one"); err != nil {
		t.Error(err)
	}
}

func TestApplyRefused(t *testing.T) {
	d := dirs(t, "a")
	for _, m := range [][]mount.Mount{
		nil,
		{{Type: "bind", Source: d[0], Options: []string{"ro"}}},
		{{Type: "overlay", Options: []string{"lowerdir=" + d[0] + ":" + d[0]}}},
	} {
		if _, err := diff.Apply(t.Context(), bytes.NewReader(nil), layer.Options{}, m); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if _, err := diff.Apply(t.Context(), bytes.NewReader([]byte("no tar")), layer.Options{}, bind(d[0])); err == nil {
		t.Error("no tar is a layer")
	}
	if left, err := os.ReadDir(filepath.Dir(d[0])); err != nil || len(left) != 1 {
		t.Errorf("left: %v %v", left, err)
	}
}

// TestCopy: a copy of a tree is the same, on a file system that shares data and on one that does not.
func TestCopy(t *testing.T) {
	needRoot(t)
	r := rand.New(rand.NewPCG(9, 9))
	for i := range 20 {
		one, err := unpack(t, program(random(r, 300)))
		if err != nil {
			continue
		}
		disturb(t, r, one)
		sparse, err := os.Create(one + "/sparse")
		must(t, err)
		must(t, sparse.Truncate(8<<20))
		_, err = sparse.WriteAt([]byte("in the middle"), 4<<20)
		must(t, err)
		must(t, sparse.Close())
		two := dirs(t, "copy")[0]
		must(t, layer.Copy(t.Context(), one, two))
		want := picture(t, one, true)
		for name, text := range want {
			want[name] = strings.ReplaceAll(text, ` trusted.overlay.opaque="y"`, "") // of a layer alone
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) { equal(t, picture(t, two, true), want) })
		var st unix.Stat_t
		must(t, unix.Stat(two+"/sparse", &st))
		if st.Blocks > 256 {
			t.Errorf("the holes of the copy have %d blocks", st.Blocks)
		}
	}
}
