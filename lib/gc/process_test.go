// SPDX-License-Identifier: Apache-2.0

package gc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/fsck"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// TestMain makes this binary the other process: CTRD_TEST_DIR is its state directory, its first argument
// what it does.
func TestMain(m *testing.M) {
	dir := os.Getenv("CTRD_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	d, err := open(dir)
	check(err)
	switch os.Args[1] {
	case "collect":
		_, err := gc.Collect(ctx, d)
		check(err)
	case "collect until told":
		told := make(chan struct{})
		go func() {
			io.Copy(io.Discard, os.Stdin)
			close(told)
		}()
		for removed := 0; ; {
			select {
			case <-told:
				fmt.Println(removed)
				os.Exit(0)
			default:
			}
			r, err := gc.Collect(ctx, d)
			check(err)
			removed += r.Files
		}
	case "die after records":
		// What a collection commits, without what comes after.
		check(d.Update(ctx, nil, func(tx *state.Tx) error {
			for _, data := range os.Args[2:] {
				if err := content.Remove(tx, "default", digest.FromString(data)); err != nil {
					return err
				}
				if _, err := snapshot.Overlay.Remove(tx, "default", data); err != nil {
					return err
				}
			}
			return nil
		}))
		check(syscall.Kill(os.Getpid(), syscall.SIGKILL))
	case "pull":
		c := &creator{d: d, ns: os.Args[2], who: os.Args[3]}
		for i := range 60 {
			c.pull(i)
		}
	case "run":
		c := &creator{d: d, ns: os.Args[2], who: os.Args[3]}
		n := 0
		for i, began := 0, time.Now(); n < 30 && time.Since(began) < time.Minute; i++ {
			if c.start(i) {
				n++
			}
		}
		fmt.Println(n)
	}
	os.Exit(0)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type process struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out, errs bytes.Buffer
}

func (w *world) start(env string, args ...string) *process {
	w.Helper()
	p := &process{cmd: exec.Command("/proc/self/exe", args...)}
	p.cmd.Env = append(os.Environ(), "CTRD_TEST_DIR="+w.dir, env)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	in, err := p.cmd.StdinPipe()
	w.must(err)
	p.in = in
	w.must(p.cmd.Start())
	w.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

// killed waits for the end of a process that kills itself.
func (w *world) killed(p *process) {
	w.Helper()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		w.Fatalf("process: %v: %s", err, p.errs.Bytes())
	}
}

// creator does what a pull and a start do, in the order in which they do it.
type creator struct {
	d       *state.Dir
	ns, who string
}

type part struct {
	desc   ocispec.Descriptor
	data   []byte
	labels map[string]string
}

func blobPart(mediaType string, data []byte, refs ...string) part {
	return part{ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data, labels(refs...)}
}

// compose makes an image of one of few bases and one of few tops, so that processes often make the same.
func compose() (parts []part, keys []string) {
	base := fmt.Sprintf("base %d", rand.IntN(2))
	top := fmt.Sprintf("top %d", rand.IntN(4))
	keys = []string{base, base + "+" + top}
	layers := []part{blobPart(ocispec.MediaTypeImageLayer, []byte(base)), blobPart(ocispec.MediaTypeImageLayer, []byte(top))}
	config := blobPart(ocispec.MediaTypeImageConfig, []byte("config of "+keys[1]), "containerd.io/gc.ref.snapshot.overlayfs", keys[1])
	m := ocispec.Manifest{Versioned: specsVersion, MediaType: ocispec.MediaTypeImageManifest, Config: config.desc,
		Layers: []ocispec.Descriptor{layers[0].desc, layers[1].desc}}
	data, err := json.Marshal(m)
	check(err)
	manifest := blobPart(m.MediaType, data, "containerd.io/gc.ref.content.config", config.desc.Digest.String(),
		"containerd.io/gc.ref.content.l.0", layers[0].desc.Digest.String(), "containerd.io/gc.ref.content.l.1", layers[1].desc.Digest.String())
	return append([]part{manifest, config}, layers...), keys
}

func (c *creator) pull(i int) {
	parts, keys := compose()
	l, err := lease.Take(c.d)
	check(err)
	for _, p := range parts {
		check(l.Hold(ctx, nil, lease.Content, p.desc.Digest.String()))
	}
	for _, key := range keys {
		check(l.Hold(ctx, nil, lease.Snapshot, string(id(key)), c.ns+"/"+key))
	}
	for _, p := range parts {
		in, err := content.Begin(ctx, c.d, nil, p.desc)
		check(err)
		if !in.Complete() {
			_, err := in.WriteAt(p.data, 0)
			check(err)
			check(in.Commit())
		}
		check(in.Close())
	}
	for _, key := range keys {
		c.unpack(key)
	}
	name := fmt.Sprintf("%s-%d", c.who, i%3)
	check(c.d.Update(ctx, nil, func(tx *state.Tx) error {
		for _, p := range parts {
			if err := content.Merge(tx, c.ns, content.Blob{Digest: p.desc.Digest, Size: p.desc.Size, Labels: p.labels}); err != nil {
				return err
			}
		}
		parent := ""
		for _, key := range keys {
			if err := snapshot.Overlay.PutLayer(tx, c.ns, snapshot.Info{Key: key, ID: id(key), Parent: parent}); err != nil {
				return err
			}
			parent = key
		}
		return image.Put(tx, c.ns, image.Image{Name: name, Target: parts[0].desc})
	}))
	check(l.Release())
	// From here on the name alone keeps it all.
	for _, p := range parts {
		_, err := content.ReadAll(c.d, p.desc, 1<<20)
		check(err)
	}
	c.there(keys[1])
	if i%3 != 0 {
		check(c.d.Update(ctx, nil, func(tx *state.Tx) error { return image.Remove(tx, c.ns, name) }))
	}
}

func (c *creator) unpack(key string) {
	l, err := c.d.Lock(ctx, nil, lock.Snapshot, key, lock.Exclusive)
	check(err)
	if _, err := os.Stat(filepath.Join(snapshot.Overlay.FS(c.d, id(key)), "file")); err != nil {
		check(snapshot.Overlay.Stage(ctx, c.d, id(key), ""))
		check(os.WriteFile(filepath.Join(snapshot.Overlay.FS(c.d, id(key)), "file"), []byte(key), 0o600))
	}
	check(l.Release())
}

// there checks that a snapshot stands with all its directories and what is in them.
func (c *creator) there(key string) {
	check(c.d.View(ctx, func(tx *state.Tx) error {
		chain, err := snapshot.Overlay.Chain(tx, c.ns, key)
		if err != nil {
			return err
		}
		for _, s := range chain {
			path := snapshot.Overlay.FS(c.d, s.ID)
			if s.Kind == snapshot.Committed {
				path = filepath.Join(path, "file")
			}
			if _, err := os.Stat(path); err != nil {
				return fmt.Errorf("%s lost its file: %w", s.Key, err)
			}
		}
		return nil
	}))
}

// start makes a transient container on whatever layer is there, and removes it. It reports false when
// there was none.
func (c *creator) start(i int) bool {
	_, keys := compose()
	parent := keys[1]
	l, err := lease.Take(c.d)
	check(err)
	defer func() { check(l.Release()) }()
	check(l.Hold(ctx, nil, lease.Snapshot, c.ns+"/"+parent))
	err = c.d.View(ctx, func(tx *state.Tx) error {
		_, err := snapshot.Overlay.Get(tx, c.ns, parent)
		return err
	})
	if errdefs.IsNotFound(err) {
		return false
	}
	check(err)
	own := snapshot.NewID()
	check(l.Hold(ctx, nil, lease.Snapshot, string(own)))
	check(snapshot.Overlay.Stage(ctx, c.d, own, ""))
	name := fmt.Sprintf("%s-%d", c.who, i)
	at, err := c.d.Lock(ctx, nil, lock.Container, c.ns+"/"+name, lock.Exclusive)
	check(err)
	defer func() { check(at.Release()) }()
	check(c.d.UpdateRun(ctx, at, func(tx *state.Tx) error {
		if _, err := snapshot.Overlay.Prepare(tx, c.ns, name, parent, own, nil); err != nil {
			return err
		}
		_, err := container.Create(tx, c.ns, container.Container{ID: name, SnapshotKey: name}, &specs.Spec{})
		return err
	}))
	check(l.Release())
	c.there(name)
	l, err = lease.Take(c.d) // for the deferred release
	check(err)
	if i%10 != 0 {
		check(c.d.UpdateRun(ctx, at, func(tx *state.Tx) error {
			if _, err := snapshot.Overlay.Remove(tx, c.ns, name); err != nil {
				return err
			}
			return container.Remove(tx, c.ns, name)
		}))
	}
	return true
}

// Processes pull, start and remove in two namespaces while others collect all the time: nothing that was
// recorded loses its file. In the end all is whole, and a last collection leaves nothing over.
func TestCollectBesideCreators(t *testing.T) {
	w := fresh(t)
	var creators, collectors []*process
	for _, ns := range []string{"default", "other"} {
		for n := range 2 {
			creators = append(creators, w.start("", "pull", ns, fmt.Sprint("p", n)))
		}
		creators = append(creators, w.start("", "run", ns, "r"))
	}
	for range 2 {
		collectors = append(collectors, w.start("", "collect until told"))
	}
	started := 0
	for _, p := range creators {
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v: %v: %s", p.cmd.Args[1:], err, p.errs.Bytes())
		}
		var n int
		fmt.Sscan(p.out.String(), &n)
		started += n
	}
	removed := 0
	for _, p := range collectors {
		p.in.Close()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("collector: %v: %s", err, p.errs.Bytes())
		}
		var n int
		fmt.Sscan(p.out.String(), &n)
		removed += n
	}
	if started == 0 || removed < 20 {
		t.Errorf("%d containers were started, %d files collected: nothing was tried", started, removed)
	}
	found, err := fsck.Check(ctx, w.d, fsck.Options{Deep: true})
	w.must(err)
	if err := fsck.Whole(found); err != nil {
		t.Errorf("%v: %+v", err, found)
	}
	w.collect()
	w.whole()
}

// P was killed between its commit and the removal of files; Q's collection finds them.
func TestKilledAfterCommit(t *testing.T) {
	w := fresh(t)
	for _, name := range []string{"gone", "stays"} {
		w.layer("default", name, "", "containerd.io/gc.root", "")
		w.blob("default", name, "containerd.io/gc.root", "")
	}
	w.killed(w.start("", "die after records", "gone"))
	if w.blobs("default") != "stays" || w.files() != "gone stays" || w.keys("default") != "stays" || w.dirs() != "gone stays" {
		t.Fatalf("P left blobs %s, files %s, snapshots %s, directories %s", w.blobs("default"), w.files(), w.keys("default"), w.dirs())
	}
	if r := w.collect(); r.Blobs != 0 || r.Snapshots != 0 || r.Files != 2 {
		t.Errorf("Q removed %+v", r)
	}
	w.want("stays", "stays")
}
