// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestParseChallenges(t *testing.T) {
	for _, c := range []struct {
		headers []string
		want    string
	}{
		{[]string{`Basic realm="r"`}, "basic{realm=r}"},
		{[]string{`Bearer realm="https://a/t",service="s",scope="x:y:pull,push"`}, "bearer{realm=https://a/t scope=x:y:pull,push service=s}"},
		{[]string{`Basic realm="r", Bearer realm="https://a/t",service="s"`}, "basic{realm=r} bearer{realm=https://a/t service=s}"},
		{[]string{`NTLM`, `Negotiate`, `Basic realm="r"`}, "ntlm{} negotiate{} basic{realm=r}"},
		{[]string{`NTLM, Negotiate, Basic realm="r"`}, "ntlm{} negotiate{} basic{realm=r}"},
		{[]string{`Negotiate YII=, Bearer realm="https://a/t"`}, "negotiate{} bearer{realm=https://a/t}"},
		{[]string{`bEaReR  REALM = "https://a/t" , Service	=	"s"`}, "bearer{realm=https://a/t service=s}"},
		{[]string{`Bearer realm=https://a/t?x=1,service=s`}, "bearer{realm=https://a/t?x=1 service=s}"},
		{[]string{`Bearer realm="a\"b\\",error="e"`}, `bearer{error=e realm=a"b\}`},
		{[]string{`,, Basic realm="r",,`}, "basic{realm=r}"},
		{[]string{`Bearer realm="unfinished`}, "bearer{}"},
		{[]string{``, `=`, `"`}, ""},
	} {
		var all []string
		for _, ch := range parseChallenges(c.headers) {
			var params []string
			for _, k := range slices.Sorted(maps.Keys(ch.params)) {
				params = append(params, k+"="+ch.params[k])
			}
			all = append(all, ch.scheme+"{"+strings.Join(params, " ")+"}")
		}
		if got := strings.Join(all, " "); got != c.want {
			t.Errorf("%q: %s, want %s", c.headers, got, c.want)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Basic realm="r", Bearer realm="https://a/t",service="s"`)
	f.Add(`Negotiate YII=, NTLM`)
	f.Add(`Bearer realm = "a\"b" , x=y`)
	f.Fuzz(func(t *testing.T, s string) {
		all := parseChallenges([]string{s})
		if len(all) > maxChallenges {
			t.Errorf("%d challenges", len(all))
		}
		for _, c := range all {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) || len(c.params) > maxChallenges {
				t.Errorf("%q: %+v", s, c)
			}
		}
	})
}

// tokens is a token server that counts what it is asked and gives tokens that it can name again.
type tokens struct {
	mu     sync.Mutex
	asked  []string
	answer func(w http.ResponseWriter, r *http.Request)
	n      int
}

func (s *tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.ParseForm()
	u, p, _ := r.BasicAuth()
	s.asked = append(s.asked, r.Method+" "+u+":"+p+" "+r.Form.Get("grant_type")+r.Form.Get("refresh_token")+" "+strings.Join(r.Form["scope"], "|"))
	s.n++
	if s.answer != nil {
		s.answer(w, r)
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprintf("t%d", s.n), "expires_in": 300})
}

// demandToken lets requests pass that have one of the tokens; all others get the challenges.
func demandToken(valid func(string) bool, challenges ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && valid(t) {
			return false
		}
		w.Header()["Www-Authenticate"] = challenges
		w.WriteHeader(401)
		return true
	}
}

// A registry on loopback has its token server on another port there, and offers several ways to log in.
func TestTokenServerElsewhere(t *testing.T) {
	ts := &tokens{}
	realm := "http://" + serve(t, ts) + "/token"
	bearer := `Bearer realm="` + realm + `",service="s"`
	for _, challenges := range [][]string{
		{bearer}, {`Basic realm="r"`, bearer}, {`Basic realm="r", ` + bearer}, {`NTLM`, `Negotiate`, bearer},
		{`Negotiate, ` + bearer + `, Basic realm="r"`}, {`bearer realm = "` + realm + `" , service = "s"`},
	} {
		f := newFront()
		want, blob := push(t, f.next, "v1", noise(1000))
		f.wrap = demandToken(func(s string) bool { return strings.HasPrefix(s, "t") }, challenges...)
		r := open(t, serve(t, f)+"/test/repo:v1", Options{})
		got, err := r.Resolve(context.Background())
		if err != nil || got.Digest != want.Digest {
			t.Errorf("%q: %v", challenges, err)
			continue
		}
		before := len(ts.asked)
		if _, err := readBlob(r, blob, 0, -1); err != nil || len(ts.asked) != before {
			t.Errorf("%q: %v, %d tokens", challenges, err, len(ts.asked)-before)
		}
		if last := ts.asked[before-1]; last != "GET :  repository:test/repo:pull" {
			t.Errorf("the token server was asked %q", last)
		}
	}
}

// With a password and no usable token server the password itself is what a registry gets that offers both.
func TestBasicWhereBearerFails(t *testing.T) {
	f := newFront()
	push(t, f.next, "v1", noise(10))
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == "u" && p == "p" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://169.254.169.254/latest", Basic realm="r"`)
		w.WriteHeader(401)
		return true
	}
	host := serve(t, f)
	if _, err := open(t, host+"/test/repo:v1", Options{Username: "u", Password: "p"}).Resolve(context.Background()); err != nil {
		t.Error(err)
	}
	_, err := open(t, host+"/test/repo:v1", Options{}).Resolve(context.Background())
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "169.254.169.254") {
		t.Errorf("without a password: %v", err)
	}
}

