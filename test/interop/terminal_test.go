// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// terminal is a program on a terminal of 99 columns and 44 rows, and what it has shown so far.
type terminal struct {
	file *os.File
	cmd  *exec.Cmd
	read chan struct{}

	mu   sync.Mutex
	text strings.Builder
}

func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 44, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	s := &terminal{file: f, cmd: cmd, read: make(chan struct{})}
	go func() {
		defer close(s.read)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			s.mu.Lock()
			s.text.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		f.Close()
		<-s.read
	})
	return s
}

func (s *terminal) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *terminal) await(t *testing.T, want string) {
	t.Helper()
	until(t, fmt.Sprintf("the terminal shows %q", want), func() error {
		if text := s.shown(); !strings.Contains(text, want) {
			return fmt.Errorf("it shows %q", text)
		}
		return nil
	})
}

func (s *terminal) enter(t *testing.T, line string) {
	t.Helper()
	if _, err := s.file.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
}

// end waits for the program and gives its status.
func (s *terminal) end(t *testing.T) int {
	t.Helper()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return s.cmd.ProcessState.ExitCode()
}

// converse has a dialogue with a shell on a terminal: its name, its size, a new size, Ctrl-C, its status.
func converse(t *testing.T, s *terminal) {
	t.Helper()
	s.await(t, "/ # ")
	s.enter(t, "PS1='ready> '; tty; echo me$((1+1))")
	s.await(t, "me2")
	if text := s.shown(); !strings.Contains(text, "/dev/pts/") && !strings.Contains(text, "/dev/console") {
		t.Errorf("it has no terminal: %q", text)
	}
	if err := pty.Setsize(s.file, &pty.Winsize{Rows: 33, Cols: 111}); err != nil {
		t.Fatal(err)
	}
	s.enter(t, "until [ \"$(stty size)\" = '33 111' ]; do sleep 0.05; done; echo resi''zed")
	s.await(t, "resized")
	s.enter(t, "echo slee''ping; sleep 1000")
	s.await(t, "sleeping")
	// Busybox forgets a signal that meets it between its fork and the exec, and a signal discards what was typed.
	var tried time.Time
	again := func(typed, want string) {
		until(t, "the terminal shows "+want, func() error {
			_, after, _ := strings.Cut(s.shown(), "sleeping")
			if strings.Contains(after, want) {
				return nil
			}
			if time.Since(tried) > 2*time.Second {
				tried = time.Now()
				_, _ = s.file.WriteString(typed) // what comes of it is seen
			}
			return fmt.Errorf("it shows %q", after)
		})
		tried = time.Time{}
	}
	again("\x03", "ready> ")
	again("echo a''wake\n", "awake")
	s.enter(t, "exit 9")
	if status := s.end(t); status != 9 {
		t.Errorf("status %d, want 9: %q", status, s.shown())
	}
}

func TestTerminal(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		converse(t, onTerminal(t, d.command(ctx, "run", "--runtime", d.runtime, "--rm", "-t", busybox, "c", "sh")))
		d.settle(t)

		d.background(t, "host", "sleep 1000")
		defer d.remove(t, "host")
		converse(t, onTerminal(t, d.command(ctx, "task", "exec", "-t", "--exec-id", "shell", "host", "sh")))
	})
}
