// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"os/exec"
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

// podman runs podman with a storage of its own, below dir, and with the runc of the peers: the engine that it has may not
// know the cgroups of this machine. It gives the output.
func podman(t *testing.T, dir string, args ...string) string {
	t.Helper()
	all := append([]string{
		"--root", filepath.Join(dir, "podman"), "--runroot", filepath.Join(dir, "podman-run"), "--storage-driver", "vfs",
		"--cgroup-manager", "cgroupfs", "--runtime", filepath.Join(peers, "runc"),
	}, args...)
	cmd := exec.Command("podman", all...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("podman %q: %v\n%s", args, err, errs.String())
	}
	return string(out)
}

// TestPodmanRuns: what was committed here and pushed, podman pulls with the same digest and runs.
func TestPodmanRuns(t *testing.T) {
	if _, err := exec.LookPath("podman"); err != nil {
		t.Skip("podman is not installed")
	}
	w := world.New(t, bin)
	w.Must(t, "ctr-pull", "-q", busybox)
	w.Must(t, "ctr-task", "run", "--name", "c", busybox, "sh", "-c", "echo made >/etc/made; rm /bin/sleep; mkdir /d; ln /etc/made /d/also; chmod 4711 /d/also; chown 5:6 /d")
	made := strings.Replace(busybox, "busybox:1", "podman:1", 1)
	committed := strings.TrimSpace(w.Must(t, "ctr-image", "commit", "--change", `CMD ["cat", "/etc/made"]`, "c", made))
	w.Must(t, "ctr-task", "rm", "c")
	if got := strings.TrimSpace(w.Must(t, "ctr-push", "-q", made)); got != committed {
		t.Errorf("pushed %q, committed %q", got, committed)
	}
	podman(t, w.Dir, "pull", "-q", "--tls-verify=false", made)
	if got := podman(t, w.Dir, "image", "inspect", "--format", "{{.Digest}}", made); !strings.HasSuffix(committed, "@"+strings.TrimSpace(got)) {
		t.Errorf("podman has %q, committed %q", got, committed)
	}
	// Limits that are no higher than those here, which a test may not raise.
	run := []string{"run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", made}
	if got := podman(t, w.Dir, run...); got != "made\n" {
		t.Errorf("podman runs it, and it prints %q", got)
	}
	script := "test ! -e /bin/sleep; echo $?; stat -c '%a %h' /d/also; stat -c %u:%g /d"
	if got := podman(t, w.Dir, append(run, "sh", "-c", script)...); got != "0\n4711 2\n5:6\n" {
		t.Errorf("podman shows %q of what was changed", got)
	}
	podman(t, w.Dir, "rmi", "-fa")
	w.Must(t, "ctrd", "fsck", "--deep")
}
