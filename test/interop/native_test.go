// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsuite "github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"ctrd.dev/ctrd/test/world"
)

// native is a world that ctrd serves.
type native struct {
	*world.World
	config string // path of its configuration
	client *containerd.Client
	cmd    *exec.Cmd
	log    output
	peers  bool   // containerd's shim is on its PATH
	after  func() // set by a test that looks at what is left when the server has ended
}

func (n *native) socket() string { return filepath.Join(n.State, "ctrd.sock") }

// withNative makes a world with a server and a client of it.
func withNative(t *testing.T) *native { return withConfig(t, "") }

// withConfig is withNative with the text of a configuration.
func withConfig(t *testing.T, config string) *native { t.Helper(); return withRoot(t, config, "") }

// withRoot is withConfig with a root that lies elsewhere.
func withRoot(t *testing.T, config, root string) *native {
	t.Helper()
	n := &native{World: world.New(t, bin)}
	n.Root = cmp.Or(root, n.Root)
	n.config = filepath.Join(n.Dir, "config.toml")
	if err := os.WriteFile(n.config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	t.Cleanup(func() {
		n.client.Close()
		n.end(t, syscall.SIGTERM)
		if n.after != nil {
			n.after()
		}
		if t.Failed() {
			t.Logf("ctrd: %s", n.log.String())
		}
	})
	return n
}

func (n *native) start(t *testing.T) {
	t.Helper()
	// Without containerd's shim on its PATH it runs containers with ours.
	path := bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if n.peers {
		path += ":" + peers
	}
	if criu := os.Getenv("CTRD_CRIU"); criu != "" {
		path += ":" + filepath.Dir(criu) // where containerd's shim looks for it
	}
	env := []string{"PATH=" + path}
	n.cmd = n.Command(context.Background(), env, "ctrd", "serve", "--config", n.config, "--log-level", "debug")
	n.cmd.Stderr = &n.log
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "ctrd answers", func() (err error) {
		if n.client == nil {
			n.client, err = containerd.New(n.socket(), containerd.WithTimeout(time.Second))
		}
		if err != nil {
			return err
		}
		ok, err := n.client.IsServing(t.Context())
		if err == nil && !ok {
			err = errors.New("it does not serve")
		}
		return err
	})
}

// end ends the server and wants it to go in time.
func (n *native) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	n.cmd.Process.Signal(sig)
	ended := make(chan error, 1)
	go func() { ended <- n.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil && sig != syscall.SIGKILL {
			t.Errorf("ctrd serve: %v", err)
		}
	case <-time.After(patience):
		n.cmd.Process.Kill()
		<-ended
		t.Error("ctrd serve does not end")
	}
}

func in(ns string) context.Context { return namespaces.WithNamespace(context.Background(), ns) }

// TestNativeContent runs containerd's own suite of content stores on the socket.
func TestNativeContent(t *testing.T) {
	n := withNative(t)
	made := 0
	wrap := func(ctx context.Context, _ bool) (context.Context, func(context.Context) error, error) {
		made++
		return namespaces.WithNamespace(ctx, fmt.Sprint("suite", made)), func(context.Context) error { return nil }, nil
	}
	open := func(ctx context.Context, _ string) (context.Context, content.Store, func() error, error) {
		return testsuite.SetContextWrapper(ctx, wrap), n.client.ContentStore(), func() error { return nil }, nil
	}
	testsuite.ContentSuite(t, "ctrd", open)
	testsuite.ContentCrossNSSharedSuite(t, "ctrd", open)
}

