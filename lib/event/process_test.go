// SPDX-License-Identifier: Apache-2.0

package event

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestMain makes this binary a process that appends: CTRD_TEST_DIR is the journal, the first argument
// names the process.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CTRD_TEST_DIR"); dir != "" {
		j := Journal{Dir: dir}
		if os.Args[1] == "stop" {
			t := j.Turn()
			fmt.Println("stopped", t.held != nil)
			continued := make(chan os.Signal, 1) // this thread may run on for a moment while another takes the signal
			signal.Notify(continued, syscall.SIGCONT)
			syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			<-continued
			if err := t.Append(Entry{Namespace: "default", Payload: ContainerDelete{ID: "late"}}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
		if os.Args[1] == "hold" {
			j.Patience = &Patience{Total: time.Second}
			for range holds {
				t := j.Turn()
				time.Sleep(100 * time.Millisecond) // all together longer than one has patience
				if err := t.Append(Entry{Namespace: "default", Payload: ContainerDelete{ID: "held"}}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
			}
			os.Exit(0)
		}
		for i := range appends {
			var batch []Payload
			for k := range 1 + i%3 {
				batch = append(batch, ContainerDelete{ID: fmt.Sprintf("%s %d %d", os.Args[1], i, k)})
			}
			if i%10 == 0 {
				batch = append(batch, large(fmt.Sprintf("%s %d %d", os.Args[1], i, len(batch)), 50<<10))
			}
			if err := j.Append("ns-"+os.Args[1], batch...); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	appends = 200
	holders = 15
	holds   = 2
)

// Where many append, all together for longer than one has patience, nothing is lost: the lock passes from
// hand to hand.
func TestBusyJournal(t *testing.T) {
	j := Journal{Dir: t.TempDir(), Patience: &Patience{Total: time.Second, Lost: func(err error) { t.Error(err) }}}
	var all []*exec.Cmd
	for range holders {
		c := exec.Command("/proc/self/exe", "hold")
		c.Env = append(os.Environ(), "CTRD_TEST_DIR="+j.Dir)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	for range holds {
		add(t, j, "x")
	}
	for _, c := range all {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	if n := last(t, j); n != (holders+1)*holds {
		t.Errorf("%d events, want %d", n, (holders+1)*holds)
	}
}

// While a holder of the journal's lock is stopped, each append ends, all of them together when their patience
// does. What is lost is told once, counted, and shows as a gap and in the next event; then the patience is new.
func TestStoppedHolder(t *testing.T) {
	j := Journal{Dir: t.TempDir(), Patience: &Patience{Total: 200 * time.Millisecond}}
	told := 0
	j.Patience.Lost = func(err error) {
		told++
		if !errdefs.IsAborted(err) {
			t.Error(err)
		}
	}
	add(t, j, "first")
	p := exec.Command("/proc/self/exe", "stop")
	p.Env = append(os.Environ(), "CTRD_TEST_DIR="+j.Dir)
	p.Stderr = os.Stderr
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Process.Kill()
	var held bool
	if _, err := fmt.Fscanln(out, new(string), &held); err != nil || !held {
		t.Fatalf("the other process has its turn: %v, %v", held, err)
	}
	const lost = 1000 // ten seconds for each were three hours
	for range lost / 2 {
		if err := j.Append("default", ContainerDelete{}, ContainerDelete{}); !errdefs.IsAborted(err) {
			t.Fatal(err)
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	if left := j.Patience.left(); left != minWait {
		t.Errorf("patience for %s is left", left)
	}
	p.Process.Signal(syscall.SIGCONT)
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	j.Patience.spent = 0 // it may take the other process longer to let go than a spent patience
	add(t, j, "last")
	if left := j.Patience.left(); left != j.Patience.Total {
		t.Errorf("patience for %s after a success", left)
	}
	var got []string
	for e, err := range j.Read(t.Context(), 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Seq, e.Lost, e.Field("id")))
	}
	if want := []string{"1 0first", "1002 1000late", "1003 1000last"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Processes append at once while one follows: the follower and a later reader see the same, without a
// gap over several segments, the events of each process in its order, and those of one append together.
func TestManyProcesses(t *testing.T) {
	j := Journal{Dir: t.TempDir()}
	const processes = 5
	const total = processes * (appends/3*6 + 1 + 2 + appends/10)
	followed := make(chan []Event)
	go func() {
		var all []Event
		for e, err := range j.Read(t.Context(), 0, true) {
			if err != nil {
				t.Error(err)
				break
			}
			if all = append(all, e); len(all) == total {
				break
			}
		}
		followed <- all
	}()
	var cmds []*exec.Cmd
	for p := range processes {
		c := exec.Command("/proc/self/exe", fmt.Sprint(p))
		c.Env = append(os.Environ(), "CTRD_TEST_DIR="+j.Dir)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, c)
	}
	for _, c := range cmds {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	if names, err := j.segments(); err != nil || len(names) < 3 {
		t.Errorf("segments %v, %v", names, err)
	}
	all := <-followed
	checkOrder(t, all, total, processes)
	n := 0
	for e, err := range j.Read(t.Context(), 0, false) {
		if err != nil || n >= len(all) || e.Seq != all[n].Seq || string(e.Data) != string(all[n].Data) {
			t.Fatalf("event %d read afterwards is another one: %d, %v", n, e.Seq, err)
		}
		n++
	}
	if n != total {
		t.Errorf("%d events are there, want %d", n, total)
	}
}

func checkOrder(t *testing.T, all []Event, total, processes int) {
	t.Helper()
	if len(all) != total {
		t.Fatalf("%d events were seen, want %d", len(all), total)
	}
	type at struct{ i, k int }
	now := make([]at, processes)
	for n, e := range all {
		if e.Seq != uint64(n+1) {
			t.Fatalf("event %d is at place %d", e.Seq, n+1)
		}
		var p, i, k int
		if _, err := fmt.Sscanf(e.Field("id"), "%d %d %d", &p, &i, &k); err != nil {
			t.Fatal(err)
		}
		if e.Namespace != fmt.Sprintf("ns-%d", p) {
			t.Errorf("event of process %d in namespace %s", p, e.Namespace)
		}
		switch {
		case k == 0:
			if n > 0 && i != 0 && i != now[p].i+1 {
				t.Fatalf("append %d of process %d follows %d", i, p, now[p].i)
			}
		case now[p] != at{i, k - 1} || all[n-1].Namespace != e.Namespace:
			t.Fatalf("event %d of append %d of process %d is apart", k, i, p)
		}
		now[p] = at{i, k}
	}
}
