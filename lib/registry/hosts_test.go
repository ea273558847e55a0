// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// summary is a host in a line.
func summary(h hostConfig) string {
	s := fmt.Sprintf("%s://%s%s %s", h.scheme, h.host, h.path, h.caps)
	for _, f := range h.caFiles {
		s += " ca=" + f
	}
	for _, p := range h.clientPairs {
		s += " client=" + p.cert + "," + p.key
	}
	if h.skipVerify {
		s += " skip"
	}
	for _, k := range slices.Sorted(maps.Keys(h.header)) {
		s += " " + k + "=" + strings.Join(h.header[k], ",")
	}
	if h.dialTimeout > 0 {
		s += " dial=" + h.dialTimeout.String()
	}
	return s
}

func TestParseHosts(t *testing.T) {
	const all = " pull,resolve,push,referrers"
	for _, c := range []struct {
		name, text string
		want       []string
		odd        string
	}{
		{"nothing", "\n", []string{"://" + all}, ""},
		{"server", `server = "https://registry-1.docker.io"`, []string{"https://registry-1.docker.io/v2" + all}, ""},
		{"server without scheme", `server = "r.example:5000/p/"`, []string{"https://r.example:5000/p/v2" + all}, ""},
		{"order of the file", `
server = "https://up.example"
[host."https://z.example"]
  capabilities = ["pull"]
[host."https://z.example".header]
  x-custom = "1"
[host."http://a.example:80"]
  capabilities = ["Pull", "resolve"]
[host."m.example"]
`, []string{"https://z.example/v2 pull X-Custom=1", "http://a.example:80/v2 pull,resolve", "https://m.example/v2" + all, "https://up.example/v2" + all}, ""},
		{"path", `
[host."https://m.example/v2/proxy"]
  override_path = true
[host."https://n.example/v2/proxy"]
[host."https://o.example"]
  override_path = true
`, []string{"https://m.example/v2/proxy" + all, "https://n.example/v2/proxy/v2" + all, "https://o.example" + all, "://" + all}, ""},
		{"certificates", `
ca = "root.pem"
[host."https://a"]
  ca = ["a.pem", "/abs/b.pem"]
  client = [["c.cert", "c.key"], ["/abs/d.cert", "d.key"]]
  skip_verify = true
[host."https://b"]
  client = "both.pem"
[host."https://c"]
  client = ["1.pem", "2.pem"]
  skip_verify = false
  dial_timeout = "3s"
`, []string{
			"https://a/v2" + all + " ca=/dir/a.pem ca=/abs/b.pem client=/dir/c.cert,/dir/c.key client=/abs/d.cert,/dir/d.key skip",
			"https://b/v2" + all + " client=/dir/both.pem,/dir/both.pem",
			"https://c/v2" + all + " client=/dir/1.pem,/dir/1.pem client=/dir/2.pem,/dir/2.pem dial=3s",
			"://" + all + " ca=/dir/root.pem",
		}, ""},
		{"http with certificates", `
[host."http://a:5000"]
  skip_verify = true
[host."http://b:80"]
  skip_verify = true
[host."http://c:5000"]
`, []string{"://a:5000/v2" + all + " skip", "http://b:80/v2" + all + " skip", "http://c:5000/v2" + all, "://" + all}, ""},
		{"headers", `
[host."https://a".header]
  authorization = "Basic x"
  x-list = ["1", "2"]
`, []string{"https://a/v2" + all + " Authorization=Basic x X-List=1,2", "://" + all}, ""},
		{"unknown keys", "server = \"https://a\"\nservr = \"x\"\n[host.\"https://b\"]\n  capabilties = [\"pull\"]\n",
			[]string{"https://b/v2" + all, "https://a/v2" + all}, `/dir/hosts.toml:2: unknown key "servr" is ignored|/dir/hosts.toml:4: unknown key "host.https://b.capabilties" is ignored`},
		{"inline", `host = { "https://a" = { capabilities = ["pull"] } }`, []string{"://" + all}, `/dir/hosts.toml: host "https://a" is not in a table of its own and is ignored`},
	} {
		hosts, odd, err := parseHosts([]byte(c.text), "/dir/hosts.toml")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, h := range hosts {
			got = append(got, summary(h))
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		if strings.Join(odd, "|") != c.odd {
			t.Errorf("%s: warnings %q", c.name, odd)
		}
	}
}

func TestBadHosts(t *testing.T) {
	for text, want := range map[string]string{
		"server = ":      "hosts.toml:1:",
		"\n\nserver = 5": "hosts.toml:3:",
		`[host."https://a"]` + "\n" + `capabilities = ["fly"]`: `"fly"`,
		`[host."https://a"]` + "\n" + `ca = 5`:                 "ca",
		`[host."https://a"]` + "\n" + `client = [["a"]]`:       "client",
		`[host."https://a"]` + "\n" + `client = {}`:            "client",
		`[host."https://a"]` + "\n" + `dial_timeout = "x"`:     "dial_timeout",
		`[host."https://a".header]` + "\n" + `x = 5`:           `"x"`,
		`[host."https://a".header]` + "\n" + `x = "a\nb"`:      `"x"`,
		`[host."ftp://a"]`:       `"ftp://a"`,
		`[host."https://u:p@a"]`: "address",
		`[host.""]`:              "address",
		`server = "https://"`:    "address",
	} {
		_, _, err := parseHosts([]byte(text), "hosts.toml")
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"http://b:5000\"]\n  capabilities = [\"pull\"]\n  ca = \"x\"\n"))
	f.Add([]byte("[host.\"https://b\".header]\n  x = [\"a\", \"b\"]\n"))
	f.Add([]byte("[host.'c/v2']\noverride_path=true\nclient=[['a','b']]\ndial_timeout='1s'"))
	f.Fuzz(func(t *testing.T, data []byte) {
		hosts, _, err := parseHosts(data, "/dir/hosts.toml")
		if err != nil {
			return
		}
		if len(hosts) == 0 {
			t.Fatal("no host")
		}
		for i, h := range hosts {
			if h.host == "" && i < len(hosts)-1 || h.caps&^canAll != 0 || strings.Contains(h.path, "//") {
				t.Errorf("%+v", h)
			}
			for _, f := range h.caFiles {
				if !filepath.IsAbs(f) {
					t.Errorf("ca %q", f)
				}
			}
		}
	})
}

