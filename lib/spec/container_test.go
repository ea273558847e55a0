// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func TestOver(t *testing.T) {
	dir := t.TempDir()
	own := write(t, dir+"/passwd", "own")
	write(t, dir+"/etc/passwd", "dir")
	must(t, os.Symlink("passwd", dir+"/etc/group"))
	must(t, os.Symlink("/etc/shadow", dir+"/etc/shadow"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o666))
	bind := func(src, dst string) specs.Mount { return specs.Mount{Type: "bind", Source: src, Destination: dst} }
	image := files(map[string]string{"/etc/passwd": "image", "/etc/group": "image"})
	for _, c := range []struct {
		name   string
		mounts []specs.Mount
		path   string
		want   string
		err    error
	}{
		{"none", nil, "/etc/passwd", "image", nil},
		{"file", []specs.Mount{bind(own, "/etc/passwd")}, "/etc/passwd", "own", nil},
		{"other file", []specs.Mount{bind(own, "/etc/passwd")}, "/etc/group", "image", nil},
		{"directory above", []specs.Mount{bind(dir+"/etc", "/etc")}, "/etc/passwd", "dir", nil},
		{"link inside", []specs.Mount{bind(dir+"/etc", "/etc")}, "/etc/group", "dir", nil},
		{"link outside", []specs.Mount{bind(dir+"/etc", "/etc")}, "/etc/shadow", "", errors.New("any")},
		{"the last wins", []specs.Mount{bind(dir+"/etc", "/etc"), bind(own, "/etc/passwd")}, "/etc/passwd", "own", nil},
		{"tmpfs", []specs.Mount{{Type: "tmpfs", Destination: "/etc"}}, "/etc/passwd", "", fs.ErrNotExist},
		{"beside", []specs.Mount{bind(dir+"/etc", "/et")}, "/etc/passwd", "image", nil},
		{"fifo", []specs.Mount{bind(dir+"/fifo", "/etc/passwd")}, "/etc/passwd", "", errdefs.ErrInvalidArgument},
		{"directory", []specs.Mount{bind(dir, "/etc/passwd")}, "/etc/passwd", "", errdefs.ErrInvalidArgument},
		{"gone", []specs.Mount{bind(dir+"/none", "/etc/passwd")}, "/etc/passwd", "", fs.ErrNotExist},
	} {
		f, err := over(c.mounts, image)(c.path)
		if c.err != nil {
			if err == nil || c.err.Error() != "any" && !errors.Is(err, c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		must(t, err)
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(b) != c.want {
			t.Errorf("%s: %q, %v", c.name, b, err)
		}
	}
}

// TestNumericUser: a number needs no file; a name does.
func TestNumericUser(t *testing.T) {
	broken := func(string) (io.ReadCloser, error) { return nil, notRegular("a FIFO") }
	for _, who := range []string{"", "1000", "1000:1000"} {
		u, home, err := User(who, []string{"7"}, broken)
		if err != nil || home != "/" || who != "" && u.UID != 1000 || !slices.Contains(u.AdditionalGids, 7) {
			t.Errorf("%q: %+v, %q, %v", who, u, home, err)
		}
	}
	for _, who := range []string{"root", "1000:root", "root:0"} {
		if _, _, err := User(who, nil, broken); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", who, err)
		}
	}
	if _, _, err := User("1000", []string{"adm"}, broken); err == nil {
		t.Error("a group was found without a file")
	}
}

// TestImageBlamed: no option is blamed for what the image says.
func TestImageBlamed(t *testing.T) {
	for _, c := range []struct {
		img  ocispec.ImageConfig
		want string
	}{
		{ocispec.ImageConfig{Cmd: []string{"sh"}, WorkingDir: "app"}, `the image's WorkingDir "app": want an absolute path`},
		{ocispec.ImageConfig{Cmd: []string{"sh"}, User: "nobody"}, `the image's User "nobody": `},
	} {
		_, err := Generate(t.Context(), c.img, Options{Open: etc})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%v", err)
		}
		r, err := Generate(t.Context(), c.img, Options{Open: etc, Workdir: "/app", User: "redis"})
		if err != nil || r.Spec.Process.Cwd != "/app" {
			t.Errorf("%v", err)
		}
	}
}