func TestNativeImages(t *testing.T) {
	n := withNative(t)
	n.Must(t, "ctr-pull", "-q", busybox)
	ctx, store := in("default"), n.client.ImageService()

	all, err := store.List(ctx, "name=="+busybox)
	if err != nil || len(all) != 1 || all[0].Name != busybox {
		t.Fatalf("list: %v, %v", all, err)
	}
	img := images.Image{Name: "test/one:1", Target: all[0].Target, Labels: map[string]string{"a": "1", "b.c/d": "2"}}
	if _, err := store.Create(ctx, img); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(ctx, img); !errdefs.IsAlreadyExists(err) {
		t.Errorf("create again: %v", err)
	}
	img.Labels = map[string]string{"b.c/d": "", "e": "3", "a": "not this one"}
	got, err := store.Update(ctx, img, "labels.b.c/d", "labels.e")
	if err != nil || len(got.Labels) != 2 || got.Labels["a"] != "1" || got.Labels["e"] != "3" {
		t.Errorf("update of labels: %v, %v", got.Labels, err)
	}
	if _, err := store.Update(ctx, images.Image{Name: "none", Target: img.Target}); !errdefs.IsNotFound(err) {
		t.Errorf("update of none: %v", err)
	}
	if _, err := store.Update(ctx, img, "name"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("update of the name: %v", err)
	}
	if out := n.Must(t, "ctr-image", "ls", "-q"); !strings.Contains(out, "test/one:1") {
		t.Errorf("ctr-image ls: %s", out)
	}
	other := img.Target
	other.Digest = digest.FromString("another")
	if err := store.Delete(ctx, img.Name, images.DeleteTarget(&other)); !errdefs.IsNotFound(err) {
		t.Errorf("delete of another target: %v", err)
	}
	if err := store.Delete(ctx, img.Name, images.SynchronousDelete()); err != nil {
		t.Error(err)
	}
	if err := store.Delete(ctx, busybox, images.SynchronousDelete()); err != nil {
		t.Error(err)
	}
	n.client.ContentStore().Walk(ctx, func(i content.Info) error {
		t.Errorf("%s is still there", i.Digest)
		return nil
	})
	if _, err := store.List(context.Background()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a namespace: %v", err)
	}
	if _, err := store.List(in("a/b")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("in a namespace that cannot be: %v", err)
	}
	if _, err := store.List(ctx, "name=="); !errdefs.IsInvalidArgument(err) {
		t.Errorf("with half a filter: %v", err)
	}
}

func TestNativeLeases(t *testing.T) {
	n := withNative(t)
	ctx := in("default")
	manager, store := n.client.LeasesService(), n.client.ContentStore()
	l, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	write := func(ctx context.Context, text string) digest.Digest {
		d := ocispec.Descriptor{Digest: digest.FromString(text), Size: int64(len(text))}
		if err := content.WriteBlob(ctx, store, "ref-"+text, strings.NewReader(text), d); err != nil {
			t.Fatal(err)
		}
		return d.Digest
	}
	held := write(leases.WithLease(ctx, l.ID), "held")
	loose := write(ctx, "loose")
	list, err := manager.ListResources(ctx, l)
	if err != nil || len(list) != 1 || list[0].ID != held.String() || list[0].Type != "content" {
		t.Errorf("resources: %v, %v", list, err)
	}
	if named, err := manager.Create(ctx); err != nil || named.ID == "" {
		t.Errorf("a lease without an id: %+v, %v", named, err)
	}
	other, err := manager.Create(ctx, leases.WithID("other"))
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Delete(ctx, other, leases.SynchronousDelete); err != nil {
		t.Error(err)
	}
	if _, err := store.Info(ctx, loose); !errdefs.IsNotFound(err) {
		t.Errorf("what nothing holds: %v", err)
	}
	if _, err := store.Info(ctx, held); err != nil {
		t.Errorf("what a lease holds: %v", err)
	}
	if err := manager.Delete(ctx, l, leases.SynchronousDelete); err != nil {
		t.Error(err)
	}
	if _, err := store.Info(ctx, held); !errdefs.IsNotFound(err) {
		t.Errorf("what a lease held that is gone: %v", err)
	}
	if err := manager.Delete(ctx, l); !errdefs.IsNotFound(err) {
		t.Errorf("delete again: %v", err)
	}
}

