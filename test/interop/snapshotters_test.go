// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// newDaemon is a containerd without anything in it, whose configuration has more at its end.
func newDaemon(t *testing.T, more string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctrd-interop-")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-")
	d := &daemon{shim: shims[1], dir: dir, namespace: mark + "-" + name, more: more}
	t.Cleanup(func() { d.destroy(t) })
	d.start(t)
	return d
}

// borrower is a world whose snapshots are with a containerd.
type borrower struct {
	*world.World
	d    *daemon
	name string // of the snapshotter at containerd
}

// withBorrower runs a test with each of containerd's snapshotters that this kernel can do.
func withBorrower(t *testing.T, test func(t *testing.T, b *borrower)) {
	for _, name := range []string{"overlayfs", "native"} {
		t.Run(name, func(t *testing.T) {
			b := &borrower{World: world.New(t, bin), d: newDaemon(t, ""), name: name}
			b.configure(t, filepath.Join(b.d.dir, "sock"), filepath.Join(b.d.dir, "root"))
			test(t, b)
			if !t.Failed() {
				b.nothing(t)
			}
		})
	}
}

// configure says that the snapshotter theirs is at a socket.
func (b *borrower) configure(t *testing.T, socket, root string) {
	t.Helper()
	file := filepath.Join(b.Dir, "config.toml")
	text := fmt.Sprintf("[proxy_plugins.theirs]\ntype = \"snapshot\"\naddress = %q\nsnapshotter = %q\nexports = { root = %q }\n", socket, b.name, root)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Env = []string{"CTRD_CONFIG=" + file, "CTRD_SNAPSHOTTER=theirs"}
}

// theirs lists what containerd has for us.
func (b *borrower) theirs(t *testing.T) []string {
	t.Helper()
	was := b.d.namespace
	defer func() { b.d.namespace = was }()
	b.d.namespace = "ctrd"
	lines := strings.Split(strings.TrimSpace(b.d.must(t, "snapshots", "--snapshotter", b.name, "ls")), "\n")
	return lines[1:] // behind the header
}

// nothing wants no snapshot to be left with containerd when all is removed.
func (b *borrower) nothing(t *testing.T) {
	t.Helper()
	b.Whole(t)
	b.Empty(t)
	if left := b.theirs(t); len(left) > 0 {
		t.Errorf("left with containerd: %q", left)
	}
}

