// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// namesakeRounds is how often several commands meet at one name and something is killed; CTRD_KILL_ROUNDS says
// otherwise.
const namesakeRounds = 80

// A contended name is also the beginning of the random-looking ids of containers that nobody may touch. An operand
// that is the beginning of one id means that container, so commands with operands go to the name that two ids begin
// with, which is an error while no container has that name.
type contended struct {
	name     string
	commands [][]string // of ctr-task
	operands bool
	ids      []string // that begin with it
}

func contendedNames() []contended {
	short, long := []string{small, "sh", "-c", "sleep 0.03; exit 7"}, []string{small, "sleep", "1000"}
	run := func(name string, program []string, options ...string) []string {
		return slices.Concat([]string{"run", "--name", name}, options, program)
	}
	transient := func(name string) [][]string {
		return [][]string{run(name, short, "--rm"), run(name, short, "-d", "--rm"), run(name, short, "-d", "--rm")}
	}
	return []contended{
		{name: "a", commands: transient("a"), ids: []string{"a0b1c2d3e4f5"}},
		{name: "b", operands: true, ids: []string{"b0b1c2d3e4f5", "b5f4e3d2c1b0"}, commands: append(transient("b"),
			run("b", long, "-d", "--rm"), run("b", long, "--rm"), run("b", short), run("b", long, "-d"), run("b", short, "-d", "--restart", "on-failure:2"),
			slices.Concat([]string{"create", "--name", "b"}, short),
			words("start b"), words("start b"), words("start -a b"), words("rm -f b"), words("rm -f b"), words("rm b"),
			words("stop -t 0 b"), words("stop -t 1 b"), words("wait --timeout 500ms b"), words("kill -s KILL b"), words("exec b true"),
		)},
	}
}

// sentinel is a container that must live on, whatever happens to its namesakes.
type sentinel struct {
	w          *world.World
	namespace  string
	id         string
	pid        int
	supervisor int
}

// namesakes is one run of the test: everything that it does follows from the seed.
type namesakes struct {
	*testing.T
	w         *world.World
	what      string // the round, for messages
	sentinels []sentinel
	of        map[string]bool // what of the sentinels runs, as Leaks tells it
	hits      map[string]int
	ends      map[string]int // status of a verb -> how often
	record    exits
}

// TestNamesakeKills lets several commands start, stop, wait for and remove one name at the same moment, and kills
// clients, supervisors and engines at random. No other container is harmed: neither those whose ids begin with the
// name, nor one of the same name in another namespace or in another root and state. An exit that was recorded is
// never replaced, and nothing is left in the end.
func TestNamesakeKills(t *testing.T) {
	t.Parallel()
	seed := number("CTRD_KILL_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CTRD_KILL_SEED=%d", seed)
	n := &namesakes{T: t, w: world.New(t, bin), of: map[string]bool{}, hits: map[string]int{}, ends: map[string]int{}}
	other := world.New(t, bin)
	n.w.Must(t, "ctr-pull", "-q", small)
	n.w.Must(t, "ctr-pull", "-n", "other", "-q", small)
	other.Must(t, "ctr-pull", "-q", small)
	names := contendedNames()
	for _, c := range names {
		for _, id := range c.ids {
			n.guard(n.w, "default", id)
		}
		n.guard(n.w, "other", c.name)
		n.guard(other, "default", c.name)
	}
	for _, l := range n.w.Leaks() {
		n.of[plain(l)] = true
	}
	defer n.tell()
	stop := n.record.watch(t, n.w)
	defer stop()
	for i := range number("CTRD_KILL_ROUNDS", namesakeRounds) {
		n.round(rand.New(rand.NewPCG(seed, uint64(i))), i, names[min(1, i%4)])
	}
	stop()
	for _, s := range n.sentinels {
		s.w.Must(t, "ctr-task", "rm", "-n", s.namespace, "-f", s.id)
	}
	n.w.Must(t, "ctr-image", "rm", "-n", "other", small)
	for _, w := range []*world.World{n.w, other} {
		w.Whole(t)
		w.Empty(t)
	}
}

