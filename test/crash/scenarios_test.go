// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// words splits a command line at blanks, but for what follows " -c ", which is one script.
func words(line string) []string {
	line, script, has := strings.Cut(line, " -c ")
	w := strings.Fields(line)
	if has {
		w = append(w, "-c", script)
	}
	return w
}

// do runs a command that succeeds.
func do(line string) step { return want(0, line) }

// want runs a command that ends with a status.
func want(status int, line string) step {
	return func(t *testing.T, w *world.World) { w.Want(t, status, in(w, words(line))...) }
}

// in puts a word of the world's own in place of WORLD.
func in(w *world.World, args []string) []string {
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "WORLD", filepath.Base(w.Dir))
		args[i] = strings.ReplaceAll(args[i], "NETNS", hostNetns(w))
	}
	return args
}

// prints runs a command that succeeds and prints exactly this line.
func prints(text, line string) step {
	return func(t *testing.T, w *world.World) {
		if got := w.Must(t, words(line)...); got != text+"\n" {
			t.Fatalf("%s prints %q, want %q", line, got, text)
		}
	}
}

// dead runs a command that dies at a point.
func dead(point, line string) step {
	return func(t *testing.T, w *world.World) {
		if r := w.Run(t, []string{"CTRD_CRASH=" + point}, in(w, words(line))...); r.Signal != syscall.SIGKILL {
			t.Fatalf("it does not die at %s: %s", point, r)
		}
	}
}

// waits wants ctr-task wait to tell this status of the container c.
func waits(status int) step { return func(t *testing.T, w *world.World) { waitFor(t, w, "c", status) } }

func waitFor(t *testing.T, w *world.World, id string, status int) {
	t.Helper()
	if got := w.Want(t, status, "ctr-task", "wait", id); got != fmt.Sprintln(status) {
		t.Fatalf("ctr-task wait %s prints %q, want %d", id, got, status)
	}
}

// orphaned starts a container c and kills its supervisor.
func orphaned(options string) []step {
	return []step{pull(small), do("ctr-task run -d --name c " + options + " " + small + " sleep 1000"), func(t *testing.T, w *world.World) { orphan(t, w, "c") }}
}

// orphan kills the supervisor of a container that runs.
func orphan(t *testing.T, w *world.World, id string) {
	s := supervisor(w, id)
	if s == nil {
		t.Fatalf("container %s has no supervisor", id)
	}
	s.kill(syscall.SIGKILL)
	s.wait(t)
}

// ready waits until the program of a container says so by making the file /ready.
func ready(t *testing.T, w *world.World) {
	w.Must(t, "ctr-task", "exec", "c", "sh", "-c", "until test -e /ready; do sleep 0.01; done")
}

func pull(image string) step { return do("ctr-pull -q " + image) }

func scenarios() []scenario {
	runs := do("ctr-task run --rm " + small + " true")
	dumps, _ := checkpoints()
	return concat(pulls(runs), pushes(), creates(runs), runsOf(), bundles(), signals(), removals(), snapshots(), networks(), pods(), manifests(), mountsOf(), drivers(), spoiled(), dumps)
}

func concat(all ...[]scenario) (s []scenario) {
	for _, a := range all {
		s = append(s, a...)
	}
	return s
}

// pushes writes to a repository of each world's own, by another name of the registry than that which the blobs
// came from: otherwise they would be there, or mounted.
func pushes() []scenario {
	to := "localhost" + registry[strings.LastIndex(registry, ":"):] + "/WORLD:1"
	all := "ctr-push -q --all-platforms " + second + " " + to
	return []scenario{
		{
			name: "push", before: []step{pull(large)}, command: words("ctr-push -q " + large + " " + to),
			again: []step{do("ctr-push -q " + large + " " + to), do("ctr-image rm " + large), pull(to), do("ctrd fsck --deep")},
		},
		{
			name: "push of an index", before: []step{do("ctr-pull -q --platform linux/arm64 --no-unpack " + second), pull(second)},
			command: words(all), again: []step{do(all), do("ctr-image rm " + second), pull(to)},
		},
	}
}