func TestRealms(t *testing.T) {
	for _, c := range []struct {
		registry string
		plain    bool
		realm    string
		ok       bool
	}{
		{"127.0.0.1:5000", true, "http://127.0.0.1:5001/token", true},
		{"localhost:5000", true, "http://127.0.0.1:5001/token", true},
		{"127.0.0.1:5000", true, "http://10.1.2.3/token", true},
		{"127.0.0.1:5000", false, "http://127.0.0.1:5001/token", false},
		{"10.1.2.3:5000", true, "http://192.168.1.1/token", true},
		{"10.1.2.3:5000", true, "http://127.0.0.1/token", false},
		{"10.1.2.3", false, "https://10.1.2.4/token", true},
		{"registry.example", false, "https://auth.example/token", true},
		{"registry.example", false, "http://auth.example/token", false},
		{"registry.example", false, "https://127.0.0.1/token", false},
		{"registry.example", false, "https://localhost/token", false},
		{"registry.example", false, "https://LocalHost:5000/token", false},
		{"registry.example", false, "https://a.localhost./token", false},
		{"registry.example", false, "https://10.1.2.3/token", false},
		{"registry.example", false, "https://[fd00::1]/token", false},
		{"registry.example", false, "https://[::ffff:10.1.2.3]/token", false},
		{"registry.example", false, "ftp://auth.example/token", false},
		{"registry.example", false, "", false},
		{"127.0.0.1:5000", true, "http://169.254.169.254/latest", false},
		{"127.0.0.1:5000", true, "http://[::ffff:169.254.169.254]/latest", false},
		{"127.0.0.1:5000", true, "http://[fe80::1%25eth0]/", false},
		{"127.0.0.1:5000", true, "http://[fd00:ec2::254]/", false},
		{"127.0.0.1:5000", true, "http://0.0.0.0/", false},
	} {
		_, err := (&tokenFetcher{host: c.registry, plain: c.plain}).realm(c.realm)
		if (err == nil) != c.ok {
			t.Errorf("%s names %s: %v", c.registry, c.realm, err)
		}
	}
	if err := refuseLinkLocal("tcp", "169.254.169.254:80", nil); err == nil {
		t.Error("a name that leads to a link-local address is followed")
	}
	for s, want := range map[string]near{"8.8.8.8": public, "10.0.0.1": private, "::1": loopback, "ff02::1": forbidden} {
		if got := nearnessOf(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}

// A token that the registry takes no more, in the middle of a pull, is replaced, once for all requests.
func TestTokenExpires(t *testing.T) {
	ts := &tokens{}
	f := newFront()
	_, blob := push(t, f.next, "v1", noise(1000))
	var mu sync.Mutex
	valid := "t1"
	f.wrap = demandToken(func(s string) bool { mu.Lock(); defer mu.Unlock(); return s == valid },
		`Bearer realm="http://`+serve(t, ts)+`/",service="s"`)
	r := open(t, serve(t, f)+"/test/repo:v1", Options{})
	if _, err := r.Resolve(context.Background()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	valid = "t2"
	mu.Unlock()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := readBlob(r, blob, 0, -1); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(ts.asked) != 2 {
		t.Errorf("asked %q", ts.asked)
	}
	// One whose time is over is replaced before the registry turns it down.
	client := r.hosts[0].client.Transport.(*login)
	client.until = time.Now().Add(-time.Second)
	mu.Lock()
	valid = "t3"
	mu.Unlock()
	before := f.count("")
	if _, err := readBlob(r, blob, 0, -1); err != nil || f.count("") != before+1 {
		t.Errorf("%v after %d requests", err, f.count("")-before)
	}
	// A registry that turns every token down is not asked for ever.
	mu.Lock()
	valid = "none"
	mu.Unlock()
	if _, err := readBlob(r, blob, 0, -1); !errdefs.IsUnauthorized(err) {
		t.Errorf("no token is good: %v", err)
	}
}

func TestIdentityToken(t *testing.T) {
	ts := &tokens{answer: func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.Form.Get("refresh_token") != "the-identity" || r.Form.Get("client_id") == "" {
			w.WriteHeader(401)
			return
		}
		fmt.Fprint(w, `{"access_token":"good","refresh_token":"the-identity"}`)
	}}
	f := newFront()
	want, _ := push(t, f.next, "v1", noise(10))
	f.wrap = demandToken(func(s string) bool { return s == "good" }, `Bearer realm="http://`+serve(t, ts)+`/oauth2/token",service="s"`)
	host := serve(t, f)
	file := filepath.Join(t.TempDir(), "config.json")
	for _, conf := range []string{
		`{"auths":{"` + host + `":{"identitytoken":"the-identity"}}}`,
		`{"auths":{"` + host + `":{"auth":"PHRva2VuPjo=","identitytoken":"the-identity"}}}`,
	} {
		os.WriteFile(file, []byte(conf), 0o600)
		if got, err := open(t, host+"/test/repo:v1", Options{AuthFile: file}).Resolve(context.Background()); err != nil || got.Digest != want.Digest {
			t.Errorf("%s: %v", conf, err)
		}
	}
	if ts.asked[0] != "POST : refresh_tokenthe-identity repository:test/repo:pull" {
		t.Errorf("asked %q", ts.asked)
	}
	os.WriteFile(file, []byte(`{"auths":{"`+host+`":{"registrytoken":"good"}}}`), 0o600)
	before := len(ts.asked)
	if _, err := open(t, host+"/test/repo:v1", Options{AuthFile: file}).Resolve(context.Background()); err != nil || len(ts.asked) != before {
		t.Errorf("a registry token: %v", err)
	}
}

// A token server that knows OAuth2 alone gets the password by POST; a redirect does not take it elsewhere.
func TestPasswordGrant(t *testing.T) {
	other := &tokens{}
	elsewhere := "http://" + serve(t, other) + "/token"
	away := false
	ts := &tokens{}
	ts.answer = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == "GET":
			w.WriteHeader(405)
		case away:
			http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
		default:
			fmt.Fprint(w, `{"token":"`+r.Form.Get("username")+r.Form.Get("password")+`"}`)
		}
	}
	f := newFront()
	push(t, f.next, "v1", noise(10))
	f.wrap = demandToken(func(s string) bool { return s == "up" }, `Bearer realm="http://`+serve(t, ts)+`/"`)
	host := serve(t, f)
	if _, err := open(t, host+"/test/repo:v1", Options{Username: "u", Password: "p"}).Resolve(context.Background()); err != nil {
		t.Error(err)
	}
	away = true
	if _, err := open(t, host+"/test/repo:v1", Options{Username: "u", Password: "p"}).Resolve(context.Background()); err == nil || len(other.asked) > 0 {
		t.Errorf("redirected: %v, %q", err, other.asked)
	}
}

