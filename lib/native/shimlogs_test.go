// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// aTask makes the directory of a task as the starter of one makes it, with its link, and gives the path of its shim's log.
func aTask(t *testing.T, d *state.Dir, ns, id string) string {
	t.Helper()
	dir := d.Run("tasks", ns, id, string(taskdir.NewIncarnation()))
	link := d.Run(taskdir.Bundles, ns, id)
	for _, p := range []string{filepath.Join(dir, taskdir.Bundle), filepath.Dir(link)} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(dir, taskdir.ShimLog)
	add(t, log, "")
	if err := os.Symlink(filepath.Join(dir, taskdir.Bundle), link); err != nil {
		t.Fatal(err)
	}
	return log
}

func add(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestShimLogs: each line of a shim's log is told once, from whatever moment on the task was there, whole, and however long it is; the next server
// goes on where the last has ended, and begins again with a log that is begun anew.
func TestShimLogs(t *testing.T) {
	d := openDir(t)
	early := aTask(t, d, "n1", "a.b")
	add(t, early, "one\n\ntwo ")
	texts := func(s *served) (all []string) {
		for line := range strings.Lines(s.log.String()) {
			if _, text, ok := strings.Cut(line, `"a shim says" `); ok {
				all = append(all, strings.TrimSpace(text))
			}
		}
		return all
	}
	says := func(s *served, what string, want ...string) {
		t.Helper()
		eventually(t, what, func() bool { return len(texts(s)) >= len(want) })
		if got := texts(s); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	const a, b = "namespace=n1 container=a.b text=", "namespace=n2 container=a.b text="
	first := serve(t, Options{Dir: d})
	says(first, "what was there", a+"one")
	add(t, early, "and a half\n")
	says(first, "a line in two parts", a+"one", a+`"two and a half"`)
	late := aTask(t, d, "n2", "a.b")
	long := strings.Repeat("x", maxShimLine)
	add(t, late, long+"y\n")
	says(first, "a task of a namespace that there was not", a+"one", a+`"two and a half"`, b+long, b+"y")
	first.Stop(context.Background())

	add(t, early, "three\n")
	second := serve(t, Options{Dir: d})
	says(second, "what was said while no server ran", a+"three")
	if err := os.Truncate(early, 0); err != nil {
		t.Fatal(err)
	}
	add(t, early, "1\n")
	says(second, "a log that is begun anew", a+"three", a+"1")

	// Of a task that goes, and comes again under its name, the new log is followed.
	if err := os.RemoveAll(d.Run("tasks", "n1")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(d.Run(taskdir.Bundles, "n1")); err != nil {
		t.Fatal(err)
	}
	add(t, aTask(t, d, "n1", "a.b"), "again\n")
	says(second, "the next task of that id", a+"three", a+"1", a+"again")
}
