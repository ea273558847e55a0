// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// deaths counts, over all scenarios, how often a process died at each point.
var deaths = struct {
	sync.Mutex
	at map[string]int
}{at: map[string]int{}}

// TestPoints kills each scenario's command, and the supervisor that it starts, at every crash point that
// they pass. Then fsck finds no broken invariant, the same command run again succeeds, its result is
// right, and when all is removed nothing is left. A point in the source that nobody dies at fails.
func TestPoints(t *testing.T) {
	t.Parallel()
	t.Run("scenario", func(t *testing.T) {
		for _, s := range scenarios() {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s.everywhere(t)
			})
		}
	})
	if t.Failed() {
		return
	}
	all := 0
	_, criu := checkpoints()
	for _, p := range pointsInSource(t) {
		all += deaths.at[p]
		if criu != "" && isOfCheckpoints(p) {
			t.Logf("nobody dies at %q: it %s", p, criu)
			continue
		}
		if deaths.at[p] == 0 {
			t.Errorf("no scenario passes the crash point %q", p)
		}
	}
	t.Logf("%d deaths at %d points", all, len(deaths.at))
}

// A scenario is a command that is killed, what comes before it, and what is done again after it.
type scenario struct {
	name    string
	before  []step
	command []string
	status  int  // that of the command when nobody is killed
	lives   bool // what the command starts goes on after it: nobody is killed at the end of that
	// then makes the supervisor of the command go through the rest of its life, whatever comes of it.
	then [][]string
	// again is the same command, or what a person types who does not know how far it came; it includes
	// a check of the result.
	again []step
	only  []string // beginnings of the points that are killed at; nil: all
	end   []step   // what ends by this, and not by a removal of all containers
	// driver keeps the snapshots; empty: the default one.
	driver string
}

// step is part of a scenario that must go well.
type step func(*testing.T, *world.World)

func (s scenario) everywhere(t *testing.T) {
	passed := s.undisturbed(t)
	if len(passed) == 0 {
		t.Fatal("it passes no crash point")
	}
	for _, p := range passed {
		if s.only != nil && !slices.ContainsFunc(s.only, func(beginning string) bool { return strings.HasPrefix(p, beginning) }) {
			continue
		}
		t.Run(p, func(t *testing.T) { s.crash(t, p) })
	}
}

// undisturbed runs the scenario without a death and lists the points that it passes, those that one
// process passes more than once also as point@2 and point@3.
func (s scenario) undisturbed(t *testing.T) []string {
	w := s.world(t)
	trace := s.begin(t, w)
	if r := w.Run(t, []string{"CTRD_CRASH_TRACE=" + trace}, in(w, s.command)...); r.Status != s.status {
		t.Fatalf("want status %d: %s", s.status, r)
	}
	for _, c := range s.then {
		w.Run(t, nil, c...)
	}
	ended(t, w)
	w.Whole(t)
	passed := read(t, trace)
	for _, e := range s.end {
		e(t, w)
	}
	w.Empty(t)
	if !s.lives {
		passed = read(t, trace)
	}
	points := map[string]bool{}
	for program, times := range passed {
		t.Logf("%s passes %v", program, times)
		for p, n := range times {
			points[p] = true
			for i := 2; i <= min(n, 3); i++ {
				points[fmt.Sprintf("%s@%d", p, i)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(points))
}

// begin does what comes before the command and makes the directory for traces.
func (s scenario) begin(t *testing.T, w *world.World) (trace string) {
	for _, b := range s.before {
		b(t, w)
	}
	trace = filepath.Join(w.Dir, "trace")
	if err := os.Mkdir(trace, 0o755); err != nil {
		t.Fatal(err)
	}
	return trace
}

func (s scenario) crash(t *testing.T, point string) {
	w := s.world(t)
	trace := s.begin(t, w)
	r := w.Run(t, []string{"CTRD_CRASH=" + point, "CTRD_CRASH_TRACE=" + trace}, in(w, s.command)...)
	for _, c := range s.then {
		w.Run(t, nil, c...)
	}
	name := died(t, trace, point)
	if name == "" {
		t.Fatalf("nobody came to the point: %s", r)
	}
	w.Whole(t)
	for _, a := range s.again {
		a(t, w)
	}
	w.Whole(t)
	for _, e := range s.end {
		e(t, w)
	}
	w.Empty(t)
	deaths.Lock()
	defer deaths.Unlock()
	deaths.at[name]++
}

// ended waits until supervisors that have nothing to supervise are gone, so that their trace is whole.
func ended(t *testing.T, w *world.World) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		busy := false
		for _, c := range w.Cgroups() {
			busy = busy || len(procs(c)) > 0
		}
		if busy || len(w.Processes()) == 0 {
			return
		}
	}
	t.Fatalf("these do not end: %v", w.Leaks())
}

func procs(cgroup string) []string {
	data, _ := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	return strings.Fields(string(data))
}

// died gives the name of the point if a process came to it, waiting a moment for a supervisor that does
// so by itself.
func died(t *testing.T, trace, point string) string {
	name, nth, counted := strings.Cut(point, "@")
	n := 1
	if counted {
		fmt.Sscan(nth, &n)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		for _, times := range read(t, trace) {
			if times[name] >= n {
				return name
			}
		}
		if time.Now().After(deadline) {
			return ""
		}
	}
}

// read gives for each process, PROGRAM.PID, how often it has passed each point.
func read(t *testing.T, trace string) map[string]map[string]int {
	all := map[string]map[string]int{}
	files, err := os.ReadDir(trace)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(trace, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		times := map[string]int{}
		for p := range strings.FieldsSeq(string(data)) {
			times[p]++
		}
		all[f.Name()] = times
	}
	return all
}

var pointCall = regexp.MustCompile(`crash\.Point\("([^"]+)"\)`)

// pointsInSource lists the names of all crash points.
func pointsInSource(t *testing.T) []string {
	found := map[string]bool{}
	for _, dir := range []string{"lib", "cmd"} {
		err := filepath.WalkDir(filepath.Join(top, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			for _, m := range pointCall.FindAllSubmatch(data, -1) {
				found[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return slices.Sorted(maps.Keys(found))
}