func TestHostDirectories(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	write := func(path, text string) {
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(first+"/r.example_5000_/hosts.toml", `server = "https://underlined"`)
	write(first+"/r.example:5000/hosts.toml", `server = "https://colon"`)
	write(first+"/q.example/hosts.toml", `server = "https://q"`)
	write(first+"/empty.example/hosts.toml", "")
	write(second+"/_default/hosts.toml", `[host."https://fallback"]`)
	write(second+"/docker.example/ca.crt", "")
	write(second+"/docker.example/client.cert", "")
	write(second+"/docker.example/client.key", "")
	write(second+"/docker.example/single.cert", "")
	opt := Options{HostDirs: []string{first, filepath.Join(first, "none"), second}}
	for registry, want := range map[string]string{
		"r.example:5000": "https underlined", "q.example": "https q", "empty.example": "https empty.example", "other.example": "https fallback, https other.example",
		"docker.io": "https fallback, https registry-1.docker.io", "docker.example": "https docker.example", "127.0.0.1:5000": "https fallback,  127.0.0.1:5000",
		"q.example:443": "https fallback, https q.example:443",
	} {
		hosts, err := findHosts(registry, opt)
		if err != nil {
			t.Errorf("%s: %v", registry, err)
			continue
		}
		var got []string
		for _, h := range hosts {
			got = append(got, h.scheme+" "+h.host)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %q, want %q", registry, got, want)
		}
	}
	hosts, _ := findHosts("docker.example", opt)
	dir := second + "/docker.example/"
	if h := hosts[0]; !reflect.DeepEqual(h.caFiles, []string{dir + "ca.crt"}) ||
		!reflect.DeepEqual(h.clientPairs, []keyPair{{dir + "client.cert", dir + "client.key"}, {dir + "single.cert", dir + "single.cert"}}) {
		t.Errorf("certificates of docker: %+v", h)
	}
	opt.PlainHTTP = true
	if hosts, _ := findHosts("other.example", opt); hosts[0].scheme != "https" || hosts[1].scheme != "http" {
		t.Errorf("plain HTTP: %v", hosts)
	}
	write(first+"/bad.example/hosts.toml", "server = ")
	if _, err := findHosts("bad.example", opt); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), first+"/bad.example/hosts.toml:1") {
		t.Errorf("a file that cannot be read: %v", err)
	}
	var said []string
	write(first+"/odd.example/hosts.toml", "colour = 1")
	opt.Warn = func(s string) { said = append(said, s) }
	if _, err := findHosts("odd.example", opt); err != nil || len(said) != 1 || !strings.Contains(said[0], "hosts.toml:1") {
		t.Errorf("%v, warnings %q", err, said)
	}
	if got := HostDirs("/a:/b"); !reflect.DeepEqual(got, []string{"/a", "/b"}) {
		t.Errorf("%q", got)
	}
	if h, _, err := parseHosts([]byte("dial_timeout = \"2s\""), "x"); err != nil || h[0].dialTimeout != 2*time.Second {
		t.Errorf("%v, %v", h, err)
	}
}
