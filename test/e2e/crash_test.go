// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A story is a command that is killed, what comes before it, and what is done again after it.
type story struct {
	name    string
	before  [][]string
	command []string
	again   [][]string // the same, or what a person does who does not know how far it came
	after   [][]string // so that nothing is left
}

func stories() []story {
	img := registry + "/busybox:1"
	pull := []string{"ctr-pull", "-q", img}
	run := []string{"ctr-task", "run", "-d", "--name", "c", img, "sleep", "1000"}
	rm := []string{"ctr-task", "rm", "-f", "c"}
	return []story{
		{name: "pull", command: pull, again: [][]string{pull, {"ctr-task", "run", "--rm", img, "true"}}},
		{name: "image-rm", before: [][]string{pull}, command: []string{"ctr-image", "rm", img}, again: [][]string{{"ctr-image", "rm", "-f", img}, pull, {"ctr-task", "run", "--rm", img, "true"}}},
		{name: "image-tag", before: [][]string{pull}, command: []string{"ctr-image", "tag", img, registry + "/other:1"}, again: [][]string{{"ctr-image", "tag", img, registry + "/other:1"}}},
		{name: "run-rm", before: [][]string{pull}, command: []string{"ctr-task", "run", "--rm", "--name", "c", img, "true"}, again: [][]string{rm, {"ctr-task", "run", "--rm", "--name", "c", img, "true"}}, after: [][]string{rm}},
		{name: "run", before: [][]string{pull}, command: run, again: [][]string{rm, run, {"ctr-task", "exec", "c", "true"}}, after: [][]string{rm}},
		{name: "start", before: [][]string{pull, {"ctr-task", "create", "--name", "c", img, "sleep", "1000"}}, command: []string{"ctr-task", "start", "c"}, again: [][]string{{"ctr-task", "stop", "-t", "0", "c"}, {"ctr-task", "start", "c"}}, after: [][]string{rm}},
		{name: "exec", before: [][]string{pull, run}, command: []string{"ctr-task", "exec", "c", "true"}, again: [][]string{{"ctr-task", "rm", "-f", "c"}, run, {"ctr-task", "exec", "c", "true"}}, after: [][]string{rm}},
		{name: "stop", before: [][]string{pull, run}, command: []string{"ctr-task", "stop", "-t", "0", "c"}, again: [][]string{{"ctr-task", "stop", "-t", "0", "c"}, {"ctr-task", "wait", "c"}}, after: [][]string{rm}},
		{name: "rm", before: [][]string{pull, run}, command: rm, again: [][]string{rm, run}, after: [][]string{rm}},
		{name: "prepare", before: [][]string{pull}, command: []string{"ctr-snap", "prepare", "s"}, again: [][]string{{"ctr-snap", "rm", "-f", "s"}, {"ctr-snap", "prepare", "s"}}},
		{name: "commit", before: [][]string{{"ctr-snap", "prepare", "s"}}, command: []string{"ctr-snap", "commit", "n", "s"}, again: [][]string{{"ctr-snap", "rm", "-f", "n"}, {"ctr-snap", "rm", "-f", "s"}, {"ctr-snap", "prepare", "s"}, {"ctr-snap", "commit", "n", "s"}}},
		{name: "snap-rm", before: [][]string{{"ctr-snap", "prepare", "s"}}, command: []string{"ctr-snap", "rm", "s"}, again: [][]string{{"ctr-snap", "rm", "-f", "s"}, {"ctr-snap", "prepare", "s"}}},
	}
}

// TestCrash kills each command, and its supervisor, at every named crash point that they pass. Then fsck
// finds no broken invariant and the same command succeeds. The commands must be built with the tag
// crashpoints (make crash).
func TestCrash(t *testing.T) {
	if os.Getenv("CTRD_E2E_BIN") == "" {
		t.Skip("make crash builds the commands with crash points and runs this")
	}
	points := 0
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			passed := s.pass(t)
			if len(passed) == 0 {
				t.Fatal("it passes no crash point")
			}
			for _, p := range passed {
				t.Run(p, func(t *testing.T) { s.crash(t, p) })
				points++
			}
		})
	}
	t.Logf("%d deaths", points)
}

// pass runs the story undisturbed and lists the points it passes.
func (s story) pass(t *testing.T) []string {
	w := newWorld()
	w.close(t)
	for _, c := range s.before {
		w.must(t, c...)
	}
	trace := filepath.Join(w.dir, "trace")
	if _, errs, status := w.try([]string{"CTRD_CRASH_TRACE=" + trace}, s.command...); status != 0 {
		t.Fatalf("%s: status %d: %s", strings.Join(s.command, " "), status, errs)
	}
	for _, c := range s.after {
		w.must(t, c...)
	}
	w.settle(t)
	return traced(trace)
}

func traced(path string) []string {
	data, _ := os.ReadFile(path)
	lines := strings.Fields(string(data))
	slices.Sort(lines)
	return slices.Compact(lines)
}

func (s story) crash(t *testing.T, point string) {
	w := newWorld()
	w.close(t)
	for _, c := range s.before {
		w.must(t, c...)
	}
	trace := filepath.Join(w.dir, "trace")
	_, errs, status := w.try([]string{"CTRD_CRASH=" + point, "CTRD_CRASH_TRACE=" + trace}, s.command...)
	told := fmt.Sprintf("status %d: %s", status, errs)
	if out, errs, status := w.try(nil, "ctrd", "fsck"); status != 0 {
		t.Fatalf("fsck after the crash: status %d: %s%s", status, out, errs)
	}
	for _, c := range s.again {
		w.must(t, c...)
	}
	w.must(t, "ctrd", "fsck")
	for _, c := range s.after {
		w.must(t, c...)
	}
	w.settle(t)
	w.must(t, "ctrd", "fsck")
	// A supervisor passes some points only when what comes later ends it.
	if !slices.Contains(traced(trace), point) {
		t.Fatalf("the point was not reached: %s", told)
	}
}
