// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDefault: default.toml is valid, and names every setting that there is.
func TestDefault(t *testing.T) {
	if err := Default().check(where{}); len(err) > 0 {
		t.Error(err)
	}
	named := map[string]bool{}
	if err := keys([]byte(DefaultText), func(key []string, _ int) {
		if key[0] == "runtimes" && len(key) > 1 {
			key[1] = "NAME"
		}
		named[keyText(key)] = true
	}); err != nil {
		t.Fatal(err)
	}
	visit(reflect.TypeFor[Config](), nil, func(key []string) {
		last := key[len(key)-1]
		if !named[keyText(key)] && key[0] != "proxy_plugins" && !strings.Contains(DefaultText, "# "+last+" =") && !strings.Contains(DefaultText, "."+last+"]") {
			t.Errorf("default.toml does not name %s", keyText(key))
		}
	})
}

func TestLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "of [1] * ?") // a directory is no pattern
	file := filepath.Join(dir, "ctrd.toml")
	write(t, file, "log_level = \"debug\"\nidle_timeout = \"3s\"\n[runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n[cri.cni]\nbin_dirs = [\"/a\", \"/b\", \"/c\"]\n")
	write(t, dir+"/config.d/20-last.toml", "idle_timeout = \"7s\"\nruntimes.kata.snapshotter = \"native\"\n[cri.cni]\nbin_dirs = [\"/z\"]\n")
	write(t, dir+"/config.d/10-first.toml", "idle_timeout = \"5s\"\n[sockets]\nnative = { mode = \"0600\" }\n")
	write(t, dir+"/config.d/30-other.conf", "this is not read")
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.LogLevel != "debug" || time.Duration(c.IdleTimeout) != 7*time.Second || !reflect.DeepEqual(c.CRI.CNI.BinDirs, []string{"/z"}) || c.CRI.CNI.MaxConfNum != 1 {
		t.Errorf("%+v", c)
	}
	if r := c.Runtimes["kata"]; r.Type != "io.containerd.kata.v2" || r.Snapshotter != "native" || len(c.Runtimes) != 2 {
		t.Errorf("runtimes: %+v", c.Runtimes)
	}
	if s := c.Sockets.Native; s.Mode != 0o600 || s.Group != "ctrd" {
		t.Errorf("socket: %+v", s)
	}
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(text, "text")
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if twice, err := again.Text(); err != nil || string(twice) != string(text) {
		t.Errorf("%v: written twice:\n%s\n%s", err, text, twice)
	}
}

func TestNoFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); !errdefs.IsNotFound(err) {
		t.Errorf("a file that was named: %v", err)
	}
}

// TestRefused: what is wrong is told with file, line and key.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"log_level = ":                                    "f.toml:1: ",
		"\n\nlog_levle = \"info\"":                        `f.toml:3: unknown key log_levle (is log_level meant?)`,
		"[cri]\n# a\nmax_conf_num = 1":                    `f.toml:3: unknown key cri.max_conf_num (is cri.cni.max_conf_num meant?)`,
		"[crio]\nx = 1":                                   `f.toml:1: unknown key crio`,
		"[runtimes.runc]\nbinary = \"x\"":                 `f.toml:2: unknown key runtimes.runc.binary`,
		"\nlog_level = \"loud\"":                          `f.toml:2: log_level: "loud" is none of debug, info, warn, error`,
		"log_level = 5":                                   "f.toml:1: log_level: ",
		"\nidle_timeout = \"soon\"":                       `f.toml:2: idle_timeout: "soon" is no span of time`,
		"idle_timeout = \"-1s\"":                          `f.toml:1: `,
		"# x\n\ndefault_runtime = \"kata\"":               "f.toml:3: default_runtime: there is no table runtimes.kata",
		"[sockets.native]\n\nmode = \"0666\"":             "f.toml:3: sockets.native.mode: 0666 lets everybody connect",
		"[sockets.native]\nmode = \"rw\"":                 "f.toml:2: sockets.native.mode: ",
		"[sockets]\nnative.address = \"x.sock\"":          `f.toml:2: sockets.native.address: "x.sock" is no absolute path`,
		"sockets = { cri = { address = \"x\" } }":         `f.toml:1: sockets.cri.address: "x" is no absolute path`,
		"[proxy_plugins.a]\ntype = \"snapshot\"":          "f.toml:1: proxy_plugins.a.address: want the path of its socket",
		"[proxy_plugins.a]\naddress = \"/x\"":             "f.toml:1: proxy_plugins.a.type: ",
		"[runtimes.\"a b\"]\nengine = \"x\"":              `f.toml:1: runtimes."a b": "a b" is no name of a runtime`,
		"[cri]\nstream_server_port = \"70000\"":           "f.toml:2: cri.stream_server_port: a port is",
		"[cri]\nstream_server_address = \"here\"":         "f.toml:2: cri.stream_server_address: ",
		"[cri.cni]\nbin_dirs = [\n\"/x\",\n\"y\"\n]":      `f.toml:2: cri.cni.bin_dirs.1: "y" is no absolute path`,
		"[cri]\nmax_concurrent_downloads = 0":             "f.toml:2: cri.max_concurrent_downloads: 0 is less than 1",
		"[metrics]\naddress = \"1338\"":                   "f.toml:2: metrics.address: ",
		"[runtimes.x]\nengine=\"e\"\nruntime_path=\"/p\"": "f.toml:2: runtimes.x.engine: ",
		"log_level = \"info\"\nlog_level = \"warn\"":      "f.toml:2: ",
	} {
		_, err := Parse([]byte(text), "f.toml")
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}

// TestEveryMistake: all mistakes are told at once, those of a drop-in by its own name.
func TestEveryMistake(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/c.toml", "one = 1\ntwo = 2\n")
	write(t, dir+"/config.d/x.toml", "three = 3\n")
	_, err := Load(dir + "/c.toml")
	for _, want := range []string{dir + `/c.toml:1: unknown key one`, dir + `/c.toml:2: unknown key two`, dir + `/config.d/x.toml:1: unknown key three`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s in %v", want, err)
		}
	}
	write(t, dir+"/c.toml", "log_level = \"x\"\n")
	write(t, dir+"/config.d/x.toml", "[cri.cni]\nmax_conf_num = -1\n")
	_, err = Load(dir + "/c.toml")
	for _, want := range []string{dir + "/c.toml:1: log_level", dir + "/config.d/x.toml:2: cri.cni.max_conf_num: -1 is less than 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s in %v", want, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(DefaultText))
	f.Add([]byte("[runtimes.a]\noptions = { BinaryName = 'x', n = 1, l = [1, 2.5, {a=1979-05-27T07:32:00Z}] }\n"))
	f.Add([]byte("[proxy_plugins.s]\ntype='snapshot'\naddress='/x'\nexports={root='/r'}\n[[a]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data, "f.toml")
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v", err)
			}
			return
		}
		text, err := c.Text()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text, "again")
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		twice, err := again.Text()
		if err != nil || string(twice) != string(text) {
			t.Errorf("%v: written twice:\n%s\n%s", err, text, twice)
		}
	})
}