func pulls(runs step) []scenario {
	whole := do("ctrd fsck --deep")
	imports := "ctr-image import --name app:1 " + filepath.Join(bin, "layout")
	return []scenario{
		{name: "pull", command: words("ctr-pull -q " + large), again: []step{pull(large), whole, sameTree(large)}},
		{
			name: "pull with one layer present", before: []step{pull(small)}, command: words("ctr-pull -q " + second),
			again: []step{pull(second), whole, sameTree(second), runs},
		},
		{name: "image import", command: words(imports), again: []step{do(imports), whole, do("ctr-task run --rm app:1 true")}},
		{name: "blob of a client", command: words("putblob text"), again: []step{do("putblob text"), whole}},
		{
			name: "image import", before: []step{archived(large)}, command: words("ctr-image import " + archiveOf(large)),
			again: []step{do("ctr-image import " + archiveOf(large)), whole, sameTree(large)},
		},
		{
			name: "image export", before: []step{pull(large), archived(large), removed(exported)}, command: words("ctr-image export -o " + exported + " " + large),
			again: []step{do("ctr-image export -o " + exported + " " + large), sameFile(exported, archiveOf(large))},
		},
		{
			name: "image export to a directory", before: []step{pull(small), removed(exported + ".dir")}, command: words("ctr-image export --format oci-dir -o " + exported + ".dir " + small),
			again: []step{removed(exported + ".dir"), do("ctr-image export --format oci-dir -o " + exported + ".dir " + small), do("ctr-image import " + exported + ".dir"), whole, runs},
		},
		{
			name: "image commit", before: []step{pull(small), do("ctr-task run --name c " + small + " touch /made")}, command: words("ctr-image commit c made:1"),
			again: []step{do("ctr-image commit c made:1"), do("ctr-task rm c"), do("ctr-task run --rm made:1 test -e /made"), whole, do("ctr-image rm made:1")},
		},
		{
			name: "image commit of a container that runs", before: []step{pull(small), do("ctr-task run -d --name c " + small + " sleep 1000")},
			command: words("ctr-image commit c made:1"),
			again:   []step{do("ctr-image commit c made:1"), do("ctr-task rm -f c"), do("ctr-task run --rm made:1 true"), whole, do("ctr-image rm made:1")},
		},
		{
			name: "image mount", before: []step{pull(small), mountPoint}, command: words("ctr-image mount " + small + " " + exported + ".mnt"),
			again: []step{do("ctr-image unmount -f " + exported + ".mnt"), do("ctr-image mount " + small + " " + exported + ".mnt"), do("ctr-image unmount " + exported + ".mnt"), do("ctr-image rm " + small)},
			then:  [][]string{{"ctr-image", "unmount", "-f", exported + ".mnt"}},
		},
		{
			name: "image unmount", before: []step{pull(small), mountPoint, do("ctr-image mount " + small + " " + exported + ".mnt")}, command: words("ctr-image unmount " + exported + ".mnt"),
			again: []step{do("ctr-image unmount -f " + exported + ".mnt"), do("ctr-image rm " + small)},
		},
		{
			name: "image prune", before: []step{pull(large), pull(small)}, command: words("ctr-image prune -a"),
			again: []step{do("ctr-image prune -a"), do("ctr-image rm -f none"), pull(small), onlyImage(small)},
		},
		{
			name: "image tag", before: []step{pull(small)}, command: words("ctr-image tag " + small + " other:1"),
			again: []step{do("ctr-image tag " + small + " other:1"), do("ctr-task run --rm other:1 true")},
		},
		{
			name: "image rm", before: []step{pull(large), pull(small)}, command: words("ctr-image rm " + large),
			again: []step{do("ctr-image rm -f " + large), onlyImage(small), runs, pull(large), sameTree(large)},
		},
		{
			name: "blob put", command: words("ctr-image blob put --ref r --label containerd.io/gc.root= " + os.Args[0]),
			again: []step{do("ctr-image blob put --ref r --label containerd.io/gc.root= " + os.Args[0]), whole, noIngest, do("ctrd gc")},
		},
		{
			name: "collection of what the dead held", before: []step{pull(small), dead("lease.held@2", "ctr-task create "+small)},
			command: words("ctr-image rm -f none"), again: []step{do("ctr-image rm -f none"), onlyImage(small), runs},
		},
	}
}

