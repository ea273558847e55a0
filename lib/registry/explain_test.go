// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	opt := hostsFor(t, "docker.io", `
server = "https://registry-1.docker.io"
[host."http://mirror.example:5000"]
  capabilities = ["pull"]
  dial_timeout = "3s"
[host."http://mirror.example:5000".header]
  authorization = "Bearer header-secret"
[host."https://127.0.0.1:1/p"]
  skip_verify = true
`)
	file := filepath.Join(t.TempDir(), "auth.json")
	os.WriteFile(file, []byte(authEntries("mirror.example:5000/library", "docker.io/other")), 0o600)
	opt.AuthFile = file
	plans := open(t, "docker.io/library/redis:7", opt).Explain()
	if len(plans) != 3 {
		t.Fatalf("%+v", plans)
	}
	from := filepath.Join(opt.HostDirs[0], "docker.io", "hosts.toml")
	for i, want := range []Plan{
		{URL: "http://mirror.example:5000/v2/library/redis?ns=docker.io", Capabilities: "pull", DialTimeout: "3s", Credentials: fmt.Sprintf("%s, entry %q", file, "mirror.example:5000/library")},
		{URL: "https://127.0.0.1:1/p/v2/library/redis?ns=docker.io", Capabilities: canAll.String(), DialTimeout: "30s", Credentials: "none", Insecure: true},
		{URL: "https://registry-1.docker.io/v2/library/redis", Capabilities: canAll.String(), DialTimeout: "30s", Credentials: "none"},
	} {
		got := plans[i]
		if got.URL != want.URL || got.From != from || got.Capabilities != want.Capabilities || got.Credentials != want.Credentials || got.DialTimeout != want.DialTimeout || got.Insecure != want.Insecure {
			t.Errorf("host %d: %+v", i, got)
		}
	}
	if all := fmt.Sprintf("%+v", plans); strings.Contains(all, "secret") || strings.Contains(all, "user:") {
		t.Errorf("a secret is told: %s", all)
	}
	if len(plans[0].Headers) != 1 || plans[0].Headers[0] != "Authorization" {
		t.Errorf("headers %q", plans[0].Headers)
	}
}

// A proxy is read from the environment once a process, so a process of its own asks through one.
func TestProxy(t *testing.T) {
	if os.Getenv("REGISTRY_TEST_PROXY") != "" {
		r := open(t, "registry.example/test/repo:v1", Options{PlainHTTP: true})
		desc, err := r.Resolve(context.Background())
		fmt.Printf("%s %v %s\n", r.Explain()[0].Proxy, err, desc.Digest)
		return
	}
	f := newFront()
	want, _ := push(t, f.next, "v1", noise(10))
	var hosts, logins []string
	f.wrap = func(_ http.ResponseWriter, r *http.Request) bool {
		hosts, logins = append(hosts, r.URL.Host), append(logins, r.Header.Get("Proxy-Authorization"))
		return false
	}
	proxy := serve(t, f)
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxy$")
	cmd.Env = append(os.Environ(), "REGISTRY_TEST_PROXY=1", "HTTP_PROXY=http://user:pass@"+proxy, "NO_PROXY=")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "http://"+proxy+" <nil> "+want.Digest.String()) || strings.Contains(string(out), "pass@") {
		t.Errorf("%v: %s", err, out)
	}
	if len(hosts) == 0 || hosts[0] != "registry.example" || logins[0] == "" {
		t.Errorf("the proxy was asked for %q", hosts)
	}
}

func TestBudget(t *testing.T) {
	f := newFront()
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "80")
		w.WriteHeader(503)
		return true
	}
	r := open(t, serve(t, f)+"/test/repo:v1", Options{PlainHTTP: true})
	for range 3 {
		r.Resolve(context.Background())
	}
	// Three pauses of 80 s fit into the budget of one repository, and then nothing is tried again.
	if n := f.count(""); n != 3+3 {
		t.Errorf("%d requests", n)
	}
}
