// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// proxyTexts are files with the table proxy_plugins, some of them wrong.
var proxyTexts = []string{
	"", "log_level = 'debug'\n", "[proxy_plugins]\n", "proxy_plugins = {}\n",
	"[proxy_plugins.a]\ntype = \"snapshot\"\naddress = \"/a.sock\"\n",
	"# proxy_plugins\n[cri]\nenable_cdi = true\n[proxy_plugins.\"a-b\"]\ntype = 'snapshot'\naddress = '/a'\nplatform = \"linux/amd64\"\nsnapshotter = 'c'\ncapabilities = ['remap-ids', # why\n \"\\u00e9\"]\n[proxy_plugins.a-b.exports]\nroot = '/r'\n\"x y\" = ''\n",
	"proxy_plugins.a.type = 'snapshot'\nproxy_plugins.a.address = '/a'\nproxy_plugins.a.exports.root = '/r'\nproxy_plugins.a.exports.x = 'y'\n",
	"proxy_plugins = { a = { type = 'snapshot', address = '/a', exports = { root = '/r' }, capabilities = [] }, b.type = 'snapshot', b.address = '/b' }\n",
	"[proxy_plugins]\na.type = 'snapshot'\na.address = '/a'\n[proxy_plugins.a.exports]\nroot = '/r'\n",
	"[proxy_plugins.a.exports]\nroot = '/r'\n[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\n[proxy_plugins]\n",
	"[proxy_plugins.a.exports]\nroot = '/r'\n[proxy_plugins]\na.type = 'snapshot'\na.address = '/a'\n",
	"[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\n[proxy_plugins]\na.platform = 'x'\n",
	"[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\n[proxy_plugins.a]\n",
	"[proxy_plugins.a]\ntype = 'snapshot'\ntype = 'snapshot'\naddress = '/a'\n",
	"[proxy_plugins]\n[proxy_plugins]\n", "[[proxy_plugins]]\n", "[[proxy_plugins.a]]\ntype = 'snapshot'\naddress = '/a'\n",
	"proxy_plugins = { a = { type = 'snapshot', address = '/a' } }\n[proxy_plugins.b]\ntype = 'snapshot'\naddress = '/b'\n",
	"proxy_plugins = { a = { type = 'snapshot', address = '/a' } }\nproxy_plugins.a.platform = 'x'\n",
	"[proxy_plugins.a]\n", "[proxy_plugins.a]\ntype = 'diff'\naddress = '/a'\n", "[proxy_plugins.a]\ntype = 'snapshot'\naddress = 'a'\n",
	"[proxy_plugins.overlayfs]\ntype = 'snapshot'\naddress = '/a'\n", "[proxy_plugins.'a b']\ntype = 'snapshot'\naddress = '/a'\n",
	"[proxy_plugins.a]\ntype = 'snapshot'\naddress = 5\n", "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\nexports = 'x'\n",
	"[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\nexports.root = 'x'\n", "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\nexports.n = 1\n",
	"[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\ncapabilities = 'x'\n", "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\ncapabilities = ['x', 1]\n",
	"[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\nother = 1\n", "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\n[proxy_plugins.a.other]\nx = 1\n",
	"proxy_plugins = 5\n", "[proxy_plugins]\na = 5\n", "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\n[x", "[proxy_plugins.a]\ntype = \n", "[proxy_plugins.a]\ntype = \"",
	"[proxy_plugins.a]\ntype.x = 'snapshot'\naddress = '/a'\n", "[proxy_plugins.a.type]\n", "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\nexports = {}\n",
	"[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\n[proxy_plugins.a.exports.root]\n", "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\n[[proxy_plugins.a.exports]]\nroot = '/r'\n",
	"proxy_plugins.a = { snapshotter = 'z' }\n", "proxy_plugins.a = { address = '/z', type = 'snapshot' }\n", "[proxy_plugins]\na = {}\n", "proxy_plugins.a.exports = { x = '1' }\nproxy_plugins.a.capabilities = ['one']\n",
	"proxy_plugins.a.capabilities = [\n]\n", "[proxy_plugins.a.exports]\n", "[proxy_plugins.a]\nexports = { root = '/x' }\n[proxy_plugins.a.exports]\n",
	"[proxy_plugins.a]\nType = 'snapshot'\nADDRESS = '/a'\n", "[Proxy_Plugins.a]\ntype = 'snapshot'\naddress = '/a'\n",
}

// sameProxies: what Proxies makes of files is what Load makes of them, but for mistakes elsewhere.
func sameProxies(t *testing.T, texts ...source) {
	t.Helper()
	got, err := proxies(texts)
	c, w := Default(), where{}
	var wrong Mistakes
	for _, s := range texts {
		wrong = append(wrong, c.parse(s.data, s.file, w)...)
	}
	if len(wrong) == 0 {
		wrong = c.check(w)
	}
	theirs := false // a mistake in another table
	for _, m := range wrong {
		theirs = theirs || !strings.Contains(m, " "+proxyPlugins)
	}
	if err != nil && !errdefs.IsInvalidArgument(err) || err != nil && strings.Count(err.Error(), "\n") >= len(err.(Mistakes)) {
		t.Errorf("%q: %v", texts, err)
	}
	switch {
	case len(wrong) == 0 && err != nil:
		t.Errorf("%s: %v, and Load takes it", texts, err)
	case len(wrong) == 0 && len(got)+len(c.ProxyPlugins) > 0 && !reflect.DeepEqual(got, c.ProxyPlugins):
		t.Errorf("%s: %#v, want %#v", texts, got, c.ProxyPlugins)
	case len(wrong) > 0 && !theirs && err == nil:
		t.Errorf("%s: no error, want %v", texts, wrong)
	}
}

func TestProxies(t *testing.T) {
	for _, a := range proxyTexts {
		sameProxies(t, source{"a.toml", []byte(a)})
		for _, b := range proxyTexts {
			sameProxies(t, source{"a.toml", []byte(a)}, source{"b.toml", []byte(b)})
		}
	}
}

// What is wrong is told as Load tells it, with file, line and key; what is wrong elsewhere is not.
func TestProxiesRefused(t *testing.T) {
	const good = "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\n"
	for text, want := range map[string]string{
		good + "other = 1\n":        "f.toml:4: unknown key proxy_plugins.a.other",
		good + "x = \n":             "f.toml:4: ",
		good + "platform = 1\n":     "f.toml:4: proxy_plugins.a.platform: want a text",
		good + "type = 'snapshot'":  "f.toml:4: proxy_plugins.a.type: it is there twice",
		"\n[proxy_plugins.a]\n":     "f.toml:2: proxy_plugins.a.type: ",
		good + "exports.root = 'r'": `f.toml:4: proxy_plugins.a.exports.root: "r" is no absolute path`,
		good + "[no":                "f.toml:4: ",
		"log_level = 5\n" + good:    "",
		"no = 5\n" + good:           "",
	} {
		_, err := proxies([]source{{"f.toml", []byte(text)}})
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func FuzzProxies(f *testing.F) {
	for i, text := range proxyTexts {
		f.Add([]byte(text), []byte(proxyTexts[(i*7)%len(proxyTexts)]))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) { sameProxies(t, source{"a.toml", a}, source{"b.toml", b}) })
}
