// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// holdEnv names the task directory whose supervisor's lock a process of this test binary holds until it is killed.
const holdEnv = "CTRD_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		if _, err := lock.Hold(filepath.Join(dir, taskdir.ShimLock)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		select {} // until it is killed
	}
	os.Exit(m.Run())
}

// supervise has a process hold the lock of a supervisor.
func supervise(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holdEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("the supervisor says %q, %v", line, err)
	}
	return cmd
}

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// world is a namespace of containers that a listing and plain lists look at.
type world struct {
	d *state.Dir
	l *Listing
}

// same compares the listing with a plain list, and gives the first by id.
func (w world) same(t *testing.T, after string) map[string]*Info {
	t.Helper()
	plain, err := infos(t.Context(), w.d)
	if err != nil {
		t.Fatal(err)
	}
	all, err := w.l.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*Info{}
	if len(all) != len(plain) {
		t.Fatalf("after %s: %d containers, want %d", after, len(all), len(plain))
	}
	for i, info := range all {
		if want := plain[i]; !reflect.DeepEqual(*info, want) {
			t.Errorf("after %s: %+v, want %+v", after, *info, want)
		}
		found[info.ID] = info
	}
	return found
}

// settle waits until the listing keeps what it says of all that have a task.
func (w world) settle(t *testing.T, tasks map[string]string) {
	t.Helper()
	kept := func() bool {
		before, after := w.same(t, "a while"), w.same(t, "a while")
		for id := range tasks {
			if before[id] == nil {
				t.Fatalf("%s is not listed", id)
			}
			if before[id] != after[id] {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(time.Minute); !kept(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the listing does not keep what it says")
		}
	}
}

// settleWhole waits until the listing gives the list before again, which it does when nothing at all has changed.
func (w world) settleWhole(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		w.same(t, "a while")
		before := w.l.last
		w.same(t, "a while")
		if unsafe.SliceData(before) == unsafe.SliceData(w.l.last) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the listing does not keep what it says")
		}
	}
}

// The listing says what a plain list says at each step of many tasks: also at once when a supervisor is killed, a directory moved, or an
// id used again, and of what has not changed it keeps what it had.
func TestListing(t *testing.T) {
	d := openDir(t)
	watch := new(taskdir.Watch)
	defer watch.Close()
	w := world{d, NewListing(d, "default", watch)}
	for i := range 6 {
		recorded(t, d, fmt.Sprintf("c%d", i), i%2 == 0)
	}
	w.same(t, "nothing")
	supervisors := map[string]*exec.Cmd{}
	dirs := map[string]string{}
	rng := rand.New(rand.NewPCG(5, 6))
	begin := func(id string) {
		dir := filepath.Join(d.Run("tasks", "default", id), string(taskdir.NewIncarnation()))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		dirs[id] = dir
		put(t, dir, taskdir.Record, taskdir.Task{Namespace: "default", ID: id, Created: time.Now().UTC()})
		supervisors[id] = supervise(t, dir)
	}
	steps := map[string]func(id string){
		"pid":     func(id string) { put(t, dirs[id], taskdir.Init, taskdir.Process{PID: 100 + rng.IntN(100)}) },
		"started": func(id string) { put(t, dirs[id], taskdir.Begun, taskdir.Started{At: time.Now().UTC()}) },
		"exit": func(id string) {
			if err := taskdir.WriteExit(dirs[id], taskdir.Exit{Status: rng.IntN(256), ExitedAt: time.Now().UTC()}); err != nil {
				t.Fatal(err)
			}
		},
		"lost": func(id string) { put(t, dirs[id], taskdir.Lost, taskdir.Dropped{Bytes: rng.Uint64N(100)}) },
		"kill": func(id string) { end(supervisors[id]) },
		"gone": func(id string) {
			if err := os.RemoveAll(dirs[id]); err != nil {
				t.Fatal(err)
			}
			delete(dirs, id)
		},
		"away": func(id string) { // as a removal does it, and a namesake after it
			if err := os.Rename(d.Run("tasks", "default", id), filepath.Join(t.TempDir(), "trash")); err != nil {
				t.Fatal(err)
			}
			delete(dirs, id)
		},
	}
	names := []string{"pid", "started", "exit", "lost", "kill", "gone", "away"}
	for i := range 120 {
		id := fmt.Sprintf("c%d", rng.IntN(6))
		name := "begin"
		if dirs[id] == "" {
			begin(id)
		} else {
			name = names[rng.IntN(len(names))]
			steps[name](id)
		}
		w.same(t, name+" of "+id)
		if i%30 == 29 {
			w.settle(t, dirs)
		}
	}
}

func put(t *testing.T, dir, name string, v any) {
	t.Helper()
	if err := taskdir.Write(dir, name, v); err != nil {
		t.Fatal(err)
	}
}

// A supervisor that is killed after nothing has happened for long is noticed by the next list.
func TestListingKilled(t *testing.T) {
	d := openDir(t)
	watch := new(taskdir.Watch)
	defer watch.Close()
	w := world{d, NewListing(d, "default", watch)}
	recorded(t, d, "c", true)
	dir := filepath.Join(d.Run("tasks", "default", "c"), string(taskdir.NewIncarnation()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, dir, taskdir.Record, taskdir.Task{Namespace: "default", ID: "c"})
	put(t, dir, taskdir.Init, taskdir.Process{PID: 1})
	put(t, dir, taskdir.Begun, taskdir.Started{At: time.Now().UTC()})
	cmd := supervise(t, dir)
	w.settle(t, map[string]string{"c": dir})
	if info := w.same(t, "the start")["c"]; info.Status != Running {
		t.Fatalf("%+v", info)
	}
	// What is there of another container that had the id is not meant.
	put(t, dir, taskdir.Record, taskdir.Task{Namespace: "default", ID: "c", UID: "another"})
	if info := w.same(t, "a namesake's record")["c"]; info.Status != Created {
		t.Errorf("%+v", info)
	}
	put(t, dir, taskdir.Record, taskdir.Task{Namespace: "default", ID: "c"})
	w.settle(t, map[string]string{"c": dir})
	w.settleWhole(t)
	recorded(t, d, "d", true)
	if all := w.same(t, "another record"); all["d"] == nil {
		t.Errorf("%v", all)
	}
	w.settleWhole(t)
	end(cmd)
	if info := w.same(t, "the end of the supervisor")["c"]; info.Status != Orphaned {
		t.Errorf("%+v", info)
	}
}
