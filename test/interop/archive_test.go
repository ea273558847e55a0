// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"path/filepath"
	"strings"
	"testing"

	"ctrd.dev/ctrd/test/world"
)

// digestOf gives the digest that containerd has for an image.
func (d *daemon) digestOf(t *testing.T, image string) string {
	t.Helper()
	for line := range strings.Lines(d.must(t, "images", "ls")) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == image {
			return f[2]
		}
	}
	t.Fatalf("containerd has no image %s", image)
	return ""
}

// TestArchives: what containerd exports is imported here, and the other way round, with the same digest. What was
// committed here runs there.
func TestArchives(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		w := world.New(t, bin)
		theirs, ours := filepath.Join(w.Dir, "theirs.tar"), filepath.Join(w.Dir, "ours.tar")
		d.must(t, "images", "export", "--local", theirs, busybox)
		want := busybox + "@" + d.digestOf(t, busybox) + "\n"
		if got := w.Must(t, "ctr-image", "import", theirs); got != want {
			t.Errorf("imported %q, want %q", got, want)
		}
		if got := w.Must(t, "ctr-task", "run", "--rm", busybox, "echo", "works"); got != "works\n" {
			t.Errorf("it prints %q", got)
		}

		w.Must(t, "ctr-task", "run", "--name", "c", busybox, "sh", "-c", "echo made >/etc/made; rm /bin/sleep")
		made := strings.Replace(busybox, "busybox:1", "made:1", 1)
		committed := w.Must(t, "ctr-image", "commit", "--change", "CMD [\"cat\", \"/etc/made\"]", "c", made)
		w.Must(t, "ctr-task", "rm", "c")
		multi := registry + "/multi:1"
		w.Must(t, "ctr-pull", "-q", multi)
		w.Must(t, "ctr-image", "export", "-o", ours, made, busybox, multi)
		d.must(t, "images", "import", ours)
		for _, image := range []string{made, busybox, multi} {
			if got, want := image+"@"+d.digestOf(t, image)+"\n", w.Must(t, "ctr-image", "ls", "--filter", "name=="+image, "--format", "{{.name}}@{{.target.digest}}"); got != want {
				t.Errorf("containerd has %q, and %q is here", got, want)
			}
		}
		if !strings.Contains(committed, d.digestOf(t, made)) {
			t.Errorf("committed %q", committed)
		}
		if got := d.must(t, "run", "--rm", "--runtime", d.runtime, made, d.namespace+"-c"); got != "made\n" {
			t.Errorf("containerd runs what was committed, and it prints %q", got)
		}

		// By way of a registry it is the same.
		d.must(t, "images", "rm", "--sync", made)
		w.Must(t, "ctr-push", "-q", made)
		d.must(t, "images", "pull", "--plain-http", made)
		if !strings.Contains(committed, d.digestOf(t, made)) {
			t.Errorf("pulled it is %s, and committed %q", d.digestOf(t, made), committed)
		}
		if got := d.must(t, "run", "--rm", "--runtime", d.runtime, made, d.namespace+"-d"); got != "made\n" {
			t.Errorf("containerd runs what was pushed, and it prints %q", got)
		}
		w.Must(t, "ctrd", "fsck", "--deep")
	})
}
