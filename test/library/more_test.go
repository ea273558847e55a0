// SPDX-License-Identifier: Apache-2.0

package library

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/checkpoint"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/native"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/pull/remote"
	"ctrd.dev/ctrd/lib/push"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/test/world"
)

// topLayer is the key of the snapshot of an image's last layer.
func topLayer(d *state.Dir, img image.Image) string {
	platform, err := image.ParsePlatform("")
	check(err)
	m, err := image.Resolve(d, img.Target, platform)
	check(err)
	return m.ChainIDs[len(m.ChainIDs)-1].String()
}

// One read-only view of an image lies below ten containers, each of which writes into a layer of its own.
func Example_sharedView() {
	ctx, d, sn := context.Background(), open(), snapshot.Overlay
	img := busybox(ctx, d, "example")
	_, err := sn.Create(ctx, d, "example", snapshot.Info{Key: "shared", Kind: snapshot.View, Parent: topLayer(d, img)})
	check(err)
	target := filepath.Join(dir, "shared")
	check(os.Mkdir(target, 0o755))
	check(task.MountSnapshot(ctx, d, sn, "example", "shared", target))

	same := 0
	for i := range 10 {
		t, err := task.Run(ctx, d, "example", task.CreateOptions{
			ID: fmt.Sprintf("viewer%d", i), Image: img.Name,
			Spec: spec.Options{
				Volumes: []string{target + ":/shared:ro"},
				Args:    []string{"sh", "-c", "echo mine >/bin/own && cmp /bin/busybox /shared/bin/busybox && ! test -e /shared/bin/own && ! touch /shared/x"},
			},
		}, task.StartOptions{})
		check(err)
		exit, err := t.Wait(ctx)
		check(err)
		if exit.Status == 0 {
			same++
		}
		check(t.Remove(ctx, false))
		check(t.Close())
	}
	fmt.Println(same)
	check(mount.Unmount(target, 0))
	check(os.Remove(target))
	check(sn.Delete(ctx, d, "example", "shared", func(*state.Tx, snapshot.Info) error { return nil }))
	// Output: 10
}

// A snapshotter of another process is any that serves containerd's snapshots API on a socket. Here it is that of another state
// directory, which this program serves itself.
func Example_snapshotPlugin() {
	ctx, d := context.Background(), open()
	other, err := state.Open(state.Config{Root: filepath.Join(dir, "other", "root"), State: filepath.Join(dir, "other", "run"), Wait: -1})
	check(err)
	socket := filepath.Join(dir, "plugin.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	check(err)
	server := native.New(native.Options{Dir: other, Version: "example", Log: slog.New(slog.DiscardHandler)})
	go server.Serve(l)

	check(snapshot.Serve(snapshot.Proxy{Name: "plugin", Address: socket, Snapshotter: "native"}))
	sn, err := snapshot.Named("plugin")
	check(err)
	ref, err := image.Parse(address + "/busybox:1")
	check(err)
	img, err := pull.Image(ctx, d, ref, pull.Options{Namespace: "plugged", Snapshotter: sn, Open: remote.Open(registry.Options{PlainHTTP: true}, nil)})
	check(err)
	t, err := task.Run(ctx, d, "plugged", task.CreateOptions{ID: "c", Image: img.Name, Snapshotter: "plugin", Spec: spec.Options{Args: []string{"touch", "/made"}}}, task.StartOptions{})
	check(err)
	exit, err := t.Wait(ctx)
	check(err)
	made, err := filepath.Glob(filepath.Join(dir, "other", "root", "snapshots", "native", "*", "fs", "made"))
	check(err)
	fmt.Println(exit.Status, len(made))

	check(t.Remove(ctx, false))
	check(t.Close())
	check(sn.Delete(ctx, d, "plugged", topLayer(d, img), func(*state.Tx, snapshot.Info) error { return nil }))
	check(snapshot.Serve())
	stop, cancel := context.WithCancel(ctx)
	cancel()
	server.Stop(stop)
	// Output: 0 1
}

// A hook without a timeout may take longer than a supervisor may for its own work.
func TestLongHook(t *testing.T) {
	ctx := t.Context()
	d, err := state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run"), Wait: time.Second}) // then it may take 5 s
	check(err)
	img := busybox(ctx, d, "example")
	c, err := task.Create(ctx, d, "example", task.CreateOptions{
		ID: "hook", Image: img.Name, Spec: spec.Options{Args: []string{"sleep", "1000"}},
		Amend: func(r *spec.Result, _ spec.Opener) error {
			r.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "6"}}}}
			return nil
		},
	})
	check(err)
	if err := c.Start(ctx, task.StartOptions{}); err != nil {
		t.Error(err)
	}
	check(c.Remove(ctx, true))
	check(c.Close())
}

