// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

type thing struct {
	N int `json:"n"`
}

var things = state.Table[thing]{Name: "things"}

func open(t testing.TB, root, run string) *state.Dir {
	t.Helper()
	d, err := state.Open(state.Config{Root: root, State: run, Wait: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func fresh(t testing.TB) *state.Dir {
	return open(t, t.TempDir(), t.TempDir())
}

// TestMain makes this binary the second process: CTRD_TEST_ROLE names what it does.
func TestMain(m *testing.M) {
	switch os.Getenv("CTRD_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "count":
		d := mustOpenEnv()
		for range 25 {
			check(d.Update(context.Background(), nil, func(tx *state.Tx) error { return bump(tx, "counter") }))
			check(d.UpdateRun(context.Background(), nil, func(tx *state.Tx) error { return bump(tx, "fleeting") }))
		}
	case "open":
		mustOpenEnv()
	case "stop-in-journal":
		turn := mustOpenEnv().Journal().Turn()
		fmt.Println("stopped")
		check(stop())
		runtime.KeepAlive(turn)
	case "stop-in-update":
		check(mustOpenEnv().Update(context.Background(), nil, func(tx *state.Tx) error {
			check(bump(tx, "counter"))
			fmt.Println("stopped")
			return stop()
		}))
	}
}

// stop stops this process, and returns when it is continued.
func stop() error {
	continued := make(chan os.Signal, 1) // this thread may run on for a moment while another takes the signal
	signal.Notify(continued, syscall.SIGCONT)
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	<-continued
	return nil
}

func mustOpenEnv() *state.Dir {
	d, err := state.Open(state.Config{Root: os.Getenv("CTRD_ROOT"), State: os.Getenv("CTRD_STATE"), Wait: 60 * time.Second})
	check(err)
	return d
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func bump(tx *state.Tx, key string) error {
	v, err := things.Get(tx, "default", key)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	v.N++
	tx.Emit("default", event.ImageCreate{Name: fmt.Sprint(key, " ", v.N)})
	return things.Put(tx, "default", key, v)
}

func process(d *state.Dir, role string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), "CTRD_TEST_ROLE="+role, "CTRD_ROOT="+d.Path(), "CTRD_STATE="+d.Run())
	c.Stderr = os.Stderr
	return c
}

func get(t *testing.T, d *state.Dir, key string) (n int) {
	t.Helper()
	err := d.View(context.Background(), func(tx *state.Tx) error {
		v, err := things.Get(tx, "default", key)
		n = v.N
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	return n
}

// Eight processes count in both databases while readers read: no update is lost, no read fails or goes
// backwards, and the journal has every change once, in order.
func TestManyWriters(t *testing.T) {
	d := fresh(t)
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := 0; ctx.Err() == nil; {
				n := get(t, d, "counter")
				if n < last {
					t.Errorf("counter went from %d to %d", last, n)
				}
				last = n
			}
		})
	}
	var writers []*exec.Cmd
	for range 8 {
		c := process(d, "count")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		writers = append(writers, c)
	}
	for _, c := range writers {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	readers.Wait()
	if n := get(t, d, "counter"); n != 8*25 {
		t.Errorf("counter is %d, want %d", n, 8*25)
	}
	if n := get(t, d, "fleeting"); n != 8*25 {
		t.Errorf("fleeting is %d, want %d", n, 8*25)
	}
	next := uint64(1)
	counted := map[string]int{}
	for e, err := range d.Journal().Read(context.Background(), 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq != next {
			t.Fatalf("event %d follows %d", e.Seq, next-1)
		}
		next++
		var key string
		var n int
		if _, err := fmt.Sscan(e.Field("name"), &key, &n); err != nil || n != counted[key]+1 {
			t.Fatalf("event %q follows %d, %v", e.Field("name"), counted[key], err)
		}
		counted[key] = n
	}
	if next != 2*8*25+1 {
		t.Errorf("%d events, want %d", next-1, 2*8*25)
	}
}

// A writer that is stopped in the middle of its transaction makes no reader wait; another writer's wait
// ends with a message that names it; when it goes on, nothing is lost.
func TestStoppedWriter(t *testing.T) {
	d := fresh(t)
	update := func() error {
		return d.Update(context.Background(), nil, func(tx *state.Tx) error { return bump(tx, "counter") })
	}
	if err := update(); err != nil {
		t.Fatal(err)
	}
	p := process(d, "stop-in-update")
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Process.Kill()
	// P.1 holds the lock and has stopped.
	fmt.Fscanln(out, new(string))
	// Q.1 reads.
	if n := get(t, d, "counter"); n != 1 {
		t.Errorf("counter is %d while the writer is stopped, want 1", n)
	}
	// Q.2 wants to write, and learns who is in the way.
	impatient, err := state.Open(state.Config{Root: d.Path(), State: d.Run(), Wait: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	err = impatient.Update(context.Background(), nil, func(*state.Tx) error { return nil })
	var busy *lock.BusyError
	if !errors.As(err, &busy) || !errdefs.IsAborted(err) {
		t.Fatalf("second writer: %v, want a BusyError", err)
	}
	if want := fmt.Sprintf("pid %d", p.Process.Pid); !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not name %s", err, want)
	}
	held, err := d.Locks().All()
	if err != nil || len(held) != 1 || held[0].Owners[0].PID != p.Process.Pid {
		t.Errorf("locks: %+v, %v", held, err)
	}
	// P.2 goes on.
	p.Process.Signal(syscall.SIGCONT)
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := get(t, d, "counter"); n != 2 {
		t.Errorf("counter is %d, want 2", n)
	}
}

// While a holder of the journal's lock is stopped, commits are made and others can commit, the events are
// lost, and that is told.
func TestStoppedJournal(t *testing.T) {
	var told []error
	root, run := t.TempDir(), t.TempDir()
	d, err := state.Open(state.Config{Root: root, State: run, Wait: -1, Warn: func(err error) { told = append(told, err) }})
	if err != nil {
		t.Fatal(err)
	}
	p := process(d, "stop-in-journal")
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		p.Process.Kill()
		p.Wait()
	}()
	fmt.Fscanln(out, new(string))
	const commits = 200 // of which each would wait ten seconds
	for range commits {
		if err := d.UpdateRun(t.Context(), nil, func(tx *state.Tx) error { return bump(tx, "counter") }); err != nil {
			t.Fatal(err)
		}
	}
	if n := get(t, d, "counter"); n != commits {
		t.Errorf("counter is %d", n)
	}
	if len(told) != 1 || !strings.Contains(told[0].Error(), fmt.Sprintf("pid %d", p.Process.Pid)) {
		t.Errorf("told %v", told)
	}
}

// Writers killed at random moments leave the commit before or the commit after.
func TestKilledWriters(t *testing.T) {
	d := fresh(t)
	for i := range 20 {
		p := process(d, "count")
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 2 * time.Millisecond) // where it dies is what varies
		p.Process.Kill()
		p.Wait()
		before := get(t, d, "counter")
		if err := d.Update(context.Background(), nil, func(tx *state.Tx) error { return bump(tx, "counter") }); err != nil {
			t.Fatal(err)
		}
		if after := get(t, d, "counter"); after != before+1 {
			t.Fatalf("counter went from %d to %d", before, after)
		}
	}
}

func TestDamagedDatabase(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"truncated": func(p string) error { return os.Truncate(p, 9000) },
		"garbage":   func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("garbage!", 8192)), 0o600) },
		"pages": func(p string) error {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			for i := 2 * 4096; i < len(data); i++ {
				data[i] = 0xff
			}
			return os.WriteFile(p, data, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			for range 30 {
				if err := d.Update(context.Background(), nil, func(tx *state.Tx) error { return bump(tx, "counter") }); err != nil {
					t.Fatal(err)
				}
			}
			if err := damage(d.Path("meta.db")); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(d.Path("meta.db"))
			err := d.View(context.Background(), func(tx *state.Tx) error {
				_, err := things.Get(tx, "default", "counter")
				return err
			})
			if !errdefs.IsDataLoss(err) {
				t.Errorf("View: %v, want kind DataLoss", err)
			}
			for range 2 { // the first leaves nothing locked
				ended := make(chan error, 1)
				go func() {
					ended <- d.Update(context.Background(), nil, func(tx *state.Tx) error { return bump(tx, "counter") })
				}()
				select {
				case err := <-ended:
					if !errdefs.IsDataLoss(err) {
						t.Errorf("Update: %v, want kind DataLoss", err)
					}
				case <-time.After(30 * time.Second):
					t.Fatal("Update hangs")
				}
			}
			if after, _ := os.ReadFile(d.Path("meta.db")); string(after) != string(before) {
				t.Error("the damaged database was changed")
			}
		})
	}
}

