// SPDX-License-Identifier: Apache-2.0

package network

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/image"
)

// One password is offered to one registry.
func TestOneRegistry(t *testing.T) {
	for names, ok := range map[string]bool{
		"redis nginx:1 docker.io/a/b index.docker.io/c": true,
		"localhost:1/a localhost:1/b":                   true,
		"UPPER/case/ localhost:1/a":                     true,
		"redis localhost:1/a":                           false,
		"localhost:1/a localhost:2/a":                   false,
		"a.example/x - a.example/y a.example:443/z":     false,
	} {
		var o oneRegistry
		var err error
		for name := range strings.FieldsSeq(names) {
			if err == nil {
				if ref, bad := image.Parse(name); bad == nil {
					err = o.check(ref)
				}
			}
		}
		if ok != (err == nil) || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", names, err)
		}
	}
}

func TestReadCreds(t *testing.T) {
	for text, want := range map[string]string{
		"u:p": "u p", "u:p:q\nredis\n": "u p:q", "u:\r\n": "u ", "": "", "foo": "", "\nu:p\n": "", ":p\n": "",
	} {
		path := filepath.Join(t.TempDir(), "stdin")
		os.WriteFile(path, []byte(text), 0o600)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var o Flags
		err = o.readCreds(f)
		f.Close()
		switch got := o.Registry.Username + " " + o.Registry.Password; {
		case want == "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "--creds-stdin")):
			t.Errorf("%q: %v", text, err)
		case want != "" && (err != nil || got != want):
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestCount(t *testing.T) {
	for s, ok := range map[string]bool{"1": true, "64": true, "0": false, "-1": false, "x": false, "": false, "99999999999999999999": false} {
		c := Count(4)
		if err := c.Set(s); ok != (err == nil) || ok != (c.String() == s) || err != nil && !strings.Contains(err.Error(), "want a number") {
			t.Errorf("%q: %v, %v", s, c, err)
		}
	}
}

func TestReadLine(t *testing.T) {
	for in, want := range map[string]string{"u:p\nnext": "u:p", "u:p": "u:p", "u:p\r\n": "u:p", "\n": ""} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString(in)
		w.Close()
		if got, err := readLine(r); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		r.Close()
	}
}
