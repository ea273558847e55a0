// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// killRounds is how often something is killed; CTRD_KILL_ROUNDS says otherwise.
const killRounds = 200

// A kind is a command that is killed, with its supervisor or that of the container it works on.
type kind struct {
	name     string
	args     []string // of ctr-task; ID stands for the container
	rm, long bool     // it is transient; its program does not end by itself
	status   int      // of the undisturbed command
	usual    time.Duration
}

func kinds() []*kind {
	run := func(name string, options, program []string, k kind) *kind {
		k.name = name
		k.args = slices.Concat([]string{"run", "--name", "ID"}, options, []string{small}, program)
		return &k
	}
	seven, forever := []string{"sh", "-c", "sleep 0.02; exit 7"}, []string{"sleep", "1000"}
	return []*kind{
		run("run -d", []string{"-d"}, forever, kind{long: true}),
		run("run -d of a short program", []string{"-d"}, seven, kind{}),
		run("run --rm", []string{"--rm"}, seven, kind{rm: true, status: 7}),
		run("run --rm -d", []string{"--rm", "-d"}, forever, kind{rm: true, long: true}),
		{name: "exec", args: append([]string{"exec", "base"}, seven...), status: 7},
	}
}

// killer is one run of the test: everything it does follows from the seed.
type killer struct {
	*testing.T
	w    *world.World
	what string // the round, for messages
	hits map[string]int
	of   map[string]bool // what of the base container runs, as Leaks tells it
}

// TestKills kills ctr-task, ctr-shim or both at random moments, 200 times. The next command sees the
// truth and cleans up: nothing is left but what still runs, and nothing at all after rm -f.
func TestKills(t *testing.T) {
	t.Parallel()
	seed := number("CTRD_KILL_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CTRD_KILL_SEED=%d", seed)
	k := &killer{T: t, w: world.New(t, bin), hits: map[string]int{}}
	k.w.Must(k, "ctr-pull", "-q", small)
	k.base()
	all := kinds()
	for _, kind := range all {
		k.measure(kind)
	}
	for i := range number("CTRD_KILL_ROUNDS", killRounds) {
		// Each round has its own numbers, however many the one before has used.
		k.round(rand.New(rand.NewPCG(seed, uint64(i))), i, all)
	}
	t.Logf("hit: %v", k.hits)
	k.w.Whole(k)
	k.w.Empty(k)
}

// base starts the container for exec.
func (k *killer) base() {
	k.w.Must(k, "ctr-task", "run", "-d", "--name", "base", small, "sleep", "1000")
	k.of = map[string]bool{}
	for _, l := range k.w.Leaks() {
		k.of[plain(l)] = true
	}
}

func (kind *kind) command(id string) []string {
	args := append([]string{"ctr-task"}, kind.args...)
	if i := slices.Index(args, "ID"); i > 0 {
		args[i] = id
	}
	return args
}

// measure learns how long the command usually takes, and that it works.
func (k *killer) measure(kind *kind) {
	var took []time.Duration
	for i := range 5 {
		id := fmt.Sprintf("m%d", i)
		r := k.w.Run(k, nil, kind.command(id)...)
		if r.Status != kind.status {
			k.Fatalf("want status %d: %s", kind.status, r)
		}
		took = append(took, r.Took)
		k.w.Must(k, "ctr-task", "rm", "-f", id)
	}
	slices.Sort(took)
	kind.usual = took[len(took)/2]
	k.Logf("%s usually takes %s", kind.name, kind.usual.Round(time.Millisecond))
}

func (k *killer) round(r *rand.Rand, i int, all []*kind) {
	kind := all[r.IntN(len(all))]
	id := fmt.Sprintf("k%d", i)
	if kind.name == "exec" {
		id = "base"
	}
	delay := time.Duration(r.Float64() * 1.2 * float64(kind.usual))
	victims := []string{"client", "supervisor", "both"}[r.IntN(3)]
	next := []string{"ls", "inspect", "wait", "rm"}[r.IntN(4)]
	k.what = fmt.Sprintf("round %d: %s, %s killed after %s, then %s", i, kind.name, victims, delay.Round(10*time.Microsecond), next)

	var errs bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "ctr-task"), kind.command(id)[1:]...)
	cmd.Env, cmd.Stderr = k.w.Environ(), &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	time.Sleep(delay)
	shim := k.kill(cmd.Process, victims, id, r.IntN(2) == 0)
	status := k.await(cmd)
	if shim {
		k.hits["supervisor"]++
	}
	if status < 0 {
		k.hits["client"]++
	}
	told := k.truth(kind, id, shim, status)
	k.what += fmt.Sprintf("; the client: %d %s; expected: %s", status, strings.TrimSpace(errs.String()), told)

	if kind.name == "exec" {
		k.checkExec(told, shim, status)
		return
	}
	switch next {
	case "ls":
		k.look(id, told, "ls", "--json")
	case "inspect":
		k.look(id, told, "inspect", "--json", id)
	case "wait":
		k.wait(id, told)
	}
	k.removed(id)
}

