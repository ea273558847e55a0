// SPDX-License-Identifier: Apache-2.0

// Package library has an example of the library for each example of containerd's README. Each is compiled and run; LIBRARY.md
// says which is which.
package library

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/pull/remote"
	"ctrd.dev/ctrd/lib/push"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/test/world"
)

// dir is where the examples work, and address a registry. In a program of yours dir would be
// state.Config{}, the usual directories, and address docker.io.
var dir, address string

func TestMain(m *testing.M) {
	status := world.Main(m, func(s world.Site) (err error) {
		address = s.Registry
		// A program finds ctr-shim beside itself or on its PATH.
		os.Setenv("PATH", s.Bin+":"+os.Getenv("PATH"))
		dir, err = os.MkdirTemp("", "ctrd-library-")
		return err
	})
	if dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = max(status, 1)
		}
	}
	os.Exit(status)
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

// open opens the state directory, which every command and every program shares.
func open() *state.Dir {
	d, err := state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run"), Wait: -1})
	check(err)
	return d
}

// busybox brings an image.
func busybox(ctx context.Context, d *state.Dir, ns string) image.Image {
	ref, err := image.Parse(address + "/busybox:1")
	check(err)
	img, err := pull.Image(ctx, d, ref, pull.Options{Namespace: ns, Open: remote.Open(registry.Options{PlainHTTP: true}, nil)})
	check(err)
	return img
}

// There is nothing to connect to: the state directory is the system.
func Example_client() {
	d, err := state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run"), Wait: -1})
	check(err)
	_, err = os.Stat(d.Path())
	fmt.Println(err)
	// Output: <nil>
}

// A namespace is a name that a call is given.
func Example_namespaces() {
	ctx, d := context.Background(), open()
	check(d.Update(ctx, nil, func(tx *state.Tx) error {
		_, err := namespace.Update(tx, "build", map[string]string{"team": "one"})
		return err
	}))
	check(d.View(ctx, func(tx *state.Tx) error {
		for n, err := range namespace.All(tx) {
			check(err)
			if n.Name == "build" {
				fmt.Println(n.Name, n.Labels["team"])
			}
		}
		return nil
	}))
	// Output: build one
}

// An image is pulled, found under its name, and pushed under another one.
func Example_distribution() {
	ctx, d := context.Background(), open()
	opt := registry.Options{PlainHTTP: true}
	ref, err := image.Parse(address + "/busybox:1")
	check(err)
	pulled, err := pull.Image(ctx, d, ref, pull.Options{Namespace: "example", Open: remote.Open(opt, nil)})
	check(err)

	to, err := image.Parse(address + "/" + filepath.Base(dir) + ":1")
	check(err)
	pushed, err := push.Image(ctx, d, pulled.Name, to, push.Options{Namespace: "example", Registry: opt})
	check(err)
	fmt.Println(pushed.Target.Digest == pulled.Target.Digest)
	// Output: true
}

// A container is a record, a spec and a snapshot on top of its image's.
func Example_containers() {
	ctx, d := context.Background(), open()
	img := busybox(ctx, d, "example")
	c, err := task.Create(ctx, d, "example", task.CreateOptions{ID: "redis-master", Image: img.Name, Labels: map[string]string{"role": "master"}})
	check(err)
	defer c.Close()
	fmt.Println(c.ID(), c.Container.Labels["role"])

	for info, err := range task.All(ctx, d, "example") {
		check(err)
		fmt.Println(info.ID, info.Status)
	}
	check(c.Remove(ctx, false))
	// Output:
	// redis-master master
	// redis-master created
}

