// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestVerbRemoved: what `--rm` promises, whoever is killed.
func TestVerbRemoved(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		gone := func(what string) {
			t.Helper()
			until(t, what, func() error {
				if left := b.Must(t, "ctr-task", "ls", "-q"); left != "" {
					return fmt.Errorf("%s is left", left)
				}
				return nil
			})
			b.Settle(t)
		}
		b.background(t, "short", "exit 3", "--rm")
		gone("the supervisor removes a short one")
		b.background(t, "long", "sleep 1000", "--rm")
		b.Must(t, "ctr-task", "kill", "-s", "KILL", "long")
		gone("the supervisor removes a killed one")

		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			cmd := b.Command(t.Context(), nil, b.args("run", "--rm", "--name", "c", busybox, "sleep", "1000")...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			b.awaitStatus(t, "c", "running")
			if sig == syscall.SIGTERM { // which the program, as init, does not hear; the second ends the client
				cmd.Process.Signal(sig)
				b.Must(t, "ctr-task", "rm", "-f", "c")
			} else {
				cmd.Process.Signal(sig)
			}
			cmd.Wait()
			gone(fmt.Sprintf("the container of a client that got %v", sig))
		}
	})
}

// TestVerbKilledSupervisor: the next act finds out, ends what is left, and the container can be started again.
func TestVerbKilledSupervisor(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		b.background(t, "c", "sleep 1000 & sleep 1001 & wait")
		inside := b.InCgroup("c")
		b.signal(t, syscall.SIGKILL)
		if got := b.Want(t, 137, "ctr-task", "wait", "c"); got != "137\n" {
			t.Errorf("wait: %q", got)
		}
		for _, pid := range inside {
			if _, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/exe"); err == nil {
				t.Errorf("process %d runs on: %s", pid, commandOf(pid))
			}
		}
		b.awaitStatus(t, "c", "stopped (137)")
		b.Must(t, "ctr-task", "start", "c")
		b.Must(t, "ctr-task", "exec", "c", "true")
		b.Must(t, "ctr-task", "rm", "-f", "c")
	})
}

// TestVerbMany: starts side by side, each with its own status.
func TestVerbMany(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		const n = 10
		results := make(chan error, n)
		for i := range n {
			go func() {
				cmd := b.Command(context.Background(), nil, b.args("run", "--rm", busybox, "sh", "-c", "exit "+strconv.Itoa(i))...)
				out, _ := cmd.CombinedOutput()
				if got := cmd.ProcessState.ExitCode(); got != i {
					results <- fmt.Errorf("status %d, want %d: %s", got, i, out)
					return
				}
				results <- nil
			}()
		}
		for range n {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestVerbEvents: the journal has each event once, whoever wrote it.
func TestVerbEvents(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		b.background(t, "c", "exit 3")
		b.Want(t, 3, "ctr-task", "wait", "c")
		b.Want(t, 3, "ctr-task", "wait", "c")
		b.Must(t, "ctr-task", "rm", "c")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := b.Command(ctx, nil, "ctrd", "events", "/tasks")
		out, err := cmd.StdoutPipe()
		if err := errors.Join(err, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(out)
		cmd.Wait()
		for _, topic := range []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"} {
			if got := strings.Count(string(text), topic); got != 1 {
				t.Errorf("%d of %s:\n%s", got, topic, text)
			}
		}
	})
}

// TestVerbBound: no verb waits for ever for a supervisor that is stopped, and each says which process that is.
func TestVerbBound(t *testing.T) {
	withEngine(t, func(t *testing.T, b box) {
		b.background(t, "c", "sleep 1000")
		b.signal(t, syscall.SIGSTOP)
		began := time.Now()
		for _, verb := range [][]string{{"exec", "c", "true"}, {"pause", "c"}} {
			r := b.Run(t, nil, append([]string{"ctr-task", verb[0], "--wait", "1s"}, verb[1:]...)...)
			if r.Status == 0 || !strings.Contains(r.Stderr, "process") && !strings.Contains(r.Stderr, "pid") {
				t.Errorf("%s", r)
			}
		}
		if took := time.Since(began); took > patience {
			t.Errorf("it took %s", took)
		}
		b.Must(t, "ctr-task", "rm", "-f", "c")
	})
}