// TestTheirSnapshotters: images are pulled and containers run with snapshotters that containerd serves; each command sees
// what is in them.
func TestTheirSnapshotters(t *testing.T) {
	withBorrower(t, func(t *testing.T, b *borrower) {
		b.Must(t, "ctr-pull", registry+"/redis:7", busybox)
		if n := len(b.theirs(t)); n < 4 {
			t.Errorf("containerd has %d snapshots", n)
		}
		if out := b.Must(t, "ctr-task", "run", "--rm", registry+"/redis:7", "sh", "-c", "echo 1 > /tmp/x; cat /tmp/x; id -un"); out != "1\nredis\n" {
			t.Errorf("it prints %q", out)
		}
		// A second pull finds all of it, also in another namespace, which shares it.
		before := len(b.theirs(t))
		b.Must(t, "ctr-pull", registry+"/redis:7")
		b.Must(t, "ctr-pull", "-n", "other", registry+"/redis:7")
		if n := len(b.theirs(t)); n != before {
			t.Errorf("containerd has %d snapshots after a second pull, and had %d", n, before)
		}
		b.Must(t, "ctr-image", "rm", "-n", "other", registry+"/redis:7")
		b.Must(t, "ctr-task", "run", "-d", "--name", "c1", busybox, "sh", "-c", "echo new > /made; rm /bin/vi; exec sleep 1000")
		until(t, "the container has written", func() error {
			if r := b.Run(t, nil, "ctr-task", "exec", "c1", "cat", "/made"); r.Status != 0 || r.Stdout != "new\n" {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		b.Must(t, "ctr-task", "stop", "-t", "0", "c1")
		diff := b.Must(t, "ctr-snap", "diff", "c1")
		if !strings.Contains(diff, "/made") || !strings.Contains(diff, "/bin/vi") {
			t.Errorf("diff: %s", diff)
		}
		b.Must(t, "ctr-image", "commit", "c1", "made:1")
		if out := b.Must(t, "ctr-task", "run", "--rm", "made:1", "sh", "-c", "cat /made; ls /bin/vi 2>&1 || true"); !strings.HasPrefix(out, "new\nls: ") {
			t.Errorf("of the committed image: %q", out)
		}
		if r := b.Run(t, nil, "ctr-snap", "rm", "c1"); r.Status == 0 {
			t.Errorf("a snapshot in use is removed: %s", r)
		}
		b.Must(t, "ctr-task", "rm", "-f", "c1")
		// A place of one's own, mounted, changed, committed.
		at := filepath.Join(b.Dir, "mnt")
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		b.Must(t, "ctr-snap", "prepare", "mine", "--image", "made:1")
		b.Must(t, "ctr-snap", "mount", "mine", at)
		if err := os.WriteFile(filepath.Join(at, "hand"), []byte("made"), 0o644); err != nil {
			t.Error(err)
		}
		if r := b.Run(t, nil, "ctr-snap", "commit", "done", "mine"); r.Status == 0 || !strings.Contains(r.Stderr, at) {
			t.Errorf("one that is mounted is committed: %s", r)
		}
		b.Must(t, "ctr-snap", "unmount", at)
		b.Must(t, "ctr-snap", "commit", "done", "mine")
		b.Must(t, "ctr-snap", "view", "look", "done")
		b.Must(t, "ctr-snap", "mount", "look", at)
		if data, err := os.ReadFile(filepath.Join(at, "hand")); err != nil || string(data) != "made" {
			t.Errorf("%q %v", data, err)
		}
		if err := os.WriteFile(filepath.Join(at, "more"), nil, 0o644); err == nil {
			t.Error("a view is written")
		}
		b.Must(t, "ctr-snap", "unmount", at)
		b.Must(t, "ctr-snap", "rm", "look", "done")
		b.Must(t, "ctr-image", "mount", "made:1", at)
		b.Must(t, "ctr-image", "unmount", at)
	})
}

// TestTheirSnapshottersGone: a server that is killed in mid-unpack is a clear error, what it has made is not lost, and when it is
// back the same command succeeds. Without it, what has nothing to do with it goes on.
func TestTheirSnapshottersGone(t *testing.T) {
	withBorrower(t, func(t *testing.T, b *borrower) {
		b.Must(t, "ctr-pull", "--snapshotter", "overlayfs", busybox)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		pull := b.Command(ctx, nil, "ctr-pull", registry+"/redis:7")
		var errs bytes.Buffer
		pull.Stderr = &errs
		if err := pull.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "it unpacks", func() error { // the first snapshot that the server has
			dirs, err := filepath.Glob(filepath.Join(b.d.dir, "root/io.containerd.snapshotter.v1."+b.name+"/snapshots/*/*"))
			if err == nil && len(dirs) == 0 {
				err = fmt.Errorf("nothing is there")
			}
			return err
		})
		b.d.kill()
		err := pull.Wait()
		t.Logf("%v: %s", err, errs.String())
		if text := errs.String(); err == nil || !strings.Contains(text, "snapshotter theirs") || !strings.Contains(text, filepath.Join(b.d.dir, "sock")) {
			t.Errorf("it says %q, %v", text, err)
		}
		if r := b.Run(t, nil, "ctr-task", "run", "--rm", "--pull", "never", registry+"/redis:7", "true"); r.Status == 0 {
			t.Errorf("%s", r)
		}
		b.Must(t, "ctr-task", "run", "--rm", "--snapshotter", "overlayfs", busybox, "true")
		b.Must(t, "ctrd", "gc") // leaves what it cannot ask for
		b.d.start(t)
		// A containerd that was killed between a rename and its record refuses until its own collection, shortly after its start.
		until(t, "containerd makes snapshots again", func() error {
			if r := b.Run(t, nil, "ctr-pull", registry+"/redis:7"); r.Status != 0 {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		b.Must(t, "ctr-task", "run", "--rm", registry+"/redis:7", "true")
		b.Must(t, "ctr-task", "create", "--name", "c1", registry+"/redis:7")
		b.Must(t, "ctr-task", "run", "-d", "--name", "runs", registry+"/redis:7", "sleep", "1000")
		b.d.kill()
		if out := b.Must(t, "ctr-task", "exec", "-u", "redis", "runs", "id", "-un"); out != "redis\n" {
			t.Errorf("an exec without the server: %q", out)
		}
		b.Must(t, "ctr-task", "rm", "-f", "runs")
		if out := b.Must(t, "ctrd", "gc"); out != "" {
			t.Errorf("a collection without the server says that it has removed %s", out)
		}
		if r := b.Run(t, nil, "ctrd", "fsck"); r.Status == 0 || r.Status == 8 || !strings.Contains(r.Stderr, "theirs") {
			t.Errorf("fsck without the server: %s", r)
		}
		r := b.Run(t, nil, "ctr-task", "start", "c1")
		if r.Status == 0 || !strings.Contains(r.Stderr, "hint: is its server running") {
			t.Errorf("start without the server: %s", r)
		}
		// A removal is done; what the server has goes with the next collection.
		b.Must(t, "ctr-task", "rm", "-f", "c1")
		b.d.start(t)
		b.Must(t, "ctrd", "gc")
		for _, s := range b.theirs(t) {
			if strings.Contains(s, "Active") {
				t.Errorf("left with containerd: %s", s)
			}
		}
	})
}

// TestTheirSnapshottersLost: snapshots that a server has lost are told by fsck and made again by a pull.
func TestTheirSnapshottersLost(t *testing.T) {
	b := &borrower{World: world.New(t, bin), d: newDaemon(t, ""), name: "overlayfs"}
	b.configure(t, filepath.Join(b.d.dir, "sock"), filepath.Join(b.d.dir, "root"))
	b.Must(t, "ctr-pull", registry+"/redis:7")
	for _, s := range b.theirs(t) {
		if key := strings.Fields(s)[0]; strings.HasSuffix(key, "-view") {
			b.remove(t, key)
		}
	}
	for len(b.theirs(t)) > 0 {
		for _, s := range b.theirs(t) {
			b.remove(t, strings.Fields(s)[0])
		}
	}
	if r := b.Run(t, nil, "ctrd", "fsck"); r.Status != 8 {
		t.Errorf("fsck of lost snapshots: %s", r)
	}
	b.Must(t, "ctr-pull", registry+"/redis:7")
	b.Must(t, "ctr-task", "run", "--rm", registry+"/redis:7", "true")
	b.nothing(t)
}

// remove removes a snapshot of ours behind our back; one that others stand on stays.
func (b *borrower) remove(t *testing.T, key string) {
	was := b.d.namespace
	defer func() { b.d.namespace = was }()
	b.d.namespace = "ctrd"
	b.d.ctr(t, "snapshots", "--snapshotter", b.name, "rm", key)
}

// TestTheirSnapshottersNative: ctrd serve and ctr-cri use the same, and containerd's client finds it by introspection.
func TestTheirSnapshottersServed(t *testing.T) {
	d := newDaemon(t, "")
	config := fmt.Sprintf("snapshotter = \"theirs\"\n[proxy_plugins.theirs]\ntype = \"snapshot\"\naddress = %q\nsnapshotter = \"overlayfs\"\n", filepath.Join(d.dir, "sock"))
	n := withConfig(t, config)
	n.Env = []string{"CTRD_CONFIG=" + n.config}
	ctr := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := (&daemon{dir: filepath.Dir(n.socket()), namespace: "default"}).command(ctx, args...)
		cmd.Args[2] = n.socket()
		r := finish(t, ctx, cmd)
		if r.status != 0 {
			t.Fatal(r)
		}
		return r.stdout
	}
	if out := ctr("plugins", "ls"); !regexp.MustCompile(`snapshotter\.v1\s+theirs\s`).MatchString(out) {
		t.Errorf("plugins: %s", out)
	}
	ctr("images", "pull", "--plain-http", "--snapshotter", "theirs", busybox)
	if out := ctr("run", "--rm", "--snapshotter", "theirs", busybox, "c1", "echo", "hello"); out != "hello\n" {
		t.Errorf("it prints %q", out)
	}
	ctr("images", "rm", "--sync", busybox)
	n.Must(t, "ctr-cri", "pull", busybox)
	if out := n.Must(t, "ctr-snap", "-n", "k8s.io", "--snapshotter", "theirs", "ls", "-q"); !strings.HasPrefix(out, "sha256:") {
		t.Errorf("the CRI's image is not with it: %q", out)
	}
	n.Must(t, "ctr-cri", "rmi", busybox)
}

// TestOurSnapshotters: a containerd that has ours as its proxy plugins pulls and runs with them, and ctrd's collections leave
// them alone.
func TestOurSnapshotters(t *testing.T) {
	for _, name := range []string{"overlayfs", "native", "erofs"} {
		t.Run(name, func(t *testing.T) {
			n := withNative(t)
			d := newDaemon(t, fmt.Sprintf("[proxy_plugins.ctrd-%s]\n  type = \"snapshot\"\n  address = %q\n", name, n.socket()))
			sn := "ctrd-" + name
			d.must(t, "images", "pull", "--local", "--plain-http", "--snapshotter", sn, registry+"/redis:7")
			n.Must(t, "ctrd", "gc")
			if out := d.must(t, "run", "--rm", "--snapshotter", sn, registry+"/redis:7", "c1", "sh", "-c", "echo 1 > /tmp/x; cat /tmp/x; ls -d /data"); out != "1\n/data\n" {
				t.Errorf("it prints %q", out)
			}
			n.end(t, syscall.SIGKILL)
			n.start(t)
			if out := d.must(t, "run", "--rm", "--snapshotter", sn, registry+"/redis:7", "c2", "echo", "again"); out != "again\n" {
				t.Errorf("it prints %q", out)
			}
			d.must(t, "images", "rm", "--sync", registry+"/redis:7")
			begin := time.Now()
			for left := "some"; left != ""; {
				left = n.Must(t, "ctr-snap", "-n", "containerd", "--snapshotter", name, "ls", "-q")
				if time.Since(begin) > patience {
					t.Fatalf("left with ctrd: %s", left)
				}
			}
			n.Whole(t)
		})
	}
}