// A redirect of a token server takes no password to another one, be it another port of the same name.
func TestTokenRedirect(t *testing.T) {
	other, ts := &tokens{}, &tokens{}
	elsewhere := "http://" + serve(t, other) + "/token"
	ts.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
	}
	f := newFront()
	push(t, f.next, "v1", noise(10))
	f.wrap = demandToken(func(s string) bool { return s == "t1" }, `Bearer realm="http://`+serve(t, ts)+`/"`)
	_, err := open(t, serve(t, f)+"/test/repo:v1", Options{Username: "u", Password: "p"}).Resolve(context.Background())
	if err != nil || len(ts.asked) != 1 || !strings.HasPrefix(ts.asked[0], "GET u:p ") || len(other.asked) != 1 || !strings.HasPrefix(other.asked[0], "GET : ") {
		t.Errorf("%v; the one was asked %q, the other one %q", err, ts.asked, other.asked)
	}
}

func TestParseToken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		`{"token":"a"}`: 54 * time.Second, `{"access_token":"a","expires_in":300}`: 270 * time.Second,
		`{"token":"a","expires_in":1}`: 54 * time.Second, `{"token":"a","expires_in":-1}`: 54 * time.Second,
	} {
		got, err := parseToken([]byte(s), now)
		if err != nil || got.value != "a" || got.until.Sub(now) != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{`{}`, `[]`, `{"token":""}`, `{"token":"a\nb"}`, `{"token":"a b"}`, ``} {
		if got, err := parseToken([]byte(s), now); err == nil {
			t.Errorf("%s: %+v", s, got)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add([]byte(`{"token":"a","expires_in":300}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseToken(data, time.Unix(0, 0))
		if err == nil {
			req := http.Request{Header: http.Header{"Authorization": {"Bearer " + got.value}}, URL: &url.URL{Scheme: "http", Host: "x"}}
			if strings.ContainsAny(req.Header.Get("Authorization"), "\r\n\x00") {
				t.Errorf("%q gives %q", data, got.value)
			}
		}
	})
}

// A registry that reads the first Accept line alone, and one that compresses its answers unless told not to.
func TestAcceptAndEncoding(t *testing.T) {
	f := newFront()
	data := noise(50000)
	want, blob := push(t, f.next, "v1", data)
	always := false
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") && !strings.Contains(r.Header.Get("Accept"), want.MediaType) {
			w.WriteHeader(404)
			return true
		}
		if !always && r.Header.Get("Accept-Encoding") == "identity" {
			return false
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		f.next.ServeHTTP(&compressing{ResponseWriter: w, z: z}, r)
		z.Close()
		return true
	}
	host := serve(t, f)
	for _, always = range []bool{false, true} {
		for _, ref := range []string{":v1", "@" + want.Digest.String()} {
			r := open(t, host+"/test/repo"+ref, Options{})
			got, err := r.Resolve(context.Background())
			if err != nil || got.Digest != want.Digest {
				t.Fatalf("always %v, %s: %v", always, ref, err)
			}
			if _, err := r.Manifest(context.Background(), want); err != nil {
				t.Error(err)
			}
			if b, err := readBlob(r, blob, 0, -1); err != nil || len(b) != len(data) {
				t.Errorf("always %v: %d bytes, %v", always, len(b), err)
			}
		}
	}
}

// compressing sends what a handler writes through gzip.
type compressing struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (c *compressing) WriteHeader(code int) {
	c.Header().Del("Content-Length")
	c.ResponseWriter.WriteHeader(code)
}

func (c *compressing) Write(p []byte) (int, error) {
	c.Header().Del("Content-Length")
	return c.z.Write(p)
}

func TestTokenServerIsNamed(t *testing.T) {
	ts := &tokens{answer: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) }}
	at := serve(t, ts)
	f := newFront()
	f.wrap = demandToken(func(string) bool { return false }, `Bearer realm="http://`+at+`/t"`)
	_, err := open(t, serve(t, f)+"/test/repo:v1", Options{}).Resolve(context.Background())
	var e *Error
	if !errors.As(err, &e) || !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), `token server "`+at+`"`) {
		t.Errorf("%v", err)
	}
}

// A host that a redirect leads to, and that wants a token of its own, gets an anonymous one.
func TestTokenElsewhere(t *testing.T) {
	data := noise(1000)
	ts := &tokens{}
	var seen []string
	storage := newFront()
	challenge := `Bearer realm="http://` + serve(t, ts) + `/t",scope="storage:read"`
	storage.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		seen = append(seen, r.Header.Get("Authorization"))
		if !demandToken(func(s string) bool { return s == "t1" }, challenge)(w, r) {
			w.Write(data)
		}
		return true
	}
	at := serve(t, storage)
	f := newFront()
	_, blob := push(t, f.next, "v1", data)
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if demandBasic("u", "p")(w, r) {
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "http://"+at+"/x", http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	r := open(t, serve(t, f)+"/test/repo:v1", Options{Username: "u", Password: "p"})
	if got, err := readBlob(r, blob, 0, -1); err != nil || len(got) != len(data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if strings.Join(seen, "|") != "|Bearer t1" || len(ts.asked) != 1 || ts.asked[0] != "GET :  storage:read" {
		t.Errorf("the host saw %q, the token server %q", seen, ts.asked)
	}
}

// The wait for a credential helper that does not answer ends with the pull.
func TestHelperHangs(t *testing.T) {
	f := newFront()
	push(t, f.next, "v1", noise(10))
	f.wrap = demandBasic("u", "p")
	r := open(t, serve(t, f)+"/test/repo:v1", Options{})
	asked, answer := make(chan bool), make(chan bool)
	r.hosts[0].creds = func() (credential, error) {
		close(asked)
		<-answer
		return credential{username: "u", password: "p"}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := r.Resolve(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(answer)
	if _, err := r.Resolve(context.Background()); err != nil {
		t.Errorf("answered later: %v", err)
	}
}