// A page that points out of the database faults in whoever reads what bbolt gives, not in bbolt alone.
func TestDamagedElement(t *testing.T) {
	d := fresh(t)
	ctx := context.Background()
	large := state.Table[string]{Name: "large"}
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		return errors.Join(large.Put(tx, "default", "element", strings.Repeat("x", 8192)), large.Put(tx, "default", "zero", "0"))
	})
	if err != nil {
		t.Fatal(err)
	}
	state.Misplace(t, d.Path("meta.db"), "element")
	for name, fn := range map[string]func(tx *state.Tx) error{
		"Get": func(tx *state.Tx) error {
			_, err := large.Get(tx, "default", "element")
			return err
		},
		"All": func(tx *state.Tx) error {
			for _, err := range large.All(tx, "default") {
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		if err := d.View(ctx, fn); !errdefs.IsDataLoss(err) {
			t.Errorf("%s in a View: %v, want kind DataLoss", name, err)
		}
		if err := d.Update(ctx, nil, fn); !errdefs.IsDataLoss(err) {
			t.Errorf("%s in an Update: %v, want kind DataLoss", name, err)
		}
	}
}

// A bug of the caller is no damage.
func TestBugIsNoDamage(t *testing.T) {
	d := fresh(t)
	for name, bug := range map[string]func(){
		"nil":   func() { var v *thing; v.N++ },
		"index": func() { var list []thing; list[len(list)].N++ },
		"panic": func() { panic("bug") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			err := d.View(context.Background(), func(*state.Tx) error { bug(); return nil })
			t.Errorf("%s: %v", name, err)
		}()
	}
}

// A record that cannot be decoded is told by every listing, and can be deleted.
func TestDamagedRecord(t *testing.T) {
	d := fresh(t)
	ctx := context.Background()
	if err := d.Update(ctx, nil, func(tx *state.Tx) error { return errors.Join(bump(tx, "a"), bump(tx, "b")) }); err != nil {
		t.Fatal(err)
	}
	state.PutRaw(t, d.Path("meta.db"), "things", "default", "a", `{"n":`)
	list := func() (keys []string, failed int) {
		err := d.View(ctx, func(tx *state.Tx) error {
			for row, err := range things.All(tx, "default") {
				if keys = append(keys, row.Key); errdefs.IsDataLoss(err) {
					failed++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return keys, failed
	}
	if keys, failed := list(); len(keys) != 2 || failed != 1 {
		t.Errorf("listed %q, %d damaged", keys, failed)
	}
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		if _, err := things.Get(tx, "default", "a"); !errdefs.IsDataLoss(err) {
			t.Errorf("Get: %v", err)
		}
		return things.Delete(tx, "default", "a")
	})
	if err != nil {
		t.Fatal(err)
	}
	if keys, failed := list(); len(keys) != 1 || failed != 0 {
		t.Errorf("after its removal %q, %d damaged", keys, failed)
	}
}

func TestUnknownFieldsSurvive(t *testing.T) {
	d := fresh(t)
	type newer struct {
		N     int    `json:"n"`
		Extra string `json:"extra"`
	}
	ctx := context.Background()
	later := state.Table[newer]{Name: "things"}
	if err := d.Update(ctx, nil, func(tx *state.Tx) error { return later.Put(tx, "default", "x", newer{1, "keep me"}) }); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(ctx, nil, func(tx *state.Tx) error { return bump(tx, "x") }); err != nil {
		t.Fatal(err)
	}
	d.View(ctx, func(tx *state.Tx) error {
		if v, err := later.Get(tx, "default", "x"); err != nil || v != (newer{2, "keep me"}) {
			t.Errorf("record is %+v, %v", v, err)
		}
		return nil
	})
}

// TestPageSizes: a database that a machine with other pages has made is read and written.
func TestPageSizes(t *testing.T) {
	for _, size := range []int{1 << 10, 16 << 10, 64 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			d := fresh(t)
			ctx := context.Background()
			state.Remake(t, d.Path("meta.db"), size)
			state.Remake(t, d.Run("run.db"), size)
			for _, update := range []func(context.Context, *lock.Lock, func(*state.Tx) error) error{d.Update, d.UpdateRun} {
				for i := range 3 {
					if err := update(ctx, nil, func(tx *state.Tx) error { return bump(tx, fmt.Sprint(i)) }); err != nil {
						t.Fatal(err)
					}
					err := open(t, d.Path(), d.Run()).View(ctx, func(tx *state.Tx) error {
						_, err := things.Get(tx, "default", fmt.Sprint(i))
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
				if err := update(ctx, nil, func(tx *state.Tx) error { return things.Delete(tx, "default", "0") }); err != nil {
					t.Error(err)
				}
			}
			// The first meta page is damaged: the second one tells.
			f, err := os.OpenFile(d.Path("meta.db"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt(make([]byte, 80), 0)
			if err = errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			for _, d := range []*state.Dir{d, open(t, d.Path(), d.Run())} {
				if err := d.View(ctx, func(tx *state.Tx) error { _, err := things.Get(tx, "default", "1"); return err }); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestMove(t *testing.T) {
	d := fresh(t)
	type newer struct {
		N     int    `json:"n"`
		Extra string `json:"extra"`
	}
	ctx := context.Background()
	later := state.Table[newer]{Name: "things"}
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		return errors.Join(later.Put(tx, "default", "x", newer{1, "keep me"}), bump(tx, "taken"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.UpdateRun(ctx, nil, func(tx *state.Tx) error { return bump(tx, "taken there") }); err != nil {
		t.Fatal(err)
	}
	move := func(from, to string) error {
		return d.Update(ctx, nil, func(tx *state.Tx) error { return things.Move(tx, "default", from, to, thing{5}) })
	}
	for _, to := range []string{"x", "taken", "taken there"} {
		if err := move("x", to); !errdefs.IsAlreadyExists(err) {
			t.Errorf("to %q: %v", to, err)
		}
	}
	if err := move("x", ""); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	for _, from := range []string{"", "none", "taken there"} {
		if err := move(from, "y"); !errdefs.IsNotFound(err) {
			t.Errorf("from %q: %v", from, err)
		}
	}
	if err := move("x", "y"); err != nil {
		t.Fatal(err)
	}
	d.View(ctx, func(tx *state.Tx) error {
		if v, err := later.Get(tx, "default", "y"); err != nil || v != (newer{5, "keep me"}) {
			t.Errorf("record is %+v, %v", v, err)
		}
		if _, err := later.Get(tx, "default", "x"); !errdefs.IsNotFound(err) {
			t.Errorf("the old one is there: %v", err)
		}
		return nil
	})
}

// A state directory of another boot is stale as a whole; the durable one is not.
func TestReboot(t *testing.T) {
	d := fresh(t)
	ctx := context.Background()
	for _, update := range []func(context.Context, *lock.Lock, func(*state.Tx) error) error{d.Update, d.UpdateRun} {
		if err := update(ctx, nil, func(tx *state.Tx) error {
			key := "run"
			if tx.Durable() {
				key = "meta"
			}
			return bump(tx, key)
		}); err != nil {
			t.Fatal(err)
		}
	}
	os.MkdirAll(d.Run("tasks/default/x"), 0o700)
	if err := os.WriteFile(d.Run("boot"), []byte("another boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	d = open(t, d.Path(), d.Run())
	if get(t, d, "meta") != 1 || get(t, d, "run") != 0 {
		t.Errorf("after a reboot: meta %d, run %d; want 1, 0", get(t, d, "meta"), get(t, d, "run"))
	}
	if _, err := os.Stat(d.Run("tasks")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("tasks of another boot: %v", err)
	}
}

// tree lists the files below a directory, without those that every Open makes.
func tree(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err == nil && !e.IsDir() && name != "boot" && name != "pair" && !strings.HasPrefix(name, "locks/") {
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func write(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// What is not ctrd's stays in both directories, also when the rest goes with its boot.
func TestForeignFilesStay(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	foreign := []string{".new-year", ".profile", "letters/tasks/1", "run", "trash/LETTER", "trash/letter"}
	write(t, root, foreign...)
	write(t, run, foreign...)
	d := open(t, root, run)
	check := func(want []string) {
		t.Helper()
		d.SweepTrash()
		if got := tree(t, root); !slices.Equal(got, foreign) {
			t.Errorf("root has %q, want %q", got, foreign)
		}
		if got := tree(t, run); !slices.Equal(got, want) {
			t.Errorf("state has %q, want %q", got, want)
		}
	}
	check(foreign)
	write(t, run, "run.db", "run.db.new", "leases/x", "events/1", "tasks/default/x/exit.json", "s/1")
	open(t, root, run) // of this boot: nothing goes
	if got := tree(t, run); len(got) != len(foreign)+6 {
		t.Errorf("state has %q", got)
	}
	if err := os.WriteFile(d.Run("boot"), []byte("another boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, root, run)
	check(foreign[1:]) // a temporary name may be what a killed writer left
}

// A directory with ctrd's names but without a stamp is refused, and nothing in it is lost.
func TestNoStamp(t *testing.T) {
	for _, name := range []string{"run.db", "leases/x", "events/x", "tasks/x", "s/x"} {
		run := t.TempDir()
		write(t, run, name)
		for range 2 {
			_, err := state.Open(state.Config{Root: t.TempDir(), State: run})
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), run) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := tree(t, run); !slices.Equal(got, []string{name}) {
			t.Errorf("%s: the directory has %q", name, got)
		}
	}
	run := t.TempDir()
	write(t, run, "boot/vmlinuz")
	if _, err := state.Open(state.Config{Root: t.TempDir(), State: run}); err == nil {
		t.Error("a directory is taken for the stamp")
	}
	if got := tree(t, run); !slices.Equal(got, []string{"boot/vmlinuz"}) {
		t.Errorf("the directory has %q", got)
	}
}

// Root and state directory must lie apart, whatever they are called.
func TestNested(t *testing.T) {
	base := t.TempDir()
	at := func(name string) string { return filepath.Join(base, name) }
	if err := errors.Join(os.Mkdir(at("real"), 0o700), os.Symlink("real", at("link"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{"real", "real"}, {"real", "link"}, {"link", "real/."}, {"real/new", "real/new"}, {"link/new", "real/new"},
		{"real/tasks/root", "real"}, {"link/new/events", "real/new"}, {"real/s/b/c", "link"}, {"real/trash", "real"},
		{"real", "real/content"}, {"real", "link/snapshots/state"}, {"real", "real/trash/x"},
	} {
		root, run := at(c[0]), at(c[1])
		_, err := state.Open(state.Config{Root: root, State: run})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), run) {
			t.Errorf("%v: %v", c, err)
		}
		if got, _ := os.ReadDir(at("real")); len(got) != 0 {
			t.Errorf("%v: %v was made", c, got)
		}
	}
	for _, c := range [][2]string{{"real/root", "real/state"}, {"a", "ab"}, {"x/b", "x/a"}, {"link/1", "real/2"}, {"n", "n/run"}, {"m/root", "m"}} {
		if _, err := state.Open(state.Config{Root: at(c[0]), State: at(c[1])}); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	d := fresh(t)
	ctx := context.Background()
	if err := d.Update(ctx, nil, func(tx *state.Tx) error { return bump(tx, "x") }); err != nil {
		t.Fatal(err)
	}
	state.SetSchema(t, d.Path("meta.db"), "2")
	err := d.View(ctx, func(tx *state.Tx) error { _, err := things.Get(tx, "default", "x"); return err })
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "schema 2") {
		t.Errorf("View of a newer schema: %v", err)
	}
}

func TestWriteFileIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := state.WriteFile(path, []byte("one"), true); err != nil {
		t.Fatal(err)
	}
	if err := state.WriteFile(path, []byte("two"), false); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(path); string(data) != "two" {
		t.Errorf("file holds %q", data)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d files in the directory, want 1", len(entries))
	}
}

// The generation is that of the last commit, in a view and in a transaction that writes.
func TestGeneration(t *testing.T) {
	d := fresh(t)
	thing := state.Table[string]{Name: "things"}
	for i := range 3 {
		var view, write int
		err := d.View(context.Background(), func(tx *state.Tx) (err error) {
			view, err = tx.Generation(true)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		err = d.Update(context.Background(), nil, func(tx *state.Tx) (err error) {
			if write, err = tx.Generation(true); err != nil {
				return err
			}
			return thing.Put(tx, "ns", "k", "v")
		})
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && view != write {
			t.Errorf("a view sees %d, a writer %d", view, write)
		}
		err = d.View(context.Background(), func(tx *state.Tx) error {
			after, err := tx.Generation(true)
			if after != write+1 {
				t.Errorf("%d after %d", after, write)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestSome: several records come in the order of their keys, from either database, in a view and where they are written.
func TestSome(t *testing.T) {
	d := fresh(t)
	put := func(key string, n int) func(*state.Tx) error {
		return func(tx *state.Tx) error { return things.Put(tx, "default", key, thing{n}) }
	}
	if err := errors.Join(d.Update(t.Context(), nil, put("a", 1)), d.Update(t.Context(), nil, put("c", 3)), d.UpdateRun(t.Context(), nil, put("b", 2))); err != nil {
		t.Fatal(err)
	}
	look := func(tx *state.Tx) error {
		got, err := things.Some(tx, "default", []string{"c", "none", "b", "a", "c"})
		if err != nil {
			return err
		}
		var n []int
		for _, one := range got {
			if one == nil {
				one = &thing{}
			}
			n = append(n, one.N)
		}
		if !slices.Equal(n, []int{3, 0, 2, 1, 3}) {
			return fmt.Errorf("got %v", n)
		}
		if got, err := things.Some(tx, "other", []string{"a"}); err != nil || got[0] != nil {
			return fmt.Errorf("of another namespace: %v, %w", got, err)
		}
		got, err = things.Some(tx, "default", nil)
		if len(got) > 0 {
			return fmt.Errorf("of no key: %v", got)
		}
		return err
	}
	if err := errors.Join(d.View(t.Context(), look), d.Update(t.Context(), nil, look), d.UpdateRun(t.Context(), nil, look)); err != nil {
		t.Error(err)
	}
}

// TestKeepOpen: an append leaves nothing of the state directory open, so that its file system can be unmounted, unless a process has asked for it.
func TestKeepOpen(t *testing.T) {
	d := open(t, t.TempDir(), t.TempDir())
	isOpen := func() bool {
		t.Helper()
		if err := d.Journal().Append("default", event.NamespaceDelete{Name: "x"}); err != nil {
			t.Fatal(err)
		}
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
			name, _ := os.Readlink("/proc/self/fd/" + fd.Name())
			return strings.HasPrefix(name, d.Run("events")+"/0")
		})
	}
	if isOpen() {
		t.Error("an append leaves the segment open")
	}
	d.KeepOpen(true)
	if !isOpen() {
		t.Error("the segment is not kept")
	}
	d.KeepOpen(false)
	if isOpen() {
		t.Error("the segment is kept for ever")
	}
}