// The spec follows from the image and from options, and can be changed before it is recorded.
func Example_spec() {
	ctx, d := context.Background(), open()
	img := busybox(ctx, d, "example")
	c, err := task.Create(ctx, d, "example", task.CreateOptions{
		ID: "spec", Image: img.Name,
		Spec: spec.Options{Args: []string{"env"}, Env: []string{"MODE=dev"}, ReadOnly: true, Workdir: "/tmp"},
		Amend: func(r *spec.Result, _ spec.Opener) error {
			r.Spec.Annotations = map[string]string{"example": "yes"}
			r.Spec.Process.Rlimits = append(r.Spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE", Hard: 0, Soft: 0})
			return nil
		},
	})
	check(err)
	defer c.Close()
	s, err := c.Spec(ctx)
	check(err)
	fmt.Println(s.Process.Args, s.Process.Cwd, s.Root.Readonly, s.Annotations["example"])
	check(c.Remove(ctx, false))
	// Output: [env] /tmp true yes
}

// Snapshots stack: one to write to, committed under a name, and read-only views of it, as many as are wanted.
func Example_rootFilesystems() {
	ctx, d, sn := context.Background(), open(), snapshot.Overlay
	busybox(ctx, d, "example")
	var layer string
	check(d.View(ctx, func(tx *state.Tx) error {
		for s, err := range sn.All(tx, "example") {
			check(err)
			layer = s.Key
		}
		return nil
	}))

	unused := func(*state.Tx, snapshot.Info) error { return nil } // no container has these
	target := filepath.Join(dir, "mounted")
	check(os.Mkdir(target, 0o755))
	_, err := sn.Create(ctx, d, "example", snapshot.Info{Key: "work", Kind: snapshot.Active, Parent: layer})
	check(err)
	check(task.MountSnapshot(ctx, d, sn, "example", "work", target))
	check(os.WriteFile(filepath.Join(target, "motd"), []byte("hello\n"), 0o644))
	check(mount.Unmount(target, 0))
	_, err = sn.Seal(ctx, d, "example", "with-motd", "work", snapshot.CommitOptions{}, unused)
	check(err)

	for _, key := range []string{"one", "two"} {
		_, err := sn.Create(ctx, d, "example", snapshot.Info{Key: key, Kind: snapshot.View, Parent: "with-motd"})
		check(err)
		check(task.MountSnapshot(ctx, d, sn, "example", key, target))
		text, err := os.ReadFile(filepath.Join(target, "motd"))
		check(err)
		err = os.WriteFile(filepath.Join(target, "motd"), nil, 0o644)
		fmt.Printf("%s: %s%v\n", key, text, errors.Is(err, unix.EROFS))
		check(mount.Unmount(target, 0))
		check(sn.Delete(ctx, d, "example", key, unused))
	}
	check(sn.Delete(ctx, d, "example", "with-motd", unused))
	check(os.Remove(target))
	// Output:
	// one: hello
	// true
	// two: hello
	// true
}

// A task is a container that runs. It goes on when this program ends; any other can wait for it.
func Example_tasks() {
	ctx, d := context.Background(), open()
	img := busybox(ctx, d, "example")
	t, err := task.Run(ctx, d, "example", task.CreateOptions{
		ID: "task", Image: img.Name, Spec: spec.Options{Args: []string{"sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"}},
	}, task.StartOptions{})
	check(err)
	defer t.Close()

	exit, err := t.Exec(ctx, task.ExecOptions{Args: []string{"echo", "beside"}, Stdout: os.Stdout})
	check(err)
	fmt.Println("exec:", exit.Status)

	// The program has set its trap when it has written.
	seen, done := make(chan struct{}), make(chan error, 1)
	go func() {
		r, w := io.Pipe()
		go func() { done <- t.Logs(ctx, task.LogOptions{Follow: true, Tail: -1, Stdout: w, Stderr: w}) }()
		b := make([]byte, len("up\n"))
		_, err := io.ReadFull(r, b)
		check(err)
		fmt.Print(string(b))
		close(seen)
		io.Copy(io.Discard, r)
	}()
	<-seen
	check(t.Kill(ctx, unix.SIGTERM, false))
	exit, err = t.Wait(ctx)
	check(err)
	check(<-done)
	fmt.Println("task:", exit.Status)
	check(t.Remove(ctx, false))
	// Output:
	// beside
	// exec: 0
	// up
	// task: 3
}

// What nothing refers to is removed when somebody asks.
func Example_garbageCollection() {
	ctx, d := context.Background(), open()
	busybox(ctx, d, "rubbish")
	check(d.Update(ctx, nil, func(tx *state.Tx) error { return image.Remove(tx, "rubbish", address+"/busybox:1") }))
	removed, err := gc.Collect(ctx, d)
	check(err)
	fmt.Println(removed.Blobs > 0, removed.Snapshots > 0)
	err = d.View(ctx, func(tx *state.Tx) error { _, err := image.Get(tx, "rubbish", address+"/busybox:1"); return err })
	fmt.Println(errdefs.IsNotFound(err))
	// Output:
	// true true
	// true
}
