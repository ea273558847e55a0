// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config"
)

func keychainOf(t *testing.T, text string) *keychain {
	t.Helper()
	conf, err := config.LoadFromReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return &keychain{"auth.json", conf}
}

// authEntries makes a configuration whose entries have their own key as password.
func authEntries(keys ...string) string {
	auths := map[string]any{}
	for _, k := range keys {
		auths[k] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("user:" + k))}
	}
	data, _ := json.Marshal(map[string]any{"auths": auths})
	return string(data)
}

func TestMostSpecificCredentials(t *testing.T) {
	for _, c := range []struct {
		keys             []string
		host, repo, want string
	}{
		{[]string{"r.example/team-a", "r.example/team-b"}, "r.example", "team-a/app", "r.example/team-a"},
		{[]string{"r.example/team-a", "r.example/team-b"}, "r.example", "team-b/app", "r.example/team-b"},
		{[]string{"r.example/team-a", "r.example/team-b"}, "r.example", "other/app", ""},
		{[]string{"r.example/team-a", "r.example/team-b"}, "r.example", "team-ab/app", ""},
		{[]string{"r.example/team-a"}, "r.example", "team-a", "r.example/team-a"},
		{[]string{"r.example/team-a/app"}, "r.example", "team-a", ""},
		{[]string{"r.example/team-a"}, "r.example", "x/team-a", ""},
		{[]string{"r.example", "r.example/a", "r.example/a/b"}, "r.example", "a/b/c", "r.example/a/b"},
		{[]string{"r.example", "r.example/a", "r.example/a/b"}, "r.example", "a/c", "r.example/a"},
		{[]string{"r.example", "r.example/a", "r.example/a/b"}, "r.example", "c", "r.example"},
		{[]string{"https://r.example/team-a"}, "r.example", "team-b/app", ""},
		{[]string{"https://r.example/team-a/"}, "r.example", "team-a/app", "https://r.example/team-a/"},
		{[]string{"https://r.example/v1/"}, "r.example", "a", "https://r.example/v1/"},
		{[]string{"http://r.example"}, "r.example", "a", "http://r.example"},
		{[]string{"r.example:5000"}, "r.example", "a", ""},
		{[]string{"r.example"}, "r.example:5000", "a", ""},
		{[]string{"R.Example"}, "r.example", "a", "R.Example"},
		{[]string{"example"}, "r.example", "a", ""},
		{[]string{"https://index.docker.io/v1/"}, "docker.io", "library/redis", "https://index.docker.io/v1/"},
		{[]string{"https://index.docker.io/v1/"}, "index.docker.io", "library/redis", "https://index.docker.io/v1/"},
		{[]string{"docker.io/team"}, "docker.io", "library/redis", ""},
		{[]string{"docker.io/team", "https://index.docker.io/v1/"}, "registry-1.docker.io", "team/x", "docker.io/team"},
	} {
		got, err := keychainOf(t, authEntries(c.keys...)).find(c.host, c.repo)
		if err != nil || got.password != c.want {
			t.Errorf("%q, %s/%s: %q, want %q (%v)", c.keys, c.host, c.repo, got.password, c.want, err)
		}
		if strings.Contains(got.source, "user:") || !got.none() && !strings.Contains(got.source, "auth.json") {
			t.Errorf("source %q", got.source)
		}
	}
}

// What a registry is sent for each repository, when the file has credentials of two paths.
func TestNoOtherPathsPassword(t *testing.T) {
	f := newFront()
	push(t, f.next, "v1", noise(10))
	f.wrap = demandBasic("nobody", "nothing")
	host := serve(t, f)
	file := filepath.Join(t.TempDir(), "auth.json")
	os.WriteFile(file, []byte(authEntries(host+"/team-a", host+"/team-b")), 0o600)
	for repo, want := range map[string]string{"team-a/app": "team-a", "team-b/app": "team-b", "other/app": "", "team-ab/app": ""} {
		f.mu.Lock()
		f.auths = nil
		f.mu.Unlock()
		open(t, host+"/"+repo+":v1", Options{AuthFile: file}).Resolve(context.Background())
		sent := ""
		for _, a := range f.auths {
			if a != "" {
				plain, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(a, "Basic "))
				sent = string(plain)
			}
		}
		if want != "" {
			want = "user:" + host + "/" + want
		}
		if sent != want {
			t.Errorf("%s: %q was sent, want %q", repo, sent, want)
		}
	}
}

func TestHelpersByPath(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nread url\ncase $url in *none*) echo 'credentials not found in native keychain'; exit 1;; esac\n" +
		"echo \"{\\\"Username\\\":\\\"$1\\\",\\\"Secret\\\":\\\"$url\\\"}\"\n"
	for _, name := range []string{"one", "two"} {
		os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(script), 0o755)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, c := range []struct{ conf, host, repo, want string }{
		{`{"credHelpers":{"r.example":"one"}}`, "r.example", "a/b", "r.example"},
		{`{"credHelpers":{"r.example/a":"one"}}`, "r.example", "b", ""},
		{`{"credsStore":"two"}`, "r.example", "a/b", "r.example"},
		{`{"credsStore":"two","auths":{"r.example/a":{}}}`, "r.example", "a/b", "r.example/a"},
		{`{"credsStore":"two"}`, "docker.io", "a/b", "https://index.docker.io/v1/"},
		{`{"credsStore":"two","auths":{"none.example":{"auth":"dTpw"}}}`, "none.example", "a", "p"},
		{`{"credHelpers":{"none.example":"one"}}`, "none.example", "a", ""},
	} {
		got, err := keychainOf(t, c.conf).find(c.host, c.repo)
		if err != nil || got.password != c.want {
			t.Errorf("%s, %s/%s: %q, want %q (%v)", c.conf, c.host, c.repo, got.password, c.want, err)
		}
	}
	if _, err := keychainOf(t, `{"credHelpers":{"r.example":"absent"}}`).find("r.example", "a"); err == nil || !strings.Contains(err.Error(), "docker-credential-absent") {
		t.Errorf("a helper that is not there: %v", err)
	}
	os.WriteFile(filepath.Join(dir, "docker-credential-blabs"), []byte("#!/bin/sh\necho '{\"Secret\":\"hush\"}'\nexit 1\n"), 0o755)
	os.WriteFile(filepath.Join(dir, "docker-credential-locked"), []byte("#!/bin/sh\necho the store is locked\nexit 1\n"), 0o755)
	if _, err := keychainOf(t, `{"credHelpers":{"r.example":"blabs"}}`).find("r.example", "a"); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("a helper that fails with a secret: %v", err)
	}
	if _, err := keychainOf(t, `{"credHelpers":{"r.example":"locked"}}`).find("r.example", "a"); err == nil || !strings.Contains(err.Error(), "the store is locked") {
		t.Errorf("a helper that says why it fails: %v", err)
	}
	if _, err := keychainOf(t, `{"credHelpers":{"r.example":"../x"}}`).find("r.example", "a"); err == nil {
		t.Error("a helper with a path was run")
	}
}

func FuzzKeychain(f *testing.F) {
	f.Add("r.example/team-a", "r.example", "team-a/app")
	f.Add("https://r.example/v1/", "r.example", "a")
	f.Fuzz(func(t *testing.T, key, host, repo string) {
		if !isKey(key, host, repo) {
			return
		}
		if repo != "" && !strings.HasSuffix(strings.TrimRight(key, "/"), repo) && !strings.Contains(key, repo) {
			t.Errorf("%q stands for %q", key, repo)
		}
	})
}
