// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// happening is one event, as `ctr events` prints it.
type happening struct {
	topic   string
	payload map[string]any
}

func (h happening) String() string { return fmt.Sprint(h.topic, " ", h.payload) }

// watch collects the task events of the daemon's namespace from `ctr events`.
type watch struct {
	mu  sync.Mutex
	all []happening
}

func (d *daemon) watch(t *testing.T) *watch {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := d.command(ctx, "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w, done := &watch{}, make(chan struct{})
	go func() {
		defer close(done)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			_, rest, ok := strings.Cut(sc.Text(), " "+d.namespace+" ")
			topic, text, _ := strings.Cut(rest, " ")
			h := happening{topic, map[string]any{}}
			if ok && json.Unmarshal([]byte(text), &h.payload) == nil {
				w.mu.Lock()
				w.all = append(w.all, h)
				w.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		cmd.Wait()
	})
	// Nothing is missed from the first event that is seen.
	until(t, "events are seen", func() error {
		d.must(t, "namespaces", "label", d.namespace, "x="+fmt.Sprint(len(w.of("/namespaces/update"))))
		if len(w.of("/namespaces/update")) == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	return w
}

// of lists the events whose topic begins so.
func (w *watch) of(topic string) []happening {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []happening
	for _, h := range w.all {
		if strings.HasPrefix(h.topic, topic) {
			found = append(found, h)
		}
	}
	return found
}

// forget forgets the events so far.
func (w *watch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = nil
}

// topics waits for the deletion of a task and gives the topics of its events.
func (w *watch) topics(t *testing.T) []string {
	t.Helper()
	until(t, "/tasks/delete", func() error {
		if len(w.of("/tasks/delete")) == 0 {
			return fmt.Errorf("%v", w.of("/tasks/"))
		}
		return nil
	})
	var topics []string
	for _, h := range w.of("/tasks/") {
		topics = append(topics, strings.TrimPrefix(h.topic, "/tasks/"))
	}
	return topics
}

func TestEvents(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		w := d.watch(t)
		// The other keeps the shim: containerd's drops events when it ends.
		d.background(t, "other", "sleep 1000", "--annotation", sandboxID)
		w.forget()
		d.background(t, "c", "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done", "--annotation", sandboxID)
		pid, _ := d.task(t, "c")
		until(t, "the trap is set", func() error {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/ready", pid)); err != nil {
				return err
			}
			if r := d.ctr(t, "task", "exec", "--exec-id", "x", "c", "sh", "-c", "exit 6"); r.status != 6 {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		d.must(t, "task", "pause", "c")
		d.must(t, "task", "resume", "c")
		d.must(t, "task", "kill", "c")
		d.awaitStatus(t, "c", "STOPPED")
		d.remove(t, "c")
		want := []string{"create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"}
		if got := w.topics(t); !slices.Equal(got, want) {
			t.Errorf("events are %v, want %v", got, want)
		}
		defer d.remove(t, "other")
		exits := w.of("/tasks/exit")
		for i, want := range []map[string]any{{"id": "x", "exit_status": 6.0}, {"id": "c", "exit_status": 5.0, "pid": float64(pid)}} {
			if i >= len(exits) {
				t.Fatalf("exits: %v", exits)
			}
			for key, value := range want {
				if got := exits[i].payload[key]; got != value {
					t.Errorf("exit %d: %s is %v, want %v", i, key, got, value)
				}
			}
		}
		for _, topic := range []string{"/tasks/create", "/tasks/start", "/tasks/delete"} {
			for _, h := range w.of(topic) {
				if h.payload["container_id"] != "c" || h.payload["pid"] != float64(pid) {
					t.Errorf("%v, want pid %d", h, pid)
				}
			}
		}
	})
}

// TestOutOfMemory: the kernel's killer shows as an event, and in the status.
func TestOutOfMemory(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		w := d.watch(t)
		d.background(t, "c", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done", "--memory-limit", "16777216")
		until(t, "it is told", func() error {
			exits := w.of("/tasks/exit")
			if len(w.of("/tasks/oom")) == 0 || len(exits) != 1 || exits[0].payload["exit_status"] != 137.0 {
				return fmt.Errorf("%v", w.of("/tasks/"))
			}
			return nil
		})
		d.remove(t, "c")
	})
}

// TestEventsOfShortLives: our shim ends when its last event has arrived.
func TestEventsOfShortLives(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		w := d.watch(t)
		const n = 5
		for i := range n {
			if r := d.run(t, "--rm", busybox, fmt.Sprint("c", i), "true"); r.status != 0 {
				t.Error(r)
			}
		}
		if d.program != ours {
			return
		}
		until(t, "all are told", func() error {
			if got := len(w.of("/tasks/")); got != 4*n {
				return fmt.Errorf("%d events, want %d: %v", got, 4*n, w.of("/tasks/"))
			}
			return nil
		})
	})
}
