// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"os"
	"time"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskdir"
)

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = time.Minute
	// lookEvery is how often a back-off looks whether somebody has stopped the task.
	lookEvery = 100 * time.Millisecond
)

// after does what the record of a task that has ended asks for, and lets go of the task. What it starts is
// its last act for that task.
func (t *task) after(e taskdir.Exit) {
	verb := t.next(e)
	t.s.events.wait()
	again := t.holdRestart(verb)
	t.release()
	if len(verb) == 0 && t.outlivesClient() {
		verb = t.command("rm", "-f")
	}
	if len(verb) > 0 {
		crash.Point("shim.remove")
		argv := append(append([]string(nil), t.s.config.Command...), verb...)
		if err := startDetached(argv, again...); err != nil {
			t.logf("%v", err)
		}
	}
	for _, f := range again {
		f.Close() // not released: it is the program's
	}
	t.s.mu.Lock()
	t.finished()
	t.s.mu.Unlock()
	t.s.leave()
}

// holdRestart takes the lock that says, from before the supervisor lets go of the task until the program that starts it
// again has ended, that this is about to happen. The program is to inherit what is given.
func (t *task) holdRestart(verb []string) []*os.File {
	if len(verb) == 0 || verb[0] != verbStart {
		return nil
	}
	l, err := lock.Hold(t.path(taskdir.RestartLock))
	if err != nil {
		t.logf("%v", err) // it looks stopped for a moment
		return nil
	}
	return []*os.File{l.File()}
}

const verbStart = "start"

// next gives the verb of ctr-task, with its operands, that follows the end of the task: its restart, which it
// waits for, its removal, that it is taken off its networks, or nothing.
func (t *task) next(e taskdir.Exit) []string {
	if t.record == nil || len(t.s.config.Command) == 0 {
		return nil
	}
	// The policy may have been changed while the task ran.
	if delay, ok := again(t.policy(), e, t.started); ok && !t.stopping() {
		if t.rest(delay) {
			if _, ok := again(t.policy(), e, t.started); ok {
				return t.command(verbStart)
			}
		}
	}
	switch {
	case t.removes():
		return t.command("rm", "-f")
	case t.record.Networked && t.record.Owner != taskdir.Client:
		return t.command("stop") // takes it off its networks
	}
	return nil
}

// command completes a verb of ctr-task so that it concerns this incarnation alone.
func (t *task) command(verb ...string) []string {
	return append(verb, "--incarnation", string(t.record.Incarnation), t.id)
}

// policy reads the task's restart policy. A record that is gone asks for nothing.
func (t *task) policy() taskdir.Restart {
	var r taskdir.Task
	if _, err := taskdir.Read(t.bundle, taskdir.Record, &r); err != nil {
		t.logf("%v", err)
	}
	return r.Restart
}

// stopping tells whether somebody ends the task on purpose.
func (t *task) stopping() bool {
	_, err := os.Lstat(t.path(taskdir.Stopping))
	return err == nil || isClosed(t.deleted)
}

// again tells whether a policy wants a task that has ended started again, and how long to wait before.
func again(r taskdir.Restart, e taskdir.Exit, started time.Time) (time.Duration, bool) {
	count, ok := r.Again(e, started)
	if !ok {
		return 0, false
	}
	delay := firstBackoff
	for range min(count, 20) {
		delay = min(2*delay, maxBackoff)
	}
	return delay, true
}

// rest waits before a restart; it reports false when somebody has stopped or deleted the task meanwhile, or
// the supervisor ends.
func (t *task) rest(delay time.Duration) bool {
	end := time.NewTimer(delay)
	defer end.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-end.C:
			return !t.stopping()
		case <-look.C:
			if t.stopping() {
				return false
			}
		case <-t.deleted:
			return false
		case <-t.s.closing:
			return false
		}
	}
}

// outlivesClient waits for the client that owns a task which has ended to remove the container, or to be killed
// before it has. It reports true when the removal is left to the supervisor.
func (t *task) outlivesClient() bool {
	if t.record == nil || t.record.Owner != taskdir.Client || len(t.s.config.Command) == 0 {
		return false
	}
	t.s.mu.Lock()
	t.lingers = true
	t.s.mu.Unlock()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		if _, err := os.Lstat(t.path(taskdir.End)); err != nil {
			return false // it is being removed
		}
		if t.removes() {
			return true
		}
		select {
		case <-look.C:
		case <-t.s.closing:
			return false
		}
	}
}

// removes tells whether the supervisor has the container removed: it is the owner, or has become it by the
// owner's death or leave.
func (t *task) removes() bool {
	switch t.record.Owner {
	case taskdir.ByShim:
		return true
	case taskdir.Client:
		held, err := lock.IsHeld(t.path(taskdir.ClientLock))
		return err == nil && !held
	}
	return false
}