// A hook that runs after the stop has the time that it asks for, also where the end is forced: its supervisor is not taken for one that hangs.
func TestLongPoststop(t *testing.T) {
	ctx, d := t.Context(), open()
	img := busybox(ctx, d, "example")
	done, timeout := filepath.Join(t.TempDir(), "done"), 30
	c, err := task.Run(ctx, d, "example", task.CreateOptions{
		ID: "poststop", Image: img.Name, Spec: spec.Options{Args: []string{"sleep", "1000"}},
		Amend: func(r *spec.Result, _ spec.Opener) error {
			r.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{
				Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 13; : >" + done}, Env: []string{"PATH=/bin:/usr/bin"}, Timeout: &timeout,
			}}}
			return nil
		},
	}, task.StartOptions{})
	check(err)
	check(c.Remove(ctx, true))
	check(c.Close())
	if _, err := os.Stat(done); err != nil {
		t.Error(err)
	}
}

// What time such hooks may take is no matter to a supervisor that somebody has stopped: it goes on at once.
func TestStoppedBeforePoststop(t *testing.T) {
	ctx, d := t.Context(), open()
	img := busybox(ctx, d, "example")
	timeout := 60
	c, err := task.Run(ctx, d, "example", task.CreateOptions{
		ID: "poststop", Image: img.Name, Spec: spec.Options{Args: []string{"sleep", "1000"}},
		Amend: func(r *spec.Result, _ spec.Opener) error {
			r.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/true", Timeout: &timeout}}}
			return nil
		},
	}, task.StartOptions{})
	check(err)
	info, err := c.Info(ctx)
	check(err)
	check(syscall.Kill(info.Supervisor, syscall.SIGSTOP))
	began := time.Now()
	check(c.Remove(ctx, true))
	check(c.Close())
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the removal took %v", took)
	}
}

// A container is stopped into an image, which goes to a registry and comes from it, and goes on as another one.
func TestCheckpoint(t *testing.T) {
	t.Setenv("CTRD_CRIU", world.Criu(t))
	ctx, d := t.Context(), open()
	img := busybox(ctx, d, "example")
	count := []string{"sh", "-c", "n=0; while true; do n=$((n+1)); echo $n >/new; mv /new /count; sleep 0.05; done"}
	c, err := task.Run(ctx, d, "example", task.CreateOptions{ID: "counter", Image: img.Name, Spec: spec.Options{Args: count}}, task.StartOptions{})
	check(err)
	const counted = "test $(cat /count || echo 0) -ge 5"
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		exit, err := c.Exec(ctx, task.ExecOptions{Args: []string{"sh", "-c", counted}})
		check(err)
		if exit.Status == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not count")
		}
	}

	opt := registry.Options{PlainHTTP: true}
	name := address + "/" + filepath.Base(dir) + ":checkpoint"
	saved, err := checkpoint.Image(ctx, d, c, name, checkpoint.ImageOptions{CheckpointOptions: taskapi.CheckpointOptions{Exit: true}})
	check(err)
	to, err := image.Parse(name)
	check(err)
	_, err = push.Image(ctx, d, saved.Name, to, push.Options{Namespace: "example", Registry: opt})
	check(err)
	check(c.Remove(ctx, false))
	check(c.Close())

	// In another namespace, as on another machine.
	busybox(ctx, d, "elsewhere")
	pulled, err := pull.Image(ctx, d, to, pull.Options{Namespace: "elsewhere", Open: remote.Open(opt, nil)})
	check(err)
	again, err := checkpoint.RestoreNew(ctx, d, "elsewhere", pulled.Name, task.CreateOptions{ID: "again", Image: img.Name})
	check(err)
	exit, err := again.Exec(ctx, task.ExecOptions{Args: []string{"sh", "-c", counted}, Stdout: os.Stdout})
	check(err)
	if exit.Status != 0 {
		t.Errorf("it does not go on from where it was: %d", exit.Status)
	}
	check(again.Remove(ctx, true))
	check(again.Close())
}