func TestNativeContainers(t *testing.T) {
	n := withNative(t)
	ctx, store := in("default"), n.client.ContainerService()
	spec := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{"ociVersion":"1.1.0","unknown":{"field":1}}`)}
	one := containers.Container{
		ID: "c1", Image: "img", Labels: map[string]string{"a/b": "c"}, Spec: spec, Snapshotter: "overlayfs", SnapshotKey: "key",
		Runtime:    containers.RuntimeInfo{Name: "io.containerd.runc.v2", Options: &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{8, 1}}},
		Extensions: map[string]typeurl.Any{"x": &anypb.Any{TypeUrl: "some/type", Value: []byte("bytes")}},
	}
	if _, err := store.Create(ctx, one); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(ctx, one); !errdefs.IsAlreadyExists(err) {
		t.Errorf("create again: %v", err)
	}
	got, err := store.Get(ctx, "c1")
	if err != nil || !bytes.Equal(got.Spec.GetValue(), spec.Value) || got.Spec.GetTypeUrl() != spec.TypeUrl ||
		got.Runtime.Name != one.Runtime.Name || !bytes.Equal(got.Runtime.Options.GetValue(), []byte{8, 1}) ||
		string(got.Extensions["x"].GetValue()) != "bytes" || got.SnapshotKey != "key" {
		t.Errorf("get: %+v, %v", got, err)
	}
	if out := n.Must(t, "ctr-task", "ls", "-q"); out != "c1\n" {
		t.Errorf("ctr-task ls: %q", out)
	}
	if all, err := store.List(ctx, `labels."a/b"==c`); err != nil || len(all) != 1 {
		t.Errorf("list: %v, %v", all, err)
	}
	one.Labels = map[string]string{"a/b": "", "n": "1"}
	if got, err = store.Update(ctx, one, "labels.n", "labels.a/b"); err != nil || len(got.Labels) != 1 || got.Labels["n"] != "1" {
		t.Errorf("update: %v, %v", got.Labels, err)
	}
	other := one
	other.Snapshotter = "native"
	if _, err := store.Update(ctx, other); !errdefs.IsInvalidArgument(err) {
		t.Errorf("update of the snapshotter: %v", err)
	}
	if err := store.Delete(ctx, "c1"); err != nil {
		t.Error(err)
	}
	if err := store.Delete(ctx, "c1"); !errdefs.IsNotFound(err) {
		t.Errorf("delete again: %v", err)
	}
	if _, err := store.Create(ctx, containers.Container{ID: "../x", Spec: spec, Runtime: one.Runtime}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an id that cannot be: %v", err)
	}
}

// subscribe subscribes to events, and returns when the server tells them: Subscribe returns before that.
func (n *native) subscribe(t *testing.T, ctx context.Context, filter string) (<-chan *events.Envelope, <-chan error) {
	t.Helper()
	const asked, last = "/asked/ready", "/asked/last"
	envelopes, errs := n.client.EventService().Subscribe(ctx, filter, `topic~="^/asked/"`)
	publish := func(topic string) {
		if err := n.client.EventService().Publish(ctx, topic, &specs.Spec{}); err != nil {
			t.Fatal(err)
		}
	}
	publish(asked)
	told := false // it does, and what has been asked so far is followed by last
	for end := time.Now().Add(patience); ; {
		select {
		case e := <-envelopes:
			switch {
			case e.Topic == last:
				return envelopes, errs
			case !told:
				publish(last)
				told = true
			}
		case err := <-errs:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
			switch {
			case time.Now().After(end):
				t.Fatal("the server tells no events")
			case !told:
				publish(asked)
			}
		}
	}
}

// TestNativeEvents: a subscriber sees what commands and clients do, in order, once each.
func TestNativeEvents(t *testing.T) {
	n := withNative(t)
	ctx, cancel := context.WithTimeout(in("default"), patience)
	defer cancel()
	envelopes, errs := n.subscribe(t, ctx, `topic~="^/(images|own)/"`)
	n.Must(t, "ctr-pull", "-q", busybox)
	n.Must(t, "ctr-image", "tag", busybox, "other:1")
	if err := n.client.EventService().Publish(ctx, "/own/topic", &specs.Spec{Version: "1"}); err != nil {
		t.Error(err)
	}
	n.Must(t, "ctr-image", "rm", "other:1")
	for _, want := range []string{"/images/create", "/images/create", "/own/topic", "/images/delete"} {
		select {
		case e := <-envelopes:
			if e.Topic != want || e.Namespace != "default" || e.Timestamp.IsZero() {
				t.Errorf("%s in %s, want %s", e.Topic, e.Namespace, want)
			}
			if v, err := typeurl.UnmarshalAny(e.Event); err != nil {
				t.Errorf("%s: %v", e.Topic, err)
			} else if s, ok := v.(*specs.Spec); want == "/own/topic" && (!ok || s.Version != "1") {
				t.Errorf("%s carries %v", e.Topic, v)
			}
		case err := <-errs:
			t.Fatal(err)
		case <-ctx.Done():
			t.Fatalf("no %s: %s", want, n.log.String())
		}
	}
}

// TestNativeKilled: a server that is killed costs its clients nothing but another connection.
func TestNativeKilled(t *testing.T) {
	n := withNative(t)
	ctx, store := in("default"), n.client.ContentStore()
	w, err := store.Writer(ctx, content.WithRef("r"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	n.end(t, syscall.SIGKILL)
	n.start(t)
	w.Close()
	if w, err = store.Writer(ctx, content.WithRef("r")); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if st, err := w.Status(); err != nil || st.Offset > 4 {
		t.Errorf("after a kill: %+v, %v", st, err)
	}
	if err := w.Truncate(0); err != nil {
		t.Error(err)
	}
	if _, err := w.Write([]byte("whole")); err != nil {
		t.Error(err)
	}
	if err := w.Commit(ctx, 5, digest.FromString("whole")); err != nil {
		t.Error(err)
	}
	if r := n.Run(t, nil, "ctrd", "serve"); r.Status == 0 || !strings.Contains(r.Stderr, fmt.Sprint("pid ", n.cmd.Process.Pid)) {
		t.Errorf("a second server: %s", r)
	}
	if out := n.Must(t, "ctrd", "fsck"); out != "" {
		t.Errorf("fsck: %s", out)
	}
}

// TestNativeSnapshots runs containerd's own suite of snapshotters on the socket.
func TestNativeSnapshots(t *testing.T) {
	for _, name := range []string{"overlayfs", "native", "btrfs", "erofs"} {
		t.Run(name, func(t *testing.T) {
			n := withDriver(t, name)
			made := 0
			snapshotsuite.SnapshotterSuite(t, name, func(ctx context.Context, _ string) (snapshots.Snapshotter, func() error, error) {
				made++
				return inNamespace{n.client.SnapshotService(name), fmt.Sprint("suite", made)}, func() error { return nil }, nil
			})
		})
	}
}

// inNamespace is a snapshotter of which the suite, which knows no namespaces, sees one.
type inNamespace struct {
	snapshots.Snapshotter
	ns string
}

func (s inNamespace) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.ns)
}

func (s inNamespace) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return s.Snapshotter.Stat(s.in(ctx), key)
}

func (s inNamespace) Update(ctx context.Context, i snapshots.Info, paths ...string) (snapshots.Info, error) {
	return s.Snapshotter.Update(s.in(ctx), i, paths...)
}

func (s inNamespace) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return s.Snapshotter.Usage(s.in(ctx), key)
}

func (s inNamespace) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return s.Snapshotter.Mounts(s.in(ctx), key)
}

func (s inNamespace) Prepare(ctx context.Context, key, parent string, o ...snapshots.Opt) ([]mount.Mount, error) {
	return s.Snapshotter.Prepare(s.in(ctx), key, parent, o...)
}

func (s inNamespace) View(ctx context.Context, key, parent string, o ...snapshots.Opt) ([]mount.Mount, error) {
	return s.Snapshotter.View(s.in(ctx), key, parent, o...)
}

func (s inNamespace) Commit(ctx context.Context, name, key string, o ...snapshots.Opt) error {
	return s.Snapshotter.Commit(s.in(ctx), name, key, o...)
}

func (s inNamespace) Remove(ctx context.Context, key string) error {
	return s.Snapshotter.Remove(s.in(ctx), key)
}

func (s inNamespace) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.Snapshotter.Walk(s.in(ctx), fn, filters...)
}

func TestNativeNamespaces(t *testing.T) {
	n := withNative(t)
	ctx, store := context.Background(), n.client.NamespaceService()
	if labels, err := store.Labels(ctx, "new"); err != nil || len(labels) != 0 {
		t.Errorf("labels of one that nobody knows: %v, %v", labels, err)
	}
	if err := store.SetLabel(ctx, "new", "a", "b"); err != nil {
		t.Error(err)
	}
	if err := store.Create(ctx, "new", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("create one that is there: %v", err)
	}
	if all, err := store.List(ctx); err != nil || !slices.Contains(all, "new") {
		t.Errorf("list: %v, %v", all, err)
	}
	if _, err := n.client.ImageService().Create(in("new"), images.Image{Name: "x", Target: ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(ctx, "new"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete one that is not empty: %v", err)
	}
	if err := n.client.ImageService().Delete(in("new"), "x"); err != nil {
		t.Error(err)
	}
	if err := store.Delete(ctx, "new"); err != nil {
		t.Error(err)
	}
	if err := store.Delete(ctx, "new"); !errdefs.IsNotFound(err) {
		t.Errorf("delete again: %v", err)
	}
}

// TestNativeRun: containerd's command line runs containers on the socket, and ctr-task sees them.
func TestNativeRun(t *testing.T) {
	n := withNative(t)
	n.ctr(t, "images", "pull", "--plain-http", busybox)
	if out := n.ctr(t, "run", "--rm", busybox, "one", "echo", "hello"); out != "hello\n" {
		t.Errorf("run --rm: %q", out)
	}
	n.ctr(t, "run", "-d", busybox, "two", "sleep", "1000")
	if out := n.ctr(t, "tasks", "ls"); !strings.Contains(out, "RUNNING") {
		t.Errorf("tasks ls: %s", out)
	}
	if out := n.ctr(t, "tasks", "exec", "--exec-id", "e", "two", "echo", "in"); out != "in\n" {
		t.Errorf("exec: %q", out)
	}
	if out := n.Must(t, "ctr-task", "exec", "two", "echo", "too"); out != "too\n" {
		t.Errorf("ctr-task exec: %q", out)
	}
	n.ctr(t, "tasks", "kill", "-s", "KILL", "two")
	n.Want(t, 137, "ctr-task", "wait", "two")
	n.ctr(t, "tasks", "rm", "two")
	n.ctr(t, "containers", "rm", "two")
	if out := n.ctr(t, "containers", "ls", "-q"); out != "" {
		t.Errorf("containers ls: %s", out)
	}
}