// kill kills what there is of the victims and tells whether a supervisor was among them.
func (k *killer) kill(client *os.Process, victims, id string, supervisorFirst bool) bool {
	var shim *process
	if victims != "client" {
		shim = supervisor(k.w, id)
	}
	if shim != nil && supervisorFirst {
		shim.kill(syscall.SIGKILL)
	}
	if victims != "supervisor" {
		client.Kill()
	}
	if shim == nil {
		return false
	}
	shim.kill(syscall.SIGKILL)
	shim.wait(k.T)
	return true
}

// await waits for the client, which ends soon if its supervisor is gone: a program that runs on is not
// waited for by any kind.
func (k *killer) await(cmd *exec.Cmd) (status int) {
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(world.Patience):
		cmd.Process.Kill()
		<-done
		k.Fatalf("%s: the client hangs", k.what)
	}
	return cmd.ProcessState.ExitCode()
}

// truth is what must be seen of a container, as text: of a supervisor that was killed, what it had
// recorded of the task's end, or 137 when it had a program to lose; the empty text where what is right
// cannot be known beforehand.
func (k *killer) truth(kind *kind, id string, killed bool, status int) string {
	if !killed || kind.rm {
		return ""
	}
	dir := taskDir(k.w, id)
	var exit struct{ Status int }
	data, err := os.ReadFile(filepath.Join(dir, "exit.json"))
	if err == nil && json.Unmarshal(data, &exit) == nil {
		return fmt.Sprintf("stopped %d", exit.Status)
	}
	if _, err := os.Stat(filepath.Join(dir, "init.json")); err == nil {
		return "stopped 137"
	}
	if status > 0 {
		return "created" // the client has taken the start back
	}
	return ""
}

// seen is what ls and inspect print of a container.
type seen struct {
	ID         string
	Status     string
	PID        int
	Supervisor int
	Transient  bool
	Exit       *struct{ Status int }
}

func (s seen) String() string {
	if s.Exit != nil {
		return fmt.Sprintf("%s %d", s.Status, s.Exit.Status)
	}
	return s.Status
}

// look asks for the container, once, and compares the answer with what is true on this machine.
func (k *killer) look(id, told string, args ...string) {
	k.Helper()
	r := k.w.Run(k, nil, append([]string{"ctr-task", "--wait", "0"}, args...)...)
	if r.Status != 0 && !(r.Status == 3 && args[0] == "inspect") {
		k.Fatalf("%s: %s", k.what, r)
	}
	var s *seen
	for line := range strings.Lines(r.Stdout) {
		var one seen
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			k.Fatalf("%s: %v: %s", k.what, err, r)
		}
		if one.ID == id {
			s = &one
		}
	}
	// A listing tells that the supervisor is gone, and changes nothing.
	if orphan := s != nil && s.Status == "orphaned" && told == "stopped 137"; told != "" && !orphan && (s == nil || s.String() != told) {
		k.Fatalf("%s: it shows %v", k.what, s)
	}
	inside := k.w.InCgroup(id)
	switch {
	case s != nil && s.Status == "orphaned":
		if p := supervisor(k.w, id); p != nil {
			p.close()
			k.Fatalf("%s: it shows %v, and its supervisor %d lives", k.what, s, p.pid)
		}
	case s == nil || s.Status == "created" && s.PID == 0 || s.Status == "stopped":
		// A supervisor that still cleans up does so before it records the exit.
		if len(inside) > 0 {
			k.Fatalf("%s: it shows %v, and processes %v run", k.what, s, inside)
		}
	case s.Status == "running" || s.Status == "created":
		if alive := syscall.Kill(s.PID, 0) == nil && syscall.Kill(s.Supervisor, 0) == nil; !alive && !k.changes(id, s) {
			k.Fatalf("%s: it shows %v with process %d and supervisor %d, one of which does not run", k.what, s, s.PID, s.Supervisor)
		}
	case s.Status == "starting":
		if p := supervisor(k.w, id); p != nil {
			p.close()
		} else if !k.changes(id, s) {
			k.Fatalf("%s: it shows %v, and nobody starts it", k.what, s)
		}
	default:
		if !k.changes(id, s) {
			k.Fatalf("%s: it shows %v", k.what, s)
		}
	}
}

// changes tells whether what was seen is passing: a supervisor whose program has ended records that when
// it has cleaned up.
func (k *killer) changes(id string, was *seen) bool {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		r := k.w.Run(k, nil, "ctr-task", "inspect", "--json", id)
		var now seen
		if r.Status == 3 || json.Unmarshal([]byte(r.Stdout), &now) == nil && now.String() != was.String() {
			return true
		}
	}
	return false
}

