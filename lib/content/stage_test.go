// SPDX-License-Identifier: Apache-2.0

package content

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func stage(t *testing.T, text string) *Staged {
	t.Helper()
	s, err := Stage(openDir(t), digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for part := range strings.SplitAfterSeq(text, " ") {
		if _, err := s.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// A staged blob has no name before it is placed, and then is one like every other.
func TestStage(t *testing.T) {
	s := stage(t, "one two")
	want := ocispec.Descriptor{Digest: digest.FromString("one two"), Size: 7}
	if got := s.Descriptor(); got.Digest != want.Digest || got.Size != want.Size {
		t.Fatalf("descriptor %v, want %v", got, want)
	}
	if left, err := os.ReadDir(s.d.Path("content", "ingest")); err != nil || len(left) > 0 {
		t.Fatalf("before it is placed: %v, %v", left, err)
	}
	for range 2 {
		if err := s.Place(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := ReadAll(s.d, want, 100); err != nil || string(data) != "one two" {
		t.Fatalf("%q, %v", data, err)
	}
	if left, err := os.ReadDir(s.d.Path("content", "ingest")); err != nil || len(left) > 0 {
		t.Fatalf("after it was placed: %v, %v", left, err)
	}
	st, err := os.Stat(Path(s.d, want.Digest))
	if err != nil || st.Mode().Perm() != 0o444 {
		t.Fatalf("%v, %v", st, err)
	}
	if f, err := os.Open(Path(s.d, want.Digest)); err != nil || !isVerified(f) {
		t.Errorf("it is not marked as hashed in this boot: %v", err)
	} else {
		f.Close()
	}
}

// What is in place and damaged is replaced, whether its size is right or not.
func TestStageRepairs(t *testing.T) {
	for _, bad := range []string{"xxx two", "x"} {
		s := stage(t, "one two")
		dg := s.Descriptor().Digest
		if err := os.MkdirAll(s.d.Path("content", "blobs", "sha256"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(Path(s.d, dg), []byte(bad), 0o444); err != nil {
			t.Fatal(err)
		}
		if err := s.Place(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(Path(s.d, dg)); err != nil || string(data) != "one two" {
			t.Errorf("over %q: %q, %v", bad, data, err)
		}
	}
}
