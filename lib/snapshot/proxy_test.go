// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/native"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// proxied is a snapshotter that another process would serve; this one serves it, from another root.
func proxied(t *testing.T, p snapshot.Proxy) *snapshot.Snapshotter {
	t.Helper()
	p.Name = "proxied"
	if err := snapshot.Serve(p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { snapshot.Serve() })
	sn, err := snapshot.Named("proxied")
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

// serve serves the snapshots API and gives its socket.
func serve(t *testing.T, s interface{ Serve(*net.UnixListener) error }, stop func()) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(stop)
	return path
}

// TestProxy: a snapshotter of another process passes what each driver does. The server is another ctrd.
func TestProxy(t *testing.T) {
	for _, name := range []string{"overlayfs", "native"} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "run"), Wait: -1})
			if err != nil {
				t.Fatal(err)
			}
			s := native.New(native.Options{Dir: d, Version: "test", Log: slog.New(slog.DiscardHandler)})
			socket := serve(t, s, func() { s.Stop(context.Background()) })
			sn := proxied(t, snapshot.Proxy{Address: socket, Snapshotter: name, Root: filepath.Join(base, "root", "snapshots"), Maps: true})
			suite(t, sn, here)
		})
	}
}

// noted guards what liars note.
var noted sync.Mutex

// liar serves snapshots of nothing. A test says what it answers.
type liar struct {
	snapshotsapi.UnimplementedSnapshotsServer
	mounts []*types.Mount
	parent string // that Stat tells, if any
	kind   snapshotsapi.Kind
	prep   error
	list   []*snapshotsapi.Info
	made   []string
	gone   []string
	clean  int // calls of Cleanup
	labels map[string]string
}

func (l *liar) Cleanup(context.Context, *snapshotsapi.CleanupRequest) (*emptypb.Empty, error) {
	noted.Lock()
	defer noted.Unlock()
	l.clean++
	return &emptypb.Empty{}, nil
}

func (l *liar) Prepare(_ context.Context, q *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	noted.Lock()
	defer noted.Unlock()
	l.made = append(l.made, q.Key)
	l.labels = q.Labels
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: l.mounts}, l.prep
}

func (l *liar) Mounts(context.Context, *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	return &snapshotsapi.MountsResponse{Mounts: l.mounts}, nil
}

func (l *liar) Stat(_ context.Context, q *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	if q.Key == "ctrd/none" {
		return nil, status.Error(codes.NotFound, "none")
	}
	return &snapshotsapi.StatSnapshotResponse{Info: &snapshotsapi.Info{Name: q.Key, Parent: l.parent, Kind: l.kind}}, nil
}

func (l *liar) List(_ *snapshotsapi.ListSnapshotsRequest, s snapshotsapi.Snapshots_ListServer) error {
	return s.Send(&snapshotsapi.ListSnapshotsResponse{Info: l.list})
}

func (l *liar) Usage(context.Context, *snapshotsapi.UsageRequest) (*snapshotsapi.UsageResponse, error) {
	return &snapshotsapi.UsageResponse{Size: 1, Inodes: 1}, nil
}

func (l *liar) Remove(_ context.Context, q *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	noted.Lock()
	defer noted.Unlock()
	l.gone = append(l.gone, q.Key)
	return &emptypb.Empty{}, nil
}

type grpcServer struct{ *grpc.Server }

func (s grpcServer) Serve(l *net.UnixListener) error { return s.Server.Serve(l) }

func lying(t *testing.T, l *liar) string {
	s := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(s, l)
	return serve(t, grpcServer{s}, s.Stop)
}

func bindOf(path string) []*types.Mount {
	return []*types.Mount{{Type: "bind", Source: path, Options: []string{"rbind", "rw"}}}
}

