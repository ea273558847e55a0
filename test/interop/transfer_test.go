// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/archive"
	"github.com/containerd/containerd/v2/core/transfer/image"
	remote "github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// ctr runs containerd's client on the socket of ctrd.
func (n *native) ctr(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := finish(t, ctx, exec.CommandContext(ctx, filepath.Join(peers, "ctr"), append([]string{"--address", n.socket()}, args...)...))
	if r.status != 0 {
		t.Fatalf("%s", r)
	}
	return r.stdout
}

// TestNativeTransfer: an image goes from a registry into the store, to another registry, out to an archive and in again, and
// is what it was.
func TestNativeTransfer(t *testing.T) {
	n := withNative(t)
	ctx := in("default")
	var mu sync.Mutex
	events := map[string]bool{}
	told := transfer.WithProgress(func(p transfer.Progress) {
		mu.Lock()
		defer mu.Unlock()
		events[p.Event] = true
	})
	plain := remote.WithDefaultScheme("http")
	from, err := remote.NewOCIRegistry(ctx, busybox, plain)
	if err != nil {
		t.Fatal(err)
	}
	to := image.NewStore("mine/busybox:1", image.WithUnpack(platforms.DefaultSpec(), "overlayfs"), image.WithImageLabels(map[string]string{"a": "b"}))
	if err := n.client.Transfer(ctx, from, to, told); err != nil {
		t.Fatal(err)
	}
	pulled, err := n.client.ImageService().Get(ctx, "mine/busybox:1")
	if err != nil || pulled.Labels["a"] != "b" {
		t.Fatalf("%+v, %v", pulled, err)
	}
	if out := n.Must(t, "ctr-task", "run", "--rm", "mine/busybox:1", "echo", "runs"); out != "runs\n" {
		t.Errorf("it prints %q", out)
	}
	for _, want := range []string{"downloading", "complete", "saved"} {
		if !events[want] {
			t.Errorf("no progress %q in %v", want, events)
		}
	}

	there, err := remote.NewOCIRegistry(ctx, strings.Replace(busybox, "busybox", "pushed/"+strings.ToLower(mark), 1), plain)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.client.Transfer(ctx, image.NewStore("mine/busybox:1"), there, told); err != nil {
		t.Fatal(err)
	}
	if err := n.client.Transfer(ctx, image.NewStore("mine/busybox:1"), image.NewStore("other:1")); err != nil {
		t.Errorf("tag: %v", err)
	}

	tar := newSink()
	out := archive.NewImageExportStream(tar, "")
	if err := n.client.Transfer(ctx, image.NewStore("mine/busybox:1"), out); err != nil {
		t.Fatal(err)
	}
	elsewhere := in("elsewhere")
	in := archive.NewImageImportStream(bytes.NewReader(tar.got(t)), "")
	if err := n.client.Transfer(elsewhere, in, image.NewStore("", image.WithNamedPrefix("imported", true), image.WithUnpack(platforms.DefaultSpec(), "overlayfs"))); err != nil {
		t.Fatal(err)
	}
	all, err := n.client.ImageService().List(elsewhere)
	if err != nil || len(all) != 1 || all[0].Target.Digest != pulled.Target.Digest {
		t.Errorf("imported: %+v, %v", all, err)
	}
	missing := image.NewStore("none:1")
	if err := n.client.Transfer(ctx, missing, there); !errdefs.IsNotFound(err) {
		t.Errorf("push of none: %v", err)
	}
}

// sink is where a client writes what it is sent; it goes on with that after Transfer has returned.
type sink struct {
	bytes.Buffer
	whole chan struct{}
}

func newSink() *sink { return &sink{whole: make(chan struct{})} }

func (s *sink) Close() error {
	close(s.whole)
	return nil
}

// got waits for the end of what is sent.
func (s *sink) got(t *testing.T) []byte {
	t.Helper()
	select {
	case <-s.whole:
	case <-time.After(patience):
		t.Fatal("the stream does not end")
	}
	return s.Bytes()
}

// TestNativeEcho: bytes that a client sends come back as they were.
func TestNativeEcho(t *testing.T) {
	n := withNative(t)
	for _, size := range []int{0, 1, 32 << 10, 64<<10 + 1, 1 << 20} {
		sent := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
		back := newSink()
		err := n.client.Transfer(in("default"), archive.NewImageImportStream(bytes.NewReader(sent), "application/octet-stream"),
			archive.NewImageExportStream(back, "application/octet-stream"))
		if err != nil {
			t.Fatal(err)
		}
		if got := back.got(t); !bytes.Equal(got, sent) {
			t.Errorf("%d bytes: %d came back", size, len(got))
		}
	}
}

