// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// current is the one command of this process.
var current process

type process struct {
	root    *cobra.Command
	ctx     context.Context // ends with the first signal; nil: Main does not run
	running bool            // options are parsed, the work has begun
	helped  error           // why the help was not printed: cobra has no place for it

	mu       sync.Mutex
	signals  chan os.Signal // nil: a command has taken the signals over
	received syscall.Signal // the first one
}

func (p *process) name() string {
	if p.root != nil {
		return p.root.Name()
	}
	return filepath.Base(os.Args[0])
}

// Main runs a command and ends the process with its exit status. The first SIGINT or SIGTERM cancels the
// command's context; when the command has undone what it can, the process dies by that signal. A second
// one kills it at once.
func Main(root *cobra.Command) {
	// Most commands end before they have made garbage worth collecting: the first collection comes at
	// 16 MiB instead of 4.
	debug.SetGCPercent(400)
	current.root = root
	if hidden(root, os.Args[1:]) {
		return
	}
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], cobra.ShellCompRequestCmd) {
		plainUsage(root)
	}
	var cancel context.CancelCauseFunc
	current.ctx, cancel = context.WithCancelCause(context.Background())
	current.watch(cancel)
	cmd, err := root.ExecuteContextC(current.ctx)
	if err == nil {
		err = current.helped
	}
	current.end(cmd, err)
}

// together is how close two signals of a kind count as one.
const together = 100 * time.Millisecond

// SignalError is the cause of a context that a signal cancelled.
type SignalError struct{ Signal syscall.Signal }

// Error names the signal.
func (e SignalError) Error() string { return "stopped by signal: " + e.Signal.String() }

// Is says that it is the end of a cancelled context.
func (e SignalError) Is(target error) bool { return target == context.Canceled }

func (p *process) watch(cancel context.CancelCauseFunc) {
	p.signals = make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if !signal.Ignored(s) { // nohup's or a background job's wish
			signal.Notify(p.signals, s)
		}
	}
	go func(signals chan os.Signal) {
		s, ok := <-signals
		if !ok {
			return
		}
		sig := s.(syscall.Signal)
		p.mu.Lock()
		p.received = sig
		p.mu.Unlock()
		cancel(SignalError{sig})
		// One more of the kind that comes at once is the same: timeout(1) sends its signal to the process and
		// to its group. After that the next one kills.
		for again := time.After(together); ; {
			select {
			case s, ok := <-signals:
				if ok && s == os.Signal(sig) {
					continue
				}
				if ok {
					Die(s.(syscall.Signal))
				}
			case <-again:
			}
			signal.Stop(signals)
			return
		}
	}(p.signals)
}

// Signals hands the given signals over to the command: sig receives what comes of them. When INT or TERM are among
// them, Main cancels nothing from now on. It is for commands that pass them on to the program they run.
func Signals(sigs ...os.Signal) (sig <-chan os.Signal) {
	c := make(chan os.Signal, 32)
	signal.Notify(c, sigs...)
	if !slices.Contains(sigs, os.Signal(syscall.SIGINT)) && !slices.Contains(sigs, os.Signal(syscall.SIGTERM)) {
		return c
	}
	current.mu.Lock()
	defer current.mu.Unlock()
	if current.signals != nil {
		signal.Stop(current.signals)
		if current.received == 0 {
			close(current.signals)
		}
		current.signals = nil
	}
	return c
}

// Die ends the process by a signal, as if nobody had caught it.
func Die(sig syscall.Signal) {
	if sig == syscall.SIGPIPE { // which the Go runtime ignores when it is sent
		os.Exit(128 + int(sig))
	}
	signal.Reset(sig)
	syscall.Kill(os.Getpid(), sig)
	time.Sleep(time.Second) // it may be blocked or ignored
	os.Exit(128 + int(sig))
}

func (p *process) end(cmd *cobra.Command, err error) {
	p.mu.Lock()
	sig := p.received
	p.mu.Unlock()
	if err == nil {
		os.Exit(0)
	}
	if errors.Is(err, syscall.EPIPE) && brokenStdout(err) {
		Die(syscall.SIGPIPE)
	}
	if sig != 0 {
		if !canceled(err) {
			Warn(err)
		}
		Die(sig)
	}
	var usage *usageError
	if !p.running && !errors.As(err, &usage) && !brokenStdout(err) {
		err = &usageError{err}
	}
	Warn(err)
	if errors.As(err, &usage) && len(hints(err, nil)) == 0 {
		usagePointer(cmd)
	}
	os.Exit(finalStatus(cmd, err))
}

func finalStatus(cmd *cobra.Command, err error) int {
	var own *statusError
	if a := abouts[cmd]; a != nil && a.Failure != 0 && (!errors.As(err, &own) || own.kind) {
		return a.Failure
	}
	return Status(err)
}
