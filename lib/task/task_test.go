// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

func open(t *testing.T) *state.Dir {
	t.Helper()
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		"TERM": 15, "SIGTERM": 15, "term": 15, "sigkill": 9, "9": 9, "64": 64, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "rtmax": 64,
	} {
		if got, err := ParseSignal(text); err != nil || got != want {
			t.Errorf("ParseSignal(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "65", "-1", "NONSENSE", "SIG", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMINx"} {
		if got, err := ParseSignal(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("ParseSignal(%q) = %d, %v; want kind InvalidArgument", text, got, err)
		}
	}
}

func FuzzParseSignal(f *testing.F) {
	f.Add("SIGRTMIN+3")
	f.Fuzz(func(t *testing.T, s string) {
		if sig, err := ParseSignal(s); err == nil && (sig < 1 || sig > maxSignal) {
			t.Errorf("ParseSignal(%q) = %d", s, sig)
		}
	})
}

// Two containers never share a cgroup, whatever their names.
func TestCgroupPaths(t *testing.T) {
	a, b := open(t), open(t)
	seen := map[string]string{}
	for _, d := range []*state.Dir{a, b} {
		for _, name := range [][2]string{{"a", "b-c"}, {"a-b", "c"}, {"a", "b.c"}, {"a.b", "c"}, {"a", "b"}} {
			p := cgroupPath(d, "", name[0], name[1])
			who := d.Run() + name[0] + "/" + name[1]
			if other, ok := seen[p]; ok {
				t.Errorf("%s and %s both have the cgroup %s", other, who, p)
			}
			seen[p] = who
			if strings.Count(p, "/") != 1 {
				t.Errorf("cgroup %s is not flat", p)
			}
		}
	}
}

// recorded records a container as Create does, without an image.
func recorded(t *testing.T, d *state.Dir, id string, transient bool) {
	t.Helper()
	update := d.Update
	if transient {
		update = d.UpdateRun
	}
	if err := update(context.Background(), nil, func(tx *state.Tx) error {
		return container.Create(tx, "default", container.Container{ID: id}, nil)
	}); err != nil {
		t.Fatal(err)
	}
}

// What a container is doing follows from the files of its task alone.
func TestStatusFollowsFromFiles(t *testing.T) {
	d := open(t)
	ctx := context.Background()
	status := func(want Status) {
		t.Helper()
		i, err := Get(ctx, d, "default", "c")
		if err != nil || i.Status != want {
			t.Errorf("status %s, %v; want %s", i.Status, err, want)
		}
	}
	recorded(t, d, "c", false)
	status(Created)
	dir := Dir(d, "default", "c")
	starting, err := reserve(d, "default", "c")
	if err != nil {
		t.Fatal(err)
	}
	status(Starting)
	if _, err := reserve(d, "default", "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second start: %v, want kind FailedPrecondition", err)
	}
	shim, err := lock.Hold(dir + "/" + taskdir.ShimLock)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/"+taskdir.Init, []byte(`{"pid":1,"start_time":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	starting.Release()
	status(Running)
	// The supervisor is killed: whoever looks next ends the task.
	shim.Release()
	i, err := Get(ctx, d, "default", "c")
	if err != nil || i.Status != Stopped || i.Exit == nil || i.Exit.Status != killedStatus || i.Exit.Reason == "" {
		t.Errorf("after the supervisor died: %+v, %v", i, err)
	}
	if exit, err := Wait(ctx, d, "default", "c"); err != nil || exit.Status != killedStatus {
		t.Errorf("Wait: %+v, %v", exit, err)
	}
	if err := Remove(ctx, d, "default", "c", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the task directory is still there: %v", err)
	}
}

// A transient container that nobody has is gone for whoever looks; one that its client will remove is not.
func TestTransientWithoutOwner(t *testing.T) {
	d := open(t)
	ctx := context.Background()
	recorded(t, d, "orphan", true)
	recorded(t, d, "owned", true)
	dir := Dir(d, "default", "owned")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	client, err := lock.Hold(dir + "/" + taskdir.ClientLock)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Release()
	if err := os.WriteFile(dir+"/"+taskdir.End, []byte(`{"status":0}`), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := All(ctx, d, "default")
	if err != nil || len(all) != 1 || all[0].ID != "owned" {
		t.Errorf("containers %+v, %v; want owned alone", all, err)
	}
}