// noIngest wants one blob, and nothing that is being written.
func noIngest(t *testing.T, w *world.World) {
	if got := w.Fields(t, "ctr-image", "blob", "ls", "-q"); len(got) != 1 {
		t.Fatalf("blobs: %v", got)
	}
	if got := w.Fields(t, "ctr-image", "blob", "active", "-q"); len(got) != 0 {
		t.Fatalf("left: %v", got)
	}
}

// onlyImage wants nothing of another image to be there, not even as garbage.
func onlyImage(image string) step {
	return func(t *testing.T, w *world.World) {
		if found := w.Must(t, "ctrd", "fsck"); found != "" {
			t.Fatalf("the collection left %s", found)
		}
		if got := w.Fields(t, "ctr-image", "ls", "-q"); len(got) != 1 || got[0] != image {
			t.Fatalf("images: %v", got)
		}
		if got := w.Fields(t, "ctr-snap", "ls", "-q"); len(got) != 1 {
			t.Fatalf("snapshots: %v", got)
		}
	}
}

func creates(runs step) []scenario {
	// fresh starts every container that is created and not a transient one's rest.
	usable := func(t *testing.T, w *world.World) {
		for _, id := range w.Fields(t, "ctr-task", "ls", "-q", "--status", "created") {
			w.Must(t, "ctr-task", "start", id)
			w.Must(t, "ctr-task", "exec", id, "true")
		}
	}
	return []scenario{
		{
			name: "create", before: []step{pull(small)}, command: words("ctr-task create " + small + " sleep 1000"),
			again: []step{do("ctr-task create " + small + " sleep 1000"), usable},
		},
		{
			name: "create with volumes", before: []step{pull(small)}, command: words("ctr-task create --name c -v /etc -v /none " + small + " sh -c test -s /etc/passwd && sleep 1000"),
			again: []step{do("ctr-task rm -f c"), do("ctr-image rm -f none"), onlyImage(small)},
		},
		{
			name: "run -d", before: []step{pull(small)}, command: words("ctr-task run -d --name c " + small + " sleep 1000"),
			then:  [][]string{words("ctr-task exec c true"), words("ctr-task exec -d c sleep 1000"), words("ctr-task exec c nosuch"), words("ctr-task stop -t 0 c")},
			again: []step{runs, do("ctr-task rm -f c"), do("ctr-task run -d --name c " + small + " sleep 1000"), do("ctr-task exec c true")},
		},
		{
			name: "run", before: []step{pull(small)}, command: words("ctr-task run --name c " + small + " sh -c exit 7"), status: 7,
			again: []step{do("ctr-task rm -f c"), want(7, "ctr-task run --name c "+small+" sh -c exit 7"), waits(7)},
		},
		{
			name: "start again", before: []step{pull(small), want(4, "ctr-task run --name c "+small+" sh -c exit 4")}, command: words("ctr-task start c"),
			then:  [][]string{words("ctr-task wait --timeout 1s c")},
			again: []step{do("ctr-task stop -t 0 c"), do("ctr-task start c"), waits(4)},
		},
	}
}