// tell says what was killed and how the commands ended.
func (n *namesakes) tell() {
	n.Logf("killed: %v; %d exits recorded", n.hits, len(n.record.seen))
	for _, end := range slices.Sorted(maps.Keys(n.ends)) {
		n.Logf("%s: %d times", end, n.ends[end])
	}
}

// guard starts a sentinel.
func (n *namesakes) guard(w *world.World, namespace, id string) {
	w.Must(n, "ctr-task", "run", "-n", namespace, "-d", "--name", id, small, "sleep", "1000000") // longer than any test
	var s struct{ PID, Supervisor int }
	if err := json.Unmarshal([]byte(w.Must(n, "ctr-task", "inspect", "-n", namespace, "--json", id)), &s); err != nil {
		n.Fatal(err)
	}
	n.sentinels = append(n.sentinels, sentinel{w, namespace, id, s.PID, s.Supervisor})
}

// round lets two to five commands meet, kills up to three of the processes, and removes what there is.
func (n *namesakes) round(r *rand.Rand, i int, c contended) {
	n.what = fmt.Sprintf("round %d of %s", i, c.name)
	var all []*client
	for range 2 + r.IntN(4) {
		all = append(all, n.start(c.commands[r.IntN(len(c.commands))]))
		time.Sleep(time.Duration(r.Float64() * float64(20*time.Millisecond)))
	}
	for range 1 + r.IntN(3) {
		time.Sleep(time.Duration(r.Float64() * float64(40*time.Millisecond)))
		n.killOne(r, c.name, all)
	}
	if c.operands {
		n.told(r, c.name)
	}
	for _, x := range all {
		n.ended(x, c)
	}
	if c.operands {
		n.must(0, 1, 2)("rm", "-f", c.name)
	}
	n.settle()
	n.unharmed()
}

// must runs ctr-task and wants one of these statuses.
func (n *namesakes) must(statuses ...int) func(args ...string) world.Result {
	return func(args ...string) world.Result {
		r := n.w.Run(n, nil, append([]string{"ctr-task"}, args...)...)
		if !slices.Contains(statuses, r.Status) {
			n.Fatalf("%s: %s", n.what, r)
		}
		return r
	}
}

// A client is a command that runs.
type client struct {
	cmd       *exec.Cmd
	out, errs bytes.Buffer
	done      chan struct{}
	killed    bool
}

func (n *namesakes) start(args []string) *client {
	x := &client{cmd: n.w.Command(context.Background(), nil, append([]string{"ctr-task"}, args...)...), done: make(chan struct{})}
	x.cmd.Stdout, x.cmd.Stderr = &x.out, &x.errs
	if err := x.cmd.Start(); err != nil {
		n.Fatal(err)
	}
	n.what += "; " + strings.Join(args, " ")
	go func() {
		x.cmd.Wait()
		close(x.done)
	}()
	return x
}

// killOne kills a client, the supervisor or an engine, if there is one.
func (n *namesakes) killOne(r *rand.Rand, name string, all []*client) {
	switch what := []string{"client", "supervisor", "engine"}[r.IntN(3)]; what {
	case "client":
		x := all[r.IntN(len(all))]
		select {
		case <-x.done:
		default:
			x.cmd.Process.Kill()
			x.killed = true
			n.hits[what]++
			n.what += fmt.Sprintf("; killed %v", x.cmd.Args[1:])
		}
	case "supervisor":
		n.kill(what, name, supervisor)
	default:
		n.kill(what, name, engineOf)
	}
}

// kill kills the process that find finds within a moment.
func (n *namesakes) kill(what, name string, find func(*world.World, string) *process) {
	p := find(n.w, name)
	for deadline := time.Now().Add(50 * time.Millisecond); p == nil; p = find(n.w, name) {
		if time.Now().After(deadline) {
			return
		}
	}
	p.kill(syscall.SIGKILL)
	p.close()
	n.hits[what]++
	n.what += "; killed " + what
}

