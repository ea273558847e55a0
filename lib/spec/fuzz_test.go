// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func mknodZero(t *testing.T, p string) {
	t.Helper()
	must(t, unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
}

func FuzzEnvFile(f *testing.F) {
	for _, s := range []string{"", "A=1\nB\n#c\n", "\xef\xbb\xbfA=1\r\n", " A=x y\n", "=x", "a b=c", "\xff", "KNOWN\n", "A=\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		env, err := ParseEnvFile(bytes.NewReader(b), func(k string) (string, bool) { return "v", k == "KNOWN" })
		if err != nil {
			return
		}
		for _, e := range env {
			key, _, ok := strings.Cut(e, "=")
			if !ok || key == "" || strings.ContainsAny(key, " \t") || strings.ContainsAny(e, "\x00\n") {
				t.Errorf("%q became %q", b, e)
			}
		}
	})
}

// checked holds for everything that a mount parser lets through.
func checked(t *testing.T, text string, v Volume, err error) {
	t.Helper()
	if err != nil {
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", text, err)
		}
		return
	}
	m := v.Mount
	if !filepath.IsAbs(m.Destination) || filepath.Clean(m.Destination) != m.Destination || m.Destination == "/" {
		t.Errorf("%q: destination %q", text, m.Destination)
	}
	if m.Type == "bind" && (!filepath.IsAbs(m.Source) || filepath.Clean(m.Source) != m.Source || !slices.Contains(propagations, v.Propagation)) {
		t.Errorf("%q: %+v", text, v)
	}
	for _, s := range append([]string{m.Source, m.Destination}, m.Options...) {
		if strings.ContainsRune(s, 0) || s == "" {
			t.Errorf("%q: %+v", text, v)
		}
	}
	for _, o := range m.Options {
		// One option must stay one when the engine joins them.
		if strings.Contains(o, ",") {
			t.Errorf("%q: option %q", text, o)
		}
	}
}

func FuzzVolume(f *testing.F) {
	for _, s := range []string{"/a:/b", "/a:/b:ro,rshared,z", "a:/b", ":", "::", "/a:/:ro", "/a\x00:/b", "/a:/b:ro,ro", "/a:/../.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVolume(s)
		checked(t, s, v, err)
	})
}

func FuzzMount(f *testing.F) {
	for _, s := range []string{
		"type=bind,src=/a,dst=/b,ro,bind-propagation=rslave", "type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=1777",
		`type=bind,"src=/a,b",dst=/c`, "type=bind,source=/a,target=/b,readonly=false,bind-recursive=disabled", "ro", "\"", "type=tmpfs,dst=/x\ny",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseMount(s)
		checked(t, s, v, err)
	})
}

func FuzzTmpfs(f *testing.F) {
	for _, s := range []string{"/x", "/x:size=1m,mode=1777,exec", "/x:ro,uid=5,nr_inodes=1k,size=5%", "x", "/x:,,", "/x:size=1e3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseTmpfs(s)
		checked(t, s, v, err)
	})
}

func FuzzUlimit(f *testing.F) {
	for _, s := range []string{"nofile=1:2", "core=-1", "cpu=", "x=1", "nofile=-2", "nofile=9223372036854775808", "nproc=5:-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseUlimit(s)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if r.Soft > r.Hard || !strings.HasPrefix(r.Type, "RLIMIT_") {
			t.Errorf("%q: %+v", s, r)
		}
	})
}

func FuzzDevice(f *testing.F) {
	for _, s := range []string{"/dev/a", "/dev/a:/dev/b", "/dev/a:rw", "/dev/a:/b:m", "a", "/a:/b:rr"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDevice(s)
		if err == nil && (!filepath.IsAbs(d.Source) || !filepath.IsAbs(d.Destination) || !validAccess(d.Access)) {
			t.Errorf("%q: %+v", s, d)
		}
	})
}

func FuzzPasswd(f *testing.F) {
	f.Add("root", "root:x:0:0::/root:\n", "root:x:0:\n")
	f.Add("a:b", "a:x:5:6::/:\n", "b:x:7:a\n")
	f.Add("a", "a:x:4294967296:-1::/:\n", "b:x:99999999999:a\n")
	f.Fuzz(func(t *testing.T, who, passwd, group string) {
		u, home, err := User(who, nil, files(map[string]string{"/etc/passwd": passwd, "/etc/group": group}))
		if err == nil && (u.UID > 1<<31-1 || u.GID > 1<<31-1 || home == "" || len(u.AdditionalGids) == 0) {
			t.Errorf("%q: %+v, %q", who, u, home)
		}
	})
}