// TestLies: what a server has no business to answer is refused and named, and what it may have made is removed.
func TestLies(t *testing.T) {
	good := filepath.Join(t.TempDir(), "tree")
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Mkdir(good, 0o755))
	must(t, os.Symlink("/", link))
	b := newBench(t, nil, t.TempDir())
	overlay := func(options ...string) []*types.Mount {
		return []*types.Mount{{Type: "overlay", Source: "overlay", Options: options}}
	}
	for name, c := range map[string]struct {
		liar
		root string
		want string // none: it is taken
	}{
		"right":           {liar: liar{mounts: bindOf(good)}},
		"in its root":     {liar: liar{mounts: bindOf(good)}, root: filepath.Dir(good)},
		"nothing":         {want: "no mounts"},
		"all":             {liar: liar{mounts: bindOf("/")}, want: "no place"},
		"by a link":       {liar: liar{mounts: bindOf(link)}, want: "no place"},
		"by dots":         {liar: liar{mounts: bindOf(good + "/../../../../..")}, want: "no place"},
		"etc":             {liar: liar{mounts: bindOf("/etc")}, want: "no place"},
		"proc":            {liar: liar{mounts: bindOf("/proc/self")}, want: "no place"},
		"our own":         {liar: liar{mounts: bindOf(b.d.Path("content"))}, want: ""},
		"relative":        {liar: liar{mounts: bindOf("tree")}, want: "no absolute path"},
		"missing":         {liar: liar{mounts: bindOf(good + "/none")}, want: "no such file"},
		"out of its root": {liar: liar{mounts: bindOf(good)}, root: filepath.Dir(link), want: "not below"},
		"upper":           {liar: liar{mounts: overlay("lowerdir="+good, "upperdir=/etc", "workdir="+good)}, want: "no place"},
		"lower":           {liar: liar{mounts: overlay("lowerdir=" + good + ":/")}, want: "no place"},
		"work":            {liar: liar{mounts: overlay("lowerdir="+good, "upperdir="+good, "workdir=/usr/x")}, want: "no such file"},
		"type":            {liar: liar{mounts: []*types.Mount{{Type: "proc", Source: "proc"}}}, want: `type "proc"`},
		"helper":          {liar: liar{mounts: []*types.Mount{{Type: "fuse.sh", Source: good}}}, want: `type "fuse.sh"`},
		"target":          {liar: liar{mounts: []*types.Mount{{Type: "bind", Source: good, Target: "../../etc", Options: []string{"rbind"}}}}, want: "mount at"},
		"below":           {liar: liar{mounts: append(bindOf(good), &types.Mount{Type: "bind", Source: "/etc", Target: "/x", Options: []string{"rbind"}})}, want: "no place"},
		"bound below":     {liar: liar{mounts: append(bindOf(good), &types.Mount{Type: "ext4", Source: "/", Target: "/x", Options: []string{"bind"}})}, want: "no place"},
		"bound device":    {liar: liar{mounts: []*types.Mount{{Type: "ext4", Source: "/etc", Options: []string{"bind"}}}}, want: "no place"},
		"bound overlay":   {liar: liar{mounts: []*types.Mount{{Type: "overlay", Source: "/etc", Options: []string{"bind", "lowerdir=" + good}}}}, want: "an overlay with the option"},
		"remount":         {liar: liar{mounts: append(bindOf(good), &types.Mount{Type: "bind", Source: good, Options: []string{"remount", "bind"}})}, want: "remount"},
		"a directory":     {liar: liar{mounts: []*types.Mount{{Type: "ext4", Source: good}}}, want: "neither a device nor a file"},
		"a view":          {liar: liar{mounts: bindOf(good), kind: snapshotsapi.Kind_VIEW}, want: "is view, and not active"},
		"parent":          {liar: liar{mounts: bindOf(good), parent: "other"}, want: `stands on "other"`},
		"many":            {liar: liar{mounts: slices.Repeat(bindOf(good), 2000)}, want: "more than 1024 mounts"},
		"long":            {liar: liar{mounts: overlay("lowerdir="+good, strings.Repeat("x", 2<<20))}, want: "bytes of options"},
	} {
		t.Run(name, func(t *testing.T) {
			l := &c.liar
			if l.kind == 0 {
				l.kind = snapshotsapi.Kind_ACTIVE
			}
			want := c.want
			if name == "our own" {
				must(t, os.MkdirAll(b.d.Path("content"), 0o755))
				want = "no place"
			}
			sn := proxied(t, snapshot.Proxy{Address: lying(t, l), Root: c.root})
			_, err := sn.Create(t.Context(), b.d, "ns", snapshot.Info{Key: "k-" + name, Kind: snapshot.Active})
			if want == "" {
				must(t, err)
				return
			}
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "snapshotter proxied") {
				t.Errorf("want %q, got %v", want, err)
			}
			if len(l.made) != 1 || !slices.Contains(l.gone, l.made[0]) {
				t.Errorf("made %q, removed %q", l.made, l.gone)
			}
		})
	}
}

