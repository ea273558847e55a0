// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

// What image.Parts, Checks and Usages tell of images that are whole, partly here, and not.
func TestParts(t *testing.T) {
	d := openDir(t)
	var l layout
	mine, theirs := on(l.image("", "mine"), ""), on(l.image("linux/s390x", "theirs"), "linux/s390x")
	index := l.index(mine, theirs)
	take(t, d, pack(l.end(called(index, AnnotationName, "app:1"), called(mine, AnnotationName, "app:2"), called(l.image("", "other"), AnnotationName, "other:1"))...), ImportOptions{})
	look := func() (parts, checks string, usages []image.Usage) {
		err := d.View(t.Context(), func(tx *state.Tx) error {
			all, err := image.Parts(tx, ns, index)
			if err != nil {
				return err
			}
			for _, p := range all {
				parts += fmt.Sprintf("%d %s %t;", p.Depth, p.Role, p.Here)
			}
			found, err := image.Checks(tx, ns, index)
			if err != nil {
				return err
			}
			for _, c := range found {
				checks += fmt.Sprintf("%s %t %t %d;", c.Platform, c.Complete, c.Unpacked, len(c.Absent))
			}
			usages, err = image.Usages(tx, ns)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return parts, checks, usages
	}
	parts, checks, usages := look()
	if want := "0 index true;1 manifest true;2 config true;2 layer true;1 manifest false;"; parts != want {
		t.Errorf("parts %q, want %q", parts, want)
	}
	if want := platforms.Format(platforms.Normalize(host())) + " true true 0;"; checks != want {
		t.Errorf("checks %q, want %q", checks, want)
	}
	// app:1 has all of app:2 and its index; other:1 shares nothing.
	if len(usages) != 3 || usages[0].Unique != index.Size || usages[1].Unique != 0 || usages[2].Unique != usages[2].Total() || usages[1].Total() >= usages[0].Total() {
		t.Errorf("usages %+v", usages)
	}

	layer := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(l.files[1].name, "blobs/sha256/"))
	if err := os.Remove(content.Path(d, layer)); err != nil {
		t.Fatal(err)
	}
	if parts, checks, _ := look(); !strings.Contains(parts, "2 config true;2 layer false;") || !strings.HasSuffix(checks, "false true 1;") {
		t.Errorf("without a layer: %q, %q", parts, checks)
	}
	if err := os.Remove(content.Path(d, mine.Digest)); err != nil {
		t.Fatal(err)
	}
	if parts, checks, _ := look(); parts != "0 index true;1 manifest false;1 manifest false;" || checks != "" {
		t.Errorf("without its manifest: %q, %q", parts, checks)
	}
}