// bundles are of tasks that containerd's tools find, as are those that clients of its API make: with what such a client leaves in a
// container's labels.
func bundles() []scenario {
	run := "ctr-task run -d --name c --label containerd.io/restart.loguri=file:///dev/null " + small + " sleep 1000"
	only := []string{"task.cleared", "task.marked", "task.linked", "task.directory", "task.unlinked", "task.removed", "task.renamed"}
	stopped := []step{pull(small), do(run), do("ctr-task stop -t 0 c")}
	found := func(id string) step {
		return func(t *testing.T, w *world.World) {
			dir := filepath.Join(w.State, "io.containerd.runtime.v2.task", "default")
			if _, err := os.Stat(filepath.Join(dir, id, "config.json")); err != nil {
				t.Fatal(err)
			}
			if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
				t.Fatalf("links: %v, %v", all, err)
			}
		}
	}
	renamed := func(t *testing.T, w *world.World) {
		if r := w.Run(t, nil, "ctr-task", "rename", "c", "d"); r.Status != 0 {
			w.Must(t, "ctr-task", "inspect", "d") // it had come that far
		}
	}
	return []scenario{
		{
			name: "run with a bundle", before: []step{pull(small)}, command: words(run), only: only,
			then: [][]string{words("ctr-task stop -t 0 c")}, again: []step{do("ctr-task rm -f c"), gone, do(run), found("c")},
		},
		{name: "start again with a bundle", before: stopped, command: words("ctr-task start c"), only: only, again: []step{do("ctr-task stop -t 0 c"), do("ctr-task start c"), found("c")}},
		{name: "rm with a bundle", before: stopped, command: words("ctr-task rm c"), only: only, again: []step{do("ctr-task rm -f c"), gone, do(run), found("c")}},
		{name: "rename with a bundle", before: stopped, command: words("ctr-task rename c d"), only: only, again: []step{renamed, do("ctr-image rm -f none"), do("ctr-task start d"), found("d")}},
	}
}

func runsOf() []scenario {
	seven := "ctr-task run --rm " + small + " sh -c exit 7"
	missing := "ctr-task run --rm " + small + " /missing"
	return []scenario{
		{name: "run --rm", before: []step{pull(small)}, command: words(seven), status: 7, again: []step{want(7, seven), gone}},
		{
			name: "run --rm -d", before: []step{pull(small)}, command: words("ctr-task run --rm -d " + small + " sleep 0.1"),
			again: []step{want(7, seven), do("ctr-task run --rm -d " + small + " sleep 0.1"), gone},
		},
		{name: "run of nothing", before: []step{pull(small)}, command: words(missing), status: 127, again: []step{want(127, missing), gone}},
		{
			name: "exec", before: []step{pull(small), do("ctr-task run -d --name c " + small + " sleep 1000")},
			command: words("ctr-task exec c sh -c exit 5"), status: 5,
			again: []step{want(5, "ctr-task exec c sh -c exit 5"), do("ctr-task stop -t 0 c"), waits(137)},
		},
	}
}

// gone wants transient containers to disappear, and all that ran of them: by themselves, or where all that had them
// were killed, by a collection.
func gone(t *testing.T, w *world.World) {
	var left []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		w.Must(t, "ctr-image", "rm", "-f", "none")
		if left = append(w.Fields(t, "ctr-task", "ls", "-q"), w.Leaks()...); len(left) == 0 {
			return
		}
	}
	t.Fatalf("these stay:\n%s", strings.Join(left, "\n"))
}

func signals() []scenario {
	three := "ctr-task run -d --name c " + small + ` sh -c trap "exit 3" TERM; touch /ready; while :; do sleep 0.02; done`
	return []scenario{
		{
			name: "stop", before: []step{pull(small), do(three), ready}, command: words("ctr-task stop c"),
			again: []step{do("ctr-task stop c"), waits(3), do("ctr-task start c"), ready},
		},
		{
			name: "wait after the supervisor was killed", before: orphaned(""), command: words("ctr-task wait c"), status: 137,
			again: []step{waits(137), prints("c\tstopped (137)", "ctr-task ls -o id,status"), do("ctr-task start c"), do("ctr-task exec c true")},
		},
		{
			name: "stop after the supervisor was killed", before: orphaned(""), command: words("ctr-task stop c"),
			again: []step{do("ctr-task stop c"), prints("c\tstopped (137)", "ctr-task ls -o id,status"), do("ctr-task start c"), do("ctr-task exec c true")},
		},
		{
			name: "collection after the supervisor of --rm was killed", before: orphaned("--rm"), command: words("ctr-image rm -f none"),
			again: []step{do("ctr-image rm -f none"), gone},
		},
	}
}