// TestUmask: the caller's umask has no part in what is made for a container.
func TestUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	r, err := Generate(t.Context(), ocispec.ImageConfig{Cmd: []string{"sh"}}, Options{ID: "a", Init: true, DNS: []string{"1.1.1.1"}})
	must(t, err)
	if m := r.Spec.Process.User.Umask; m == nil || *m != 0o022 {
		t.Errorf("umask %v", m)
	}
	p, err := Exec(t.Context(), r.Spec, ExecOptions{Args: []string{"sh"}, User: "5"})
	must(t, err)
	if m := p.User.Umask; m == nil || *m != 0o022 {
		t.Errorf("exec: umask %v", m)
	}
	dir := t.TempDir()
	must(t, WriteFiles(dir, r.Spec, r.Etc, "/usr/bin/ctr-shim"))
	must(t, MakeDirs([]string{dir + "/a/b/c", dir + "/a/b/c", dir}))
	for name, want := range map[string]fs.FileMode{"hosts": 0o644, "hostname": 0o644, "resolv.conf": 0o644, "a": fs.ModeDir | 0o755, "a/b/c": fs.ModeDir | 0o755} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "init")); err != nil || to != "/usr/bin/ctr-shim" {
		t.Errorf("init: %q, %v", to, err)
	}
	write(t, dir+"/file", "")
	if err := MakeDirs([]string{dir + "/file/x"}); err == nil {
		t.Error("a directory was made below a file")
	}
}

func TestJoin(t *testing.T) {
	r, err := Generate(t.Context(), ocispec.ImageConfig{Cmd: []string{"sh"}}, Options{ID: "a", Net: "container:web", UTS: "container:web", PID: "host"})
	must(t, err)
	if len(r.Join) != 2 || r.Join["net"] != "web" || r.Join["uts"] != "web" || r.Spec.Hostname != "" || r.Spec.Linux.Sysctl != nil {
		t.Errorf("%v, %q, %v", r.Join, r.Spec.Hostname, r.Spec.Linux.Sysctl)
	}
	must(t, Join(r.Spec, "net", "/proc/5/ns/net"))
	for _, n := range r.Spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace && n.Path != "/proc/5/ns/net" || n.Type == specs.UTSNamespace && n.Path != "" {
			t.Errorf("%+v", n)
		}
	}
	for _, kind := range []string{"pid", "mnt", ""} {
		if err := Join(r.Spec, kind, "/x"); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", kind, err)
		}
	}
	if err := Join(&specs.Spec{}, "net", "/x"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
}

func TestUserNamespace(t *testing.T) {
	u, _, err := ParseUserNS("100000-165535")
	must(t, err)
	r, err := Generate(t.Context(), ocispec.ImageConfig{Cmd: []string{"sh"}}, Options{ID: "a", UserNS: u, Volumes: []string{"/tmp:/x:ro,idmap"}})
	must(t, err)
	accepted(t, r.Spec)
	l := r.Spec.Linux
	if want := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}; !slices.Equal(l.UIDMappings, want) || !slices.Equal(l.GIDMappings, want) {
		t.Errorf("%v, %v", l.UIDMappings, l.GIDMappings)
	}
	if !slices.Contains(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}) {
		t.Errorf("%v", l.Namespaces)
	}
	if m := r.Spec.Mounts[len(r.Spec.Mounts)-1]; !slices.Contains(m.Options, "ridmap") {
		t.Errorf("%v", m)
	}
}

func TestFreeIDs(t *testing.T) {
	pool := specs.LinuxIDMapping{HostID: 1000, Size: 105}
	var used []specs.LinuxIDMapping
	for range 10 {
		first, ok := FreeIDs(pool, used, 10)
		if !ok || first < 1000 || first+10 > 1105 || Overlap(used, first, 10) {
			t.Fatalf("%v: %d, %v", used, first, ok)
		}
		used = append(used, specs.LinuxIDMapping{HostID: first, Size: 10})
	}
	if first, ok := FreeIDs(pool, used, 10); ok {
		t.Errorf("%d of a full pool", first)
	}
	if _, ok := FreeIDs(pool, nil, 106); ok {
		t.Error("more than the pool has")
	}
	if _, ok := FreeIDs(pool, []specs.LinuxIDMapping{{HostID: 0, Size: 4294967295}}, 1); ok {
		t.Error("all are used")
	}
}
