// SPDX-License-Identifier: Apache-2.0

package ask

import (
	"os"
	"testing"
	"time"
)

func TestUnrunnable(t *testing.T) {
	for said, want := range map[string]struct {
		kind Kind
		text string
	}{
		"":                                    {},
		"exec /bin/x: exec format error\n":    {NotExecutable, `exec: "/bin/x": exec format error`},
		"exec /bin/a: b: permission denied\n": {NotExecutable, `exec: "/bin/a: b": permission denied`},
		"exec /bin/x: no such file or directory\n":    {NotFound, `exec: "/bin/x": its interpreter is not there`},
		"error running startContainer hook: oh, no\n": {Other, "error running startContainer hook: oh, no"},
		"exec of nothing": {Other, "exec of nothing"},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString(said)
		w.Close()
		kind, text, err := Unrunnable(r)
		r.Close()
		if kind != want.kind || text != want.text || err != nil {
			t.Errorf("%q: %q, %s, %v", said, kind, text, err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	r.SetReadDeadline(time.Unix(1, 0))
	if _, _, err := Unrunnable(r); !os.IsTimeout(err) {
		t.Errorf("%v", err)
	}
}
