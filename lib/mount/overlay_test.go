// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// strange is a directory name with all that overlayfs, /proc/self/mountinfo and fstab give a meaning.
const strange = "with:colon,comma=\\back \\\\ space\ttab\nline"

// layersIn makes n lower directories with a file each, the top first.
func layersIn(t *testing.T, base string, n int) []string {
	t.Helper()
	lower := make([]string, n)
	for i := range lower {
		lower[i] = fmt.Sprintf("%s/%016x/fs", base, i)
		put(t, fmt.Sprintf("%s/f%d", lower[i], i))
		if err := os.WriteFile(lower[i]+"/which", fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return lower
}

// overlayOn gives the options that containerd's snapshotter gives.
func overlayOn(upper, work string, lower []string) []string {
	escaped := make([]string, len(lower))
	for i, dir := range lower {
		escaped[i] = Escape(dir)
	}
	return []string{"index=off", "workdir=" + Escape(work), "upperdir=" + Escape(upper), "lowerdir=" + strings.Join(escaped, ":")}
}

// times is how often TestManyLayers mounts each number of layers.
var times = map[string]int{"plain": 10, "strange": 1, "long": 1}

// TestManyLayers: any number of layers up to the kernel's limit, whatever they are called, in a process that is
// busy elsewhere.
func TestManyLayers(t *testing.T) {
	for what, name := range map[string]string{"plain": "plain", "strange": strange, "long": strings.Repeat(strings.Repeat("long-", 20)+"/", 20)} {
		t.Run(what, func(t *testing.T) {
			d := tmp(t)
			base, to := d+"/"+name, mk(t, d+"/to")
			all := layersIn(t, base, MaxLayers)
			wd, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{1, 61, 73, 76, 81, 91, 121, 141, 198, 300, MaxLayers} {
				up, work := mk(t, fmt.Sprint(base, "/up", n)), mk(t, fmt.Sprint(base, "/work", n))
				for range times[what] {
					if err := All([]Mount{{Type: "overlay", Source: up, Options: overlayOn(up, work, all[:n])}}, to); err != nil {
						t.Fatalf("%d layers: %v", n, err)
					}
					looksRight(t, to, up, n)
				}
			}
			for range 4 * runtime.GOMAXPROCS(0) {
				if link, err := os.Readlink("/proc/thread-self/cwd"); err != nil || link != wd {
					t.Errorf("a thread's working directory is %s, %v", link, err)
				}
			}
		})
	}
}

// looksRight looks at an overlay of n layers, and unmounts it.
func looksRight(t *testing.T, to, up string, n int) {
	t.Helper()
	if b, _ := os.ReadFile(to + "/which"); string(b) != "0" {
		t.Errorf("%d layers: the first is not the top: %s", n, b)
	}
	if !exists(to+"/f0") || !exists(fmt.Sprint(to, "/f", n-1)) || exists(fmt.Sprint(to, "/f", n)) {
		t.Errorf("%d layers: not all are there", n)
	}
	put(t, to+"/written")
	if !exists(up + "/written") {
		t.Errorf("%d layers: not written to the upper directory", n)
	}
	if at, err := At(up); err != nil || !slices.Equal(at, []string{to}) {
		t.Errorf("%d layers: At gives %q, %v", n, at, err)
	}
	if err := os.Remove(to + "/written"); err != nil {
		t.Error(err)
	}
	if err := Unmount(to, 0); err != nil {
		t.Fatal(err)
	}
}

// TestWays: each way by itself mounts the same.
func TestWays(t *testing.T) {
	for name, mount := range map[string]way{"descriptor": byDescriptor, "name": byName, "number": byNumber} {
		t.Run(name, func(t *testing.T) {
			d := tmp(t)
			was := ways
			ways = []way{mount}
			defer func() { ways = was }()
			for what, dir := range map[string]string{"plain": "plain", "strange": strange} {
				base, to := d+"/"+dir, mk(t, d+"/to")
				all := layersIn(t, base, MaxLayers)
				for _, n := range []int{1, 2, 76, 205, MaxLayers} {
					up, work := mk(t, fmt.Sprint(base, "/up", n)), mk(t, fmt.Sprint(base, "/work", n))
					at, err := openTarget(to, "")
					if err != nil {
						t.Fatal(err)
					}
					err = stacked("overlay", at, unix.MS_NODEV|unix.MS_NOATIME, append(overlayOn(up, work, all[:n]), "volatile", "userxattr,metacopy=off"))
					at.Close()
					if errors.Is(err, unix.EINVAL) && name != "number" && n == 1 && what == "plain" {
						t.Skipf("this kernel's overlayfs takes no layer by %s: %v", name, err)
					}
					if err != nil {
						t.Fatalf("%s, %d layers: %v", what, n, err)
					}
					var st unix.Statfs_t
					if err := unix.Statfs(to, &st); err != nil || st.Flags&unix.ST_NODEV == 0 || st.Flags&unix.ST_NOATIME == 0 || st.Flags&unix.ST_NOSUID != 0 {
						t.Errorf("flags %x, %v", st.Flags, err)
					}
					for _, o := range []string{"volatile", "userxattr"} {
						// Later kernels tell volatile as fsync=volatile.
						if got := superOf(t, to); !slices.Contains(got, o) && !slices.Contains(got, "fsync="+o) {
							t.Errorf("option %s has no effect", o)
						}
					}
					looksRight(t, to, up, n)
					if err := os.RemoveAll(work + "/work"); err != nil { // a volatile one is not used again
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// superOf gives the options of the file system at a mount point.
func superOf(t *testing.T, at string) (options []string) {
	t.Helper()
	all, err := table()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.point == at {
			options = e.options
		}
	}
	return options
}

// Where the file system of the upper directory is full the kernel would mount an overlay read-only, and it would stay so.
func TestFull(t *testing.T) {
	d := tmp(t)
	full, to := mk(t, d+"/full"), mk(t, d+"/to")
	put(t, d+"/lower/file")
	if err := unix.Mount("tmpfs", full, "tmpfs", 0, "nr_inodes=10"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(full, unix.MNT_DETACH) })
	m := []Mount{{Type: "overlay", Source: "overlay", Options: overlayOn(mk(t, full+"/upper"), mk(t, full+"/work"), []string{d + "/lower"})}}
	var made []string
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s/%d", full, i)
		if err := os.Mkdir(name, 0o700); err != nil {
			break
		}
		made = append(made, name)
	}
	if err := All(m, to); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("on a full file system: %v; want %v", err, unix.ENOSPC)
	}
	if options := superOf(t, to); options != nil {
		t.Errorf("there is a mount with %q", options)
	}
	for _, name := range made {
		os.Remove(name)
	}
	if err := All(m, to); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(to, unix.MNT_DETACH)
	put(t, to+"/more")
}

// TestManyLayersReadOnly: without an upper directory, and in containerd's option lists of any shape.
func TestManyLayersReadOnly(t *testing.T) {
	d := tmp(t)
	to := mk(t, d+"/to")
	lower := layersIn(t, d+"/l", 120)
	options := []string{"ro,nosuid"}
	for _, dir := range lower {
		options = append(options, "lowerdir+="+dir)
	}
	for what, options := range map[string][]string{
		"one by one": options[1:],
		"in a list":  {"lowerdir=" + strings.Join(lower, ":"), "index=off"},
	} {
		mountAll(t, to, Mount{Type: "overlay", Source: "overlay", Options: append([]string{"ro"}, options...)})
		if err := os.WriteFile(to+"/no", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
		if !exists(to+"/f0") || !exists(to+"/f119") {
			t.Errorf("%s: layers are missing", what)
		}
		if in, err := From(to, d+"/l"); err != nil || !in {
			t.Errorf("%s: From says %v, %v", what, in, err)
		}
	}
}

func TestTooManyLayers(t *testing.T) {
	d := tmp(t)
	all := layersIn(t, d+"/a rather long name for a directory of layers", MaxLayers+1)
	to := mk(t, d+"/to")
	err := All([]Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(all, ":")}}}, to)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "501") || !strings.Contains(err.Error(), "500") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Dir(all[300]) + "/fs/which"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(all[300]); err != nil {
		t.Fatal(err)
	}
	err = All([]Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(all[:MaxLayers], ":")}}}, to)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), all[300]) {
		t.Errorf("a missing layer: %v", err)
	}
	err = All([]Mount{{Type: "overlay", Source: "overlay", Options: []string{"nosuch=1", "lowerdir=" + strings.Join(all[:200], ":")}}}, to)
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("an unknown option: %v", err)
	}
	is(t, to, false)
}