func FuzzAddHost(f *testing.F) {
	for _, s := range []string{"db:10.0.0.1", "six=[fe80::1]", "a:fe80::1%eth0", ":", "a b:1.1.1.1", "h:host-gateway", "a:[", "x:]["} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, addr, err := ParseAddHost(s)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if line := addr.String() + "\t" + name; len(strings.Fields(line)) != 2 || strings.ContainsAny(line, "#\n\x00") {
			t.Errorf("%q became %q", s, line)
		}
	})
}

// FuzzResolv: whatever the host's file says and the options are, each line of ours stands as it was given.
func FuzzResolv(f *testing.F) {
	f.Add("nameserver 1.1.1.1\nsearch a\noptions x\n", "10.0.0.1", "b.org", "ndots:2")
	f.Add("search\ta\n# c", "::1", ".", "a#b")
	f.Add("", "fe80::1%x\ny", "a b", ";")
	f.Fuzz(func(t *testing.T, host, server, search, option string) {
		e, err := parseEtc(Options{DNS: []string{server}, DNSSearch: []string{search}, DNSOptions: []string{option}})
		if err != nil {
			return
		}
		if host != "" && !strings.HasSuffix(host, "\n") {
			host += "\n"
		}
		var got []string
		for line := range strings.Lines(resolv(host, e)) {
			if key, _, _ := strings.Cut(strings.TrimSpace(line), " "); key == "nameserver" || key == "search" || key == "domain" || key == "options" {
				got = append(got, line)
			}
		}
		want := []string{"nameserver " + e.Servers[0] + "\n", "options " + option + "\n"}
		if search != "." {
			want = slices.Insert(want, 0, "search "+search+"\n")
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func FuzzUserNS(f *testing.F) {
	for _, s := range []string{"host", "auto", "auto:size=1000", "100000-165535", "1-2:3-4", "0-4294967295", "5-4", "-", ":", "auto:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, size, err := ParseUserNS(s)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if size > 0 && u.Private() || len(u.UIDs) != len(u.GIDs) {
			t.Errorf("%q: %+v, %d", s, u, size)
		}
		for _, m := range slices.Concat(u.UIDs, u.GIDs) {
			if m.Size == 0 || uint64(m.HostID)+uint64(m.Size) > 1<<32-1 {
				t.Errorf("%q: %+v", s, m)
			}
		}
	})
}

func FuzzIDMap(f *testing.F) {
	for _, s := range []string{"0:100000:65536", "1:1:0", "4294967295:0:1", "a:b:c", "::", "0:0:4294967295"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseIDMap("uidmap", s)
		if err == nil && (m.Size == 0 || uint64(m.HostID)+uint64(m.Size) > 1<<32-1 || uint64(m.ContainerID)+uint64(m.Size) > 1<<32-1) {
			t.Errorf("%q: %+v", s, m)
		}
	})
}

func FuzzBps(f *testing.F) {
	for _, s := range []string{"/dev/sda:1m", "/dev/a:b:1", "sda:1", "/dev/sda:", "/dev/sda:-1", "/x\x00:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseBps(s)
		if err == nil && (!filepath.IsAbs(d.Path) || d.Rate == 0 || strings.ContainsRune(d.Path, 0)) {
			t.Errorf("%q: %+v", s, d)
		}
	})
}

func FuzzCPUList(f *testing.F) {
	for _, s := range []string{"0-3,7", "", "3-1", "0,", "-", "0-8191", "0-65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		set, ok := parseList(s)
		if ok && (len(set) == 0) != (s == "") || len(set) > maxListed {
			t.Errorf("%q: %d", s, len(set))
		}
	})
}

func FuzzDeviceRule(f *testing.F) {
	for _, s := range []string{"c 1:3 mr", "b *:* rwm", "a 1:* r", "c 1:3", "c 1:3 x", "  c\t1:3 r "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseDeviceRule(s)
		if err == nil && (!r.Allow || !validAccess(r.Access) || r.Major != nil && *r.Major < 0 || r.Minor != nil && *r.Minor >= 1<<20) {
			t.Errorf("%q: %+v", s, r)
		}
	})
}
