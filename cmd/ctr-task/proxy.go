// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
)

// patience is how many INT and TERM together a program may take without ending before we leave it.
const patience = 3

// leftError says that a person wants this command to end, whatever the program does.
type leftError struct{ sig syscall.Signal }

// Error names the signal.
func (e leftError) Error() string {
	return fmt.Sprintf("%d times %s", patience, unix.SignalName(e.sig))
}

// of says what was left, and how it is ended.
func (e leftError) of(what, end string) error {
	return cli.WithStatus(cli.Hint(fmt.Errorf("%w: %s runs on", e, what), "%s", end), 128+int(e.sig))
}

// proxy passes the signals that reach this process on to a program.
type proxy struct {
	send   func(context.Context, unix.Signal) error
	ctx    context.Context // ends when the passing on does
	end    context.CancelCauseFunc
	ended  atomic.Bool  // the program has ended
	passed atomic.Int32 // the last INT or TERM that was passed on; 0: none
	taken  int          // how many INT and TERM have been passed on
	last   map[syscall.Signal]time.Time
}

// together is how close two signals of a kind count as one: timeout(1) and a shell send theirs to the process
// and to its group.
const together = 100 * time.Millisecond

// passSignals hands the signals that reach us on to the program, instead of ending this command, unless the
// options say otherwise. One that has come already is handed on first. The context that it gives ends with
// a [leftError] when the program takes too many, and with a cli.SignalError at the first one that comes after
// the program has ended.
func (a *attachFlags) passSignals(outer context.Context, send func(context.Context, unix.Signal) error) (context.Context, *proxy) {
	p := &proxy{send: send, last: map[syscall.Signal]time.Time{}}
	if a.noSignals {
		p.ctx, p.end = context.WithCancelCause(outer)
		return p.ctx, p
	}
	sigs := cli.Signals(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	p.ctx, p.end = context.WithCancelCause(context.WithoutCancel(outer))
	early := make(chan syscall.Signal, 1)
	context.AfterFunc(outer, func() {
		if first, ok := errors.AsType[cli.SignalError](context.Cause(outer)); ok {
			early <- first.Signal
		}
	})
	go func() {
		for {
			select {
			case s := <-early:
				p.pass(s)
			case s := <-sigs:
				p.pass(s.(syscall.Signal))
			case <-p.ctx.Done():
				return
			}
		}
	}()
	return p.ctx, p
}

func (p *proxy) pass(sig syscall.Signal) {
	if sig == syscall.SIGINT || sig == syscall.SIGTERM {
		now := time.Now()
		if now.Sub(p.last[sig]) < together {
			return
		}
		p.last[sig] = now
		if p.ended.Load() {
			p.end(cli.SignalError{Signal: sig})
			return
		}
		p.passed.Store(int32(sig))
		if p.taken++; p.taken == patience {
			p.end(leftError{sig})
			return
		}
	}
	// Not waited for: the next one counts also when the supervisor does not answer.
	go func() { _ = p.send(p.ctx, sig) }() // the program may have ended
}

// programEnded says that there is no program to pass signals on to: the next one ends this command. When one has
// been passed on already it counts for us too, if the reader of our output does not let us end.
func (p *proxy) programEnded() {
	p.ended.Store(true)
	if sig := p.passed.Load(); sig != 0 {
		time.AfterFunc(time.Second, func() { p.end(cli.SignalError{Signal: syscall.Signal(sig)}) })
	}
}

func (p *proxy) close() { p.end(nil) }