func removals() []scenario {
	running := do("ctr-task run -d --name c " + small + " sleep 1000")
	remove := "ctr-task rm -f c"
	var all []scenario
	for name, before := range map[string][]step{
		"rm -f of a running one":             {pull(small), running},
		"rm -f of a stopped one":             {pull(small), want(7, "ctr-task run --name c "+small+" sh -c exit 7")},
		"rm -f of one never run":             {pull(small), do("ctr-task create --name c " + small)},
		"rm -f after the supervisor's death": orphaned(""),
		"rm -f of a dead transient one":      orphaned("--rm"),
	} {
		all = append(all, scenario{name: name, before: before, command: words(remove), again: []step{do(remove), gone, running, do("ctr-task exec c true")}})
	}
	renamed := func(t *testing.T, w *world.World) {
		if r := w.Run(t, nil, "ctr-task", "rename", "c", "d"); r.Status != 0 {
			w.Must(t, "ctr-task", "inspect", "d") // it had come that far
		}
	}
	all = append(all, scenario{
		name: "rename", before: []step{pull(small), want(7, "ctr-task run --name c "+small+" sh -c exit 7")}, command: words("ctr-task rename c d"),
		again: []step{renamed, do("ctr-task rm d"), gone, running, do("ctr-task exec c true")},
	})
	return append(all, scenario{
		name: "rm", before: []step{pull(small), want(7, "ctr-task run --name c "+small+" sh -c exit 7")}, command: words("ctr-task rm c"),
		again: []step{do(remove), gone, running, do("ctr-task exec c true")},
	})
}

func snapshots() []scenario {
	rm := do("ctr-snap rm -f s")
	prepare := do("ctr-snap prepare s")
	return []scenario{
		{name: "snap prepare", command: words("ctr-snap prepare s"), again: []step{rm, prepare}},
		{name: "snap prepare of an image", before: []step{pull(small)}, command: words("ctr-snap prepare --image " + small + " s"), again: []step{rm, do("ctr-snap prepare --image " + small + " s")}},
		{name: "snap view", before: []step{pull(small)}, command: words("ctr-snap view --image " + small + " s"), again: []step{rm, do("ctr-snap view --image " + small + " s")}},
		{
			name: "snap commit", before: []step{prepare, filled}, command: words("ctr-snap commit n s"),
			again: []step{committed, do("ctr-snap prepare s n"), do("ctr-snap usage n")},
		},
		{name: "snap rm", before: []step{prepare, filled}, command: words("ctr-snap rm s"), again: []step{rm, prepare}},
	}
}

// inSnapshot calls fn with the place where a snapshot is mounted meanwhile.
func inSnapshot(t *testing.T, w *world.World, key string, fn func(dir string) error) {
	dir := filepath.Join(w.Dir, "at")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.Must(t, "ctr-snap", "mount", key, dir)
	defer w.Must(t, "ctr-snap", "unmount", dir)
	if err := fn(dir); err != nil {
		t.Error(err)
	}
}

// filled puts a file into the snapshot s.
func filled(t *testing.T, w *world.World) {
	inSnapshot(t, w, "s", func(dir string) error { return os.WriteFile(dir+"/file", []byte("content"), 0o644) })
}

// committed wants the snapshot to be either what it was or committed whole, and commits it.
func committed(t *testing.T, w *world.World) {
	switch keys := strings.Join(w.Fields(t, "ctr-snap", "ls", "-q"), " "); keys {
	case "s":
		w.Must(t, "ctr-snap", "commit", "n", "s")
	case "n":
	default:
		t.Fatalf("snapshots: %q", keys)
	}
	w.Must(t, "ctr-snap", "view", "v", "n")
	inSnapshot(t, w, "v", func(dir string) error {
		if data, err := os.ReadFile(dir + "/file"); string(data) != "content" {
			return fmt.Errorf("file of the snapshot: %q, %w", data, err)
		}
		return nil
	})
	w.Must(t, "ctr-snap", "rm", "v")
}
