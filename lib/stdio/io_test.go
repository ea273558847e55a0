// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
)

func TestFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := MakeFIFO(path); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenWriter(path); !errdefs.IsUnavailable(err) {
		t.Fatalf("writer without a reader: %v", err)
	}
	r, w, err := OpenBoth(path)
	if err != nil {
		t.Fatal(err)
	}
	client, err := OpenWriter(path)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		client.Write(bytes.Repeat([]byte("x"), 1<<20))
		client.Close()
		w.Close()
	}()
	b, err := io.ReadAll(r)
	if len(b) != 1<<20 || err != nil {
		t.Fatal(len(b), err)
	}
	r.Close()
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	if _, err := OpenReader(file); !errdefs.IsInvalidArgument(err) {
		t.Fatalf("not a FIFO: %v", err)
	}
}

func TestBlocking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := MakeFIFO(path); err != nil {
		t.Fatal(err)
	}
	r, w, err := OpenBoth(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := Blocking(r); err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"cat", "-test.run=^TestHelperCat$"}, &os.ProcAttr{
		Files: []*os.File{r, nil, os.Stderr}, Env: append(os.Environ(), "STDIO_CAT=1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Write([]byte("hello"))
	w.Close()
	st, err := p.Wait()
	if err != nil || !st.Success() {
		t.Fatal(st, err)
	}
}

func TestHelperCat(t *testing.T) {
	if os.Getenv("STDIO_CAT") == "" {
		t.Skip("the child of TestBlocking")
	}
	b, err := io.ReadAll(os.Stdin)
	if string(b) != "hello" || err != nil {
		t.Fatalf("%q %v", b, err)
	}
}

func TestParseDetachKeys(t *testing.T) {
	for in, want := range map[string]string{"ctrl-p,ctrl-q": "\x10\x11", "": "", "a,ctrl-],ctrl-@,ctrl-A": "a\x1d\x00\x01"} {
		got, err := ParseDetachKeys(in)
		if err != nil || string(got) != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, in := range []string{"ctrl-", "ab", "a,,b", "ctrl-1", "ctrl-pp", "é"} {
		if _, err := ParseDetachKeys(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestDetach(t *testing.T) {
	for _, c := range []struct {
		keys, in, out string
		detached      bool
	}{
		{"\x10\x11", "abc\x10\x11rest", "abc", true},
		{"\x10\x11", "a\x10b\x10", "a\x10b\x10", false},
		{"\x10\x11", "\x10\x10\x11", "\x10", true},
		{"aab", "xaaab", "xa", true},
		{"abab", "ababb", "", true},
		{"abac", "abab", "abab", false},
		{"abac", "ababac", "ab", true},
		{"", "plain", "plain", false},
	} {
		for _, wrap := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, func(r io.Reader) io.Reader { return r }} {
			d := NewDetachReader(wrap(bytes.NewReader([]byte(c.in))), []byte(c.keys))
			var out bytes.Buffer
			_, err := io.CopyBuffer(struct{ io.Writer }{&out}, struct{ io.Reader }{d}, make([]byte, 5))
			if out.String() != c.out || errors.Is(err, ErrDetached) != c.detached || err != nil && !c.detached {
				t.Errorf("keys %q, input %q: %q %v", c.keys, c.in, out.String(), err)
			}
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	w, err := Log{Path: filepath.Join(b.TempDir(), "log"), MaxSize: 64 << 20, MaxFiles: 2}.Create()
	if err != nil {
		b.Fatal(err)
	}
	p := bytes.Repeat([]byte("a line of some length, as programs write them\n"), 356)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		w.Write(Stdout, p)
	}
}