// slowSink takes its time for each write.
type slowSink struct {
	had atomic.Int64
}

func (s *slowSink) Write(p []byte) (int, error) {
	time.Sleep(200 * time.Millisecond)
	s.had.Add(int64(len(p)))
	return len(p), nil
}

func (s *slowSink) Close() error { return nil }

// TestNativeSlowExport: a client that ends with the answer of its transfer, as ctr does, has had what it asked for, but at most a
// window, and what it is writing at that moment.
func TestNativeSlowExport(t *testing.T) {
	n := withNative(t)
	sent := bytes.Repeat([]byte("x"), 320<<10)
	sink := &slowSink{}
	if err := n.client.Transfer(in("default"), archive.NewImageImportStream(bytes.NewReader(sent), "application/octet-stream"),
		archive.NewImageExportStream(sink, "application/octet-stream")); err != nil {
		t.Fatal(err)
	}
	if had := sink.had.Load(); had < int64(len(sent)-96<<10) {
		t.Errorf("echo: %d bytes of %d when the transfer was answered", had, len(sent))
	}
}

// TestNativeImportHeard: a client that asks about each image that it is told was saved, as slowly as it likes, and forgets with the answer of
// the transfer what it has not come to, as nerdctl load does, forgets nothing.
func TestNativeImportHeard(t *testing.T) {
	n := withNative(t)
	ctx := in("default")
	n.Must(t, "ctr-pull", busybox)
	var names []image.StoreOpt
	for i := range 20 {
		name := fmt.Sprintf("example.com/heard:%d", i)
		n.Must(t, "ctr-image", "tag", busybox, name)
		names = append(names, image.WithExtraReference(name))
	}
	tar := newSink()
	if err := n.client.Transfer(ctx, image.NewStore("", names...), archive.NewImageExportStream(tar, "")); err != nil {
		t.Fatal(err)
	}
	data := tar.got(t)
	for _, unpack := range [][]image.StoreOpt{nil, {image.WithUnpack(platforms.DefaultSpec(), "overlayfs")}} {
		told, answered, ended := make(chan transfer.Progress, 5), make(chan struct{}), make(chan struct{})
		asked := 0
		go func() {
			defer close(ended)
			for {
				select {
				case p := <-told:
					if p.Event != "saved" {
						continue
					}
					for range 5 { // turns, of which a machine that is busy gives fewer to everybody
						time.Sleep(time.Millisecond)
					}
					if _, err := n.client.ImageService().Get(ctx, p.Name); err != nil {
						t.Error(err)
					}
					asked++
				case <-answered:
					return
				}
			}
		}()
		err := n.client.Transfer(ctx, archive.NewImageImportStream(bytes.NewReader(data), ""),
			image.NewStore("", append(unpack, image.WithNamedPrefix("imported", true))...),
			transfer.WithProgress(func(p transfer.Progress) {
				select {
				case told <- p:
				case <-answered:
				}
			}))
		close(answered)
		<-ended
		if err != nil || asked != len(names) {
			t.Errorf("the client asked about %d images of %d, %v", asked, len(names), err)
		}
	}
}

// TestNativeCtr: containerd's command line does its work with images.
func TestNativeCtr(t *testing.T) {
	n := withNative(t)
	n.ctr(t, "images", "pull", "--plain-http", busybox)
	if out := n.ctr(t, "images", "ls", "-q"); out != busybox+"\n" {
		t.Errorf("images ls: %q", out)
	}
	if out := n.ctr(t, "images", "check"); !strings.Contains(out, "complete") {
		t.Errorf("images check: %s", out)
	}
	tar := filepath.Join(t.TempDir(), "x.tar")
	n.ctr(t, "images", "export", "--local", tar, busybox)
	if st, err := os.Stat(tar); err != nil || st.Size() == 0 {
		t.Errorf("export: %v, %v", st, err)
	}
	n.ctr(t, "images", "rm", "--sync", busybox)
	if out := n.ctr(t, "content", "ls", "-q"); out != "" {
		t.Errorf("content after rm: %s", out)
	}
	n.ctr(t, "images", "import", tar)
	n.ctr(t, "images", "tag", busybox, "t:1")
	n.ctr(t, "images", "label", busybox, "k=v")
	if out := n.ctr(t, "images", "ls", "labels.k==v"); !strings.Contains(out, busybox) {
		t.Errorf("ls with a filter: %s", out)
	}
	n.ctr(t, "images", "push", "--plain-http", strings.Replace(busybox, "busybox", "ctr/"+strings.ToLower(mark), 1), busybox)
	n.ctr(t, "namespaces", "ls")
	n.ctr(t, "info")
}