// engineOf finds an engine that works for a container.
func engineOf(w *world.World, id string) *process {
	names, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, name := range names {
		if cwd, _ := os.Readlink(name); !strings.HasPrefix(cwd, tasksDir(w, id)+"/") {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		if strings.HasPrefix(string(args), "ctr-shim\x00engine\x00") {
			pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
			return open(pid)
		}
	}
	return nil
}

// ended waits for a command, whose status must be one that it can have when others are at its container. What it runs
// without end is ended; one that waits its turn starts when the one before has been.
func (n *namesakes) ended(x *client, c contended) {
	for deadline, done := time.Now().Add(world.Patience), false; !done; {
		if c.operands {
			n.must(0, 1, 2)("rm", "-f", c.name)
		}
		select {
		case <-x.done:
			done = true
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			x.cmd.Process.Kill()
			<-x.done
			n.Fatalf("%s: it hangs: %v\n%s", n.what, x.cmd.Args, &x.errs)
		}
	}
	status := x.cmd.ProcessState.ExitCode()
	verb := x.cmd.Args[1]
	if verb == "run" && !slices.Contains(x.cmd.Args, "-d") {
		verb = "run in the foreground"
	}
	n.ends[fmt.Sprintf("%s: %d", verb, status)]++
	mine := slices.Contains([]int{0, 1, 2, 3, 4, 5, 7, 124, 125, 137, 143}, status)
	if !mine && !(x.killed && status < 0) || strings.Contains(x.errs.String(), "panic") {
		n.Fatalf("%s: %v ends with %d\n%s", n.what, x.cmd.Args, status, &x.errs)
	}
}

// told wants wait to tell the exit that is recorded, if it is still that of the container.
func (n *namesakes) told(r *rand.Rand, name string) {
	if r.IntN(2) == 0 {
		return
	}
	path := filepath.Join(taskDir(n.w, name), "exit.json")
	var exit struct{ Status int }
	if data, err := os.ReadFile(path); err != nil || json.Unmarshal(data, &exit) != nil {
		return
	}
	got := n.w.Run(n, nil, "ctr-task", "wait", "--timeout", "200ms", name)
	// A removal takes the record first.
	if _, err := os.Lstat(path); err == nil && got.Status != exit.Status && !strings.Contains(got.Stderr, "begin with it") {
		n.Fatalf("%s: recorded is %d: %s", n.what, exit.Status, got)
	}
}

// settle wants nothing to be left in the world but the sentinels, once what the dead had is collected: a supervisor
// that nobody asks ends within a second.
func (n *namesakes) settle() {
	var left []string
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		n.w.Must(n, "ctr-image", "rm", "-f", "none")
		left = slices.DeleteFunc(n.w.Leaks(), func(leak string) bool { return n.of[plain(leak)] })
		if len(left) == 0 {
			return
		}
	}
	n.Fatalf("%s: left behind:\n%s\n%s", n.what, strings.Join(left, "\n"), n.w.Must(n, "ctr-task", "ls"))
}

// unharmed wants every sentinel to be the process that it was.
func (n *namesakes) unharmed() {
	for _, s := range n.sentinels {
		dirs, _ := filepath.Glob(filepath.Join(s.w.State, "tasks", s.namespace, s.id, "*", "exit.json"))
		if len(dirs) > 0 || syscall.Kill(s.pid, 0) != nil || syscall.Kill(s.supervisor, 0) != nil {
			n.Fatalf("%s: container %s of namespace %s in %s was harmed", n.what, s.id, s.namespace, s.w.State)
		}
	}
}

// exits remembers every exit that was recorded.
type exits struct {
	mu   sync.Mutex
	seen map[string]string // path of exit.json -> its content
}

// watch looks at the exits of the namespace default until stop is called, and fails when one changes.
func (e *exits) watch(t *testing.T, w *world.World) (stop func()) {
	e.seen = map[string]string{}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			paths, _ := filepath.Glob(filepath.Join(w.State, "tasks", "default", "*", "*", "exit.json"))
			for _, p := range paths {
				data, err := os.ReadFile(p)
				if err != nil {
					continue // removed meanwhile
				}
				e.mu.Lock()
				if before, known := e.seen[p]; known && before != string(data) {
					t.Errorf("the exit %s was %s and is %s", p, before, data)
				}
				e.seen[p] = string(data)
				e.mu.Unlock()
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		watching.Wait()
	})
}