// TestFetch: a server that has a layer itself is believed when it lists it, on the right parent, and then only.
func TestFetch(t *testing.T) {
	b := newBench(t, nil, t.TempDir())
	exists := status.Error(codes.AlreadyExists, "it is there")
	layer := func(name, parent, target string, kind snapshotsapi.Kind) *snapshotsapi.Info {
		return &snapshotsapi.Info{Name: name, Parent: parent, Kind: kind, Labels: map[string]string{"containerd.io/snapshot.ref": target}}
	}
	const target = "sha256:1"
	for name, c := range map[string]struct {
		list []*snapshotsapi.Info
		want string
	}{
		"right":        {[]*snapshotsapi.Info{layer("a", "x", target, snapshotsapi.Kind_COMMITTED), layer("b", "", target, snapshotsapi.Kind_COMMITTED)}, ""},
		"none":         {nil, "lists no committed snapshot"},
		"other parent": {[]*snapshotsapi.Info{layer("a", "x", target, snapshotsapi.Kind_COMMITTED)}, "lists no committed snapshot"},
		"other layer":  {[]*snapshotsapi.Info{layer("a", "", "sha256:2", snapshotsapi.Kind_COMMITTED)}, "lists no committed snapshot"},
		"active":       {[]*snapshotsapi.Info{layer("a", "", target, snapshotsapi.Kind_ACTIVE)}, "lists no committed snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			l := &liar{prep: exists, list: c.list, kind: snapshotsapi.Kind_COMMITTED}
			sn := proxied(t, snapshot.Proxy{Address: lying(t, l), Annotate: true})
			f := sn.Driver.(snapshot.Fetcher)
			id := snapshot.NewID()
			has, err := f.Fetch(t.Context(), b.d, id, "", target, map[string]string{"cri": "image"})
			if c.want != "" {
				if has || err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v %v", has, err)
				}
				return
			}
			if !has || err != nil || !f.Fetched(b.d, id) {
				t.Fatal(has, err)
			}
			if fmt.Sprint(l.labels) != "map[containerd.io/gc.root:ctrd containerd.io/snapshot.ref:sha256:1 cri:image]" {
				t.Error(l.labels)
			}
			must(t, sn.Check(b.d, snapshot.Info{ID: id}))
			must(t, sn.Drop(b.d, id))
			if !slices.Contains(l.gone, "b") {
				t.Errorf("removed %q", l.gone)
			}
		})
	}
	l := &liar{prep: exists, list: []*snapshotsapi.Info{layer("b", "", target, snapshotsapi.Kind_COMMITTED)}}
	sn := proxied(t, snapshot.Proxy{Address: lying(t, l)})
	if _, err := sn.Driver.(snapshot.Fetcher).Fetch(t.Context(), b.d, snapshot.NewID(), "", target, map[string]string{"cri": "image"}); err != nil || l.labels["cri"] != "" {
		t.Errorf("%v, told %v", err, l.labels)
	}
}

// TestAway: without its server nothing is made, nothing is thrown away, and a removal is done.
func TestAway(t *testing.T) {
	good := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(good, 0o755))
	base := t.TempDir()
	var told []string
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "run"), Wait: -1, Warn: func(err error) { told = append(told, err.Error()) }})
	must(t, err)
	l := &liar{mounts: bindOf(good), kind: snapshotsapi.Kind_ACTIVE}
	s := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(s, l)
	socket := serve(t, grpcServer{s}, s.Stop)
	sn := proxied(t, snapshot.Proxy{Address: socket})
	made, err := sn.Create(t.Context(), d, "ns", snapshot.Info{Key: "k", Kind: snapshot.Active})
	must(t, err)
	if _, err := gc.Collect(t.Context(), d); err != nil || l.clean != 1 {
		t.Errorf("a collection has the server clean up %d times, %v", l.clean, err)
	}
	s.Stop()
	if err := sn.Check(d, made); !errdefs.IsUnavailable(err) || errdefs.IsNotFound(err) || !strings.Contains(err.Error(), socket) {
		t.Error(err)
	}
	if err := sn.Ready(d); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if _, err := sn.Create(t.Context(), d, "ns", snapshot.Info{Key: "other", Kind: snapshot.Active}); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	must(t, sn.Delete(t.Context(), d, "ns", "k", func(*state.Tx, snapshot.Info) error { return nil }))
	if _, err := os.Stat(sn.Path(d, made.ID)); err != nil {
		t.Errorf("what the server may have is forgotten: %v", err)
	}
	if !strings.Contains(strings.Join(told, ""), "left to the next ctrd gc") {
		t.Errorf("told %q", told)
	}
}

// TestServeNames: a snapshotter of ours keeps its name, and an unknown one is told with those that there are.
func TestServeNames(t *testing.T) {
	if err := snapshot.Serve(snapshot.Proxy{Name: "overlayfs", Address: "/x"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if _, err := snapshot.Named("none"); err == nil || !strings.Contains(err.Error(), "overlayfs, native") {
		t.Error(err)
	}
}