// wait has the exit told by ctr-task wait, where there is one.
func (k *killer) wait(id, told string) {
	var status int
	if _, err := fmt.Sscanf(told, "stopped %d", &status); err == nil {
		if got := k.w.Want(k, status, "ctr-task", "wait", id); got != fmt.Sprintln(status) {
			k.Fatalf("%s: wait prints %q", k.what, got)
		}
		return
	}
	r := k.w.Run(k, nil, "ctr-task", "wait", "--timeout", "20ms", id)
	absent := r.Status == 125 && strings.Contains(r.Stderr, "not found")
	if !absent && !slices.Contains([]int{7, 124, 137}, r.Status) {
		k.Fatalf("%s: %s", k.what, r)
	}
}

// removed removes the container, and wants nothing to be left of it: at once what anybody could see, and
// soon also the dying.
func (k *killer) removed(id string) {
	k.Helper()
	if r := k.w.Run(k, nil, "ctr-task", "rm", "-f", id); r.Status != 0 {
		k.Fatalf("%s: %s", k.what, r)
	}
	var left []string
	for _, pid := range k.w.InCgroup(id) {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	if _, err := os.Lstat(tasksDir(k.w, id)); err == nil {
		left = append(left, tasksDir(k.w, id))
	}
	for line := range strings.FieldsSeq(k.w.Must(k, "ctr-task", "ls", "-q")) {
		if line == id {
			left = append(left, "its record")
		}
	}
	if len(left) > 0 {
		k.Fatalf("%s: after rm -f there is %s", k.what, strings.Join(left, ", "))
	}
	k.settle()
}

// settle wants nothing to be left in the world but the base container, after a collection if need be: a supervisor that
// is killed when its last task has been removed leaves its socket to that.
func (k *killer) settle() {
	var left []string
	collect := time.Now().Add(2 * time.Second)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if !collect.IsZero() && time.Now().After(collect) {
			k.w.Must(k, "ctrd", "gc")
			collect = time.Time{}
		}
		left = slices.DeleteFunc(k.w.Leaks(), func(leak string) bool { return k.of[plain(leak)] })
		if len(left) == 0 {
			return
		}
	}
	k.Fatalf("%s: left behind:\n%s", k.what, strings.Join(left, "\n"))
}

var varies = regexp.MustCompile(` \(.*\)$|, where process [0-9]+ is`)

// plain is a line of Leaks without what changes: the command of a process, who is in a mount namespace.
func plain(leak string) string { return varies.ReplaceAllString(leak, "") }

// checkExec wants the base container to be what it was, or dead and to be told so.
func (k *killer) checkExec(told string, killed bool, status int) {
	if !killed {
		if status >= 0 && status != 7 {
			k.Fatalf("%s: exec ends with status %d", k.what, status)
		}
		k.look("base", "running", "ls", "--json")
		k.w.Want(k, 7, "ctr-task", "exec", "base", "sh", "-c", "exit 7")
		return
	}
	if status == 0 {
		k.Fatalf("%s: exec succeeds in a dead container", k.what)
	}
	if told != "stopped 137" {
		k.Fatalf("%s: the base container had started", k.what)
	}
	k.look("base", told, "ls", "--json")
	k.wait("base", told)
	k.removed("base")
	k.base()
}

// TestSlowSupervisor kills a client whose supervisor has been started and has not done a thing yet. It
// counts as alive: nobody takes its directory away under it, so that it finds itself abandoned and ends
// without harm to a container that has been given the same name.
func TestSlowSupervisor(t *testing.T) {
	t.Parallel()
	w := world.New(t, bin)
	pull(small)(t, w)
	slow := filepath.Join(w.Dir, "bin")
	begun, goOn := filepath.Join(w.Dir, "begun"), filepath.Join(w.Dir, "go-on")
	script := fmt.Sprintf("#!/bin/sh\n>%s\nuntil test -e %s; do sleep 0.01; done\nexec %s/ctr-shim \"$@\"\n", begun, goOn, bin)
	if err := errors.Join(os.Mkdir(slow, 0o755), os.Link(filepath.Join(bin, "ctr-task"), filepath.Join(slow, "ctr-task")),
		os.WriteFile(filepath.Join(slow, "ctr-shim"), []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(slow, "ctr-task"), "run", "--rm", "-d", "--name", "c", small, "sleep", "1000")
	cmd.Env = w.Environ()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the supervisor is not started")
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	if got := w.Must(t, "ctr-task", "ls", "-o", "id,status"); got != "c\tstarting\n" {
		t.Fatalf("ls shows %q", got)
	}
	w.Want(t, 5, "ctr-task", "start", "c")
	removed := make(chan world.Result)
	go func() {
		defer close(removed) // also when Run ends the test
		removed <- w.Run(t, nil, "ctr-task", "rm", "-f", "c")
	}()
	time.Sleep(200 * time.Millisecond) // rm waits by now, or has gone wrong
	if err := os.WriteFile(goOn, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := <-removed; r.Status != 0 {
		t.Fatal(r)
	}
	w.Settle(t)
	w.Must(t, "ctr-task", "run", "-d", "--name", "c", small, "sleep", "1000")
	w.Must(t, "ctr-task", "exec", "c", "true")
	w.Empty(t)
}