func TestParseStack(t *testing.T) {
	s, err := parseStack([]string{`upperdir=/u\,1,workdir=/w\:2`, `lowerdir=/a\:b:/c\\d::/data1::/data2`, "index=off", "userxattr,xino=off", ""})
	if err != nil {
		t.Fatal(err)
	}
	want := []layer{
		{"lowerdir+", "/a:b", nil}, {"lowerdir+", `/c\d`, nil}, {"datadir+", "/data1", nil}, {"datadir+", "/data2", nil},
		{"upperdir", "/u,1", nil}, {"workdir", "/w:2", nil},
	}
	if !slices.Equal(s.layers, want) || s.lower != 4 || !slices.Equal(s.rest, []string{"index=off", "userxattr", "xino=off"}) {
		t.Errorf("%+v", s)
	}
}

func FuzzParseStack(f *testing.F) {
	f.Add("lowerdir=/a/b/fs:/a/c/fs,upperdir=/u,workdir=/w,index=off")
	f.Add(`lowerdir=/a\:x/b::/a\:x/c,volatile`)
	f.Add(`lowerdir+=/a,lowerdir+=/b\`)
	f.Add(`lowerdir=a\,b,upperdir=\\,,`)
	f.Fuzz(func(t *testing.T, list string) {
		s, err := parseStack([]string{list})
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
			return
		}
		if s.lower > MaxLayers || s.lower > len(s.layers) {
			t.Fatalf("%d of %d layers", s.lower, len(s.layers))
		}
		var again []string
		for _, l := range s.layers {
			switch l.key {
			case "upperdir", "workdir":
				again = append(again, l.key+"="+Escape(l.path))
			case "lowerdir+", "datadir+":
				if strings.ContainsAny(l.path, `,\`) {
					return // these keys have no escapes: such a path comes from lowerdir alone
				}
				again = append(again, l.key+"="+l.path)
			default:
				t.Fatalf("key %q", l.key)
			}
		}
		twice, err := parseStack(append(again, s.rest...))
		if err != nil || !slices.Equal(twice.layers, s.layers) || !slices.Equal(twice.rest, s.rest) {
			t.Errorf("%+v, again %+v, %v", s, twice, err)
		}
	})
}

// Where the kernel's defaults are others, an upper directory still has whole directories and files.
func TestPlain(t *testing.T) {
	d := tmp(t)
	lower, upper, work, at := mk(t, d+"/lower"), mk(t, d+"/upper"), mk(t, d+"/work"), mk(t, d+"/at")
	put(t, lower+"/dir/file")
	put(t, lower+"/large")
	old := parameters
	defer func() { parameters = old }()
	parameters = mk(t, d+"/parameters")
	for name, want := range map[string][]string{
		"N": {"index=off"},
		"Y": {"index=off", "redirect_dir=off", "metacopy=off"},
	} {
		for _, p := range []string{"redirect_dir", "metacopy"} {
			if err := os.WriteFile(filepath.Join(parameters, p), []byte(name+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := Plain(); !slices.Equal(got, want) {
			t.Errorf("default %s: %q", name, got)
		}
	}
	parameters = d + "/none"
	plain := Plain() // of a module that is not loaded nothing is known
	dirs := []string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work}
	for _, c := range []struct {
		options []string
		rename  error
	}{{[]string{"redirect_dir=on", "metacopy=on"}, nil}, {plain, unix.EXDEV}} {
		mountAll(t, at, Mount{Type: "overlay", Source: "overlay", Options: append(slices.Clone(dirs), c.options...)})
		if err := os.Rename(at+"/dir", at+"/moved"); !errors.Is(err, c.rename) {
			t.Errorf("%q: rename of a directory: %v", c.options, err)
		}
		if err := os.Chown(at+"/large", 1, 1); err != nil {
			t.Error(err)
		}
		n, err := unix.Lgetxattr(upper+"/large", "trusted.overlay.metacopy", nil)
		if meta := err == nil && n >= 0; meta != (c.rename == nil) {
			t.Errorf("%q: a file that was given away has data: %v, %v", c.options, !meta, err)
		}
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{upper, work} {
			if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
