// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/task"
)

// attachFlags are the options of the verbs that join a person to a container.
type attachFlags struct {
	detachKeys string
	noSignals  bool
}

func (a *attachFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.detachKeys, "detach-keys", stdio.DefaultDetachKeys, "leave the container running when these `KEYS` are typed, on a terminal")
	cmd.Flags().BoolVar(&a.noSignals, "no-sig-proxy", false, "do not pass signals on to the program")
	cli.CompleteOption(cmd, "detach-keys", cobra.NoFileCompletions)
}

// session is what a verb knows of the task it attaches to.
type session struct {
	stdin, tty    bool
	owner         bool // the program ends with us
	since         time.Time
	outputFromNow bool
}

// attach joins this process to a running task and ends with the task's status.
func (a *attachFlags) attach(cmd *cobra.Command, t *task.Task, s session) error {
	o := task.AttachOptions{Stdout: os.Stdout, Stderr: os.Stderr, Since: s.since, OutputFromNow: s.outputFromNow}
	ctx, proxy := a.passSignals(cmd.Context(), t.Signal)
	defer proxy.close()
	o.Ended = proxy.programEnded
	if s.stdin {
		o.Stdin = os.Stdin
	}
	if s.tty && s.stdin {
		restore, in, err := terminal(ctx, a.detachKeys, t.Resize)
		if err != nil {
			return err
		}
		defer restore()
		o.Stdin = in
	} else if s.tty && stdio.IsTerminal(os.Stdout) {
		go stdio.WatchSize(ctx, os.Stdout, func(w, h uint16) { _ = t.Resize(ctx, w, h) })
	}
	// A reader of our output that goes away shall end the program, as it does in a pipe of the shell: so
	// the write must fail instead of killing us.
	cli.Signals(syscall.SIGPIPE)
	exit, err := t.Attach(ctx, o)
	if errors.Is(err, stdio.ErrDetached) {
		return t.Leave()
	}
	if left, ok := errors.AsType[leftError](err); ok {
		return errors.Join(left.of("container "+t.ID(), "ctr-task rm -f "+t.ID()), t.Leave())
	}
	if s.owner && t.Container.Transient {
		// Also when the output failed: the program ends with us.
		if e := t.RemoveEnded(context.WithoutCancel(ctx)); e != nil {
			cli.Warn(e)
		}
	} else if outputFailed(err) && s.owner {
		_ = t.End(context.WithoutCancel(ctx)) // it may have ended
	}
	if sig, ok := errors.AsType[cli.SignalError](err); ok {
		cli.Die(sig.Signal)
	}
	if err != nil {
		return err
	}
	return cli.Exit(exit.Status)
}

// terminal puts our terminal, if stdin is one, into raw mode, has the far terminal follow its size, and
// gives a stdin that knows the detach keys.
func terminal(ctx context.Context, keys string, resize func(context.Context, uint16, uint16) error) (restore func() error, in io.Reader, err error) {
	if !stdio.IsTerminal(os.Stdin) {
		return func() error { return nil }, os.Stdin, nil
	}
	k, err := stdio.ParseDetachKeys(keys)
	if err != nil {
		return nil, nil, err
	}
	if restore, err = stdio.Raw(os.Stdin); err != nil {
		return nil, nil, err
	}
	go stdio.WatchSize(ctx, os.Stdin, func(w, h uint16) { _ = resize(ctx, w, h) })
	return restore, stdio.NewDetachReader(os.Stdin, k), nil
}

// outputFailed tells whether an error is that of a write to our output.
func outputFailed(err error) bool {
	path, ok := errors.AsType[*os.PathError](err)
	return errors.Is(err, syscall.EPIPE) || ok && path.Op == "write"
}

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

func attachVerb(g *cli.Global) *cobra.Command {
	var a attachFlags
	var noStdin bool
	cmd := cli.New("attach [OPTION]... CONTAINER", "join a running container", cli.About{
		Long: "Passes on what the container writes from now on, and this command's input to it if it was made with -i, until " +
			"it ends; then ends with its status. Any number of clients can be attached: each gets everything, and one that " +
			"does not read delays nobody.",
		Stdin: "the container's input, if it was made with -i; with CONTAINER -, first a line that names the container", Stdout: "the container's output",
		Examples: []cli.Example{{Note: "look at what it writes", Text: "ctr-task attach --no-stdin r"}},
		Args:     cli.Count(1, 1), Complete: cli.Tasks(g), Failure: 125, Status: programStatuses[:2],
		SeeAlso: []string{"ctr-task-logs", "ctr-task-exec"},
	}, func(cmd *cobra.Command, args []string) error {
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		defer t.Close()
		if err := t.Connect(cmd.Context()); err != nil {
			return err
		}
		s, err := t.Spec(cmd.Context())
		if err != nil {
			return err
		}
		return a.attach(cmd, t, session{stdin: t.Container.Stdin && !noStdin, tty: s.Process.Terminal, outputFromNow: true})
	})
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not pass the input on")
	a.add(cmd)
	return cmd
}

func execVerb(g *cli.Global) *cobra.Command {
	var o task.ExecOptions
	var a attachFlags
	var interactive bool
	cmd := cli.New("exec [OPTION]... CONTAINER PROGRAM [ARGUMENT]...", "run one more program in a running container", cli.About{
		Long:  "Runs a program in the container's namespaces and cgroup, with its environment. Without -d, its output is passed on until it ends, with -i its input too, and exec ends with its status.",
		Stdin: "with -i, the program's input; with CONTAINER -, first a line that names the container", Stdout: "the program's output",
		Examples: []cli.Example{
			{Note: "ask redis", Text: "ctr-task exec r redis-cli get k"},
			{Note: "a shell", Text: "ctr-task exec -it r sh"},
			{Note: "copy a file in", Text: "ctr-task exec -i r sh -c 'cat >/etc/motd' <motd"},
		},
		Args: cli.Count(2, -1), Complete: cli.InTurn(cli.Tasks(g)), Program: true, Failure: 125, Status: programStatuses,
	}, func(cmd *cobra.Command, args []string) error {
		o.Args, o.Stdout, o.Stderr = args[1:], os.Stdout, os.Stderr
		if interactive && o.TTY && !o.Detach {
			if err := needTerminal(); err != nil {
				return err
			}
		}
		t, err := one(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		defer t.Close()
		// A signal that comes before the program runs ends the start; one that comes later is the program's.
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(cmd.Context()))
		defer cancel(nil)
		takeOver := context.AfterFunc(cmd.Context(), func() { cancel(context.Cause(cmd.Context())) })
		started := make(chan *task.ExecProcess, 1)
		if interactive {
			o.Stdin = os.Stdin
		}
		o.ConsoleSize = consoleSize(o.TTY && !o.Detach)
		if interactive && o.TTY {
			resize := func(ctx context.Context, w, h uint16) error {
				select {
				case p := <-started:
					started <- p
					return p.Resize(ctx, w, h)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			restore, in, err := terminal(ctx, a.detachKeys, resize)
			if err != nil {
				return err
			}
			defer restore()
			o.Stdin = in
		}
		var passing atomic.Pointer[proxy]
		o.Ended = func() {
			if p := passing.Load(); p != nil {
				p.programEnded()
			}
		}
		o.Started = func(p *task.ExecProcess) {
			started <- p
			if !o.Detach && takeOver() {
				passed, proxy := a.passSignals(cmd.Context(), p.Signal)
				passing.Store(proxy)
				context.AfterFunc(passed, func() { cancel(context.Cause(passed)) })
				context.AfterFunc(ctx, proxy.close)
			}
		}
		// A reader of our output that goes away shall end the program, so the write must fail instead of killing us.
		cli.Signals(syscall.SIGPIPE)
		exit, err := t.Exec(ctx, o)
		if errors.Is(err, stdio.ErrDetached) {
			return nil
		}
		if left, ok := errors.AsType[leftError](err); ok {
			return left.of("the program", "ctr-task top "+t.ID()+" shows it")
		}
		if sig, ok := errors.AsType[cli.SignalError](err); ok && cmd.Context().Err() == nil {
			cli.Die(sig.Signal)
		}
		if err != nil {
			return programStatus(err)
		}
		return cli.Exit(exit.Status)
	})
	f := cmd.Flags()
	f.BoolVarP(&o.Detach, "detach", "d", false, "run in the background")
	f.BoolVarP(&interactive, "interactive", "i", false, "pass the input on")
	f.BoolVarP(&o.TTY, "tty", "t", false, "give the program a terminal")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "set `NAME=VALUE` in the environment; NAME alone copies the variable")
	f.StringArrayVar(&o.EnvFiles, "env-file", nil, "set the variables that `FILE` lists")
	f.StringVarP(&o.Workdir, "workdir", "w", "", "start the program in `DIR`")
	f.StringVarP(&o.User, "user", "u", "", "run it as `USER[:GROUP]`, names of the image or numbers")
	f.BoolVar(&o.Privileged, "privileged", false, "give it all capabilities")
	for _, name := range []string{"env", "workdir", "user"} {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
	a.add(cmd)
	return cmd
}

func logsVerb(g *cli.Global) *cobra.Command {
	var follow, stamps bool
	var tail, since string
	cmd := cli.New("logs [OPTION]... CONTAINER", "show what a container has written", cli.About{
		Long:   "Prints the container's output, stdout to stdout and stderr to stderr, from the log that its supervisor keeps. With -f it goes on until the container ends.",
		Stdin:  oneName,
		Stdout: "what the container wrote to its stdout; its stderr goes to stderr",
		Examples: []cli.Example{
			{Note: "the last ten lines, and what comes", Text: "ctr-task logs -f --tail 10 r"},
			{Note: "the last five minutes, with times", Text: "ctr-task logs -t --since 5m r"},
		},
		Args: cli.Count(1, 1), Complete: cli.Containers(g), Exit: []int{cli.ExitNotFound},
		SeeAlso: []string{"ctr-task-attach"},
	}, func(cmd *cobra.Command, args []string) error {
		o := task.LogOptions{Follow: follow, Stamps: stamps, Tail: -1, Stdout: os.Stdout, Stderr: os.Stderr}
		var err error
		if o.Tail, err = parseTail(tail); err != nil {
			return err
		}
		if o.Since, err = parseSince(since, time.Now()); err != nil {
			return err
		}
		t, err := one(cmd.Context(), g, args[0])
		if errdefs.IsNotFound(err) {
			if e := g.NotACount(cmd, "--tail "+g.Namespace+" shows the last lines"); e != nil {
				return e
			}
		}
		if err != nil {
			return err
		}
		defer t.Close()
		if err := t.Logs(cmd.Context(), o); err != nil {
			return err
		}
		warnLost(cmd.Context(), t)
		return nil
	})
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until the container ends")
	f.BoolVarP(&stamps, "timestamps", "t", false, "begin each line with its time")
	f.StringVar(&tail, "tail", "all", "begin with the last `NUMBER` of lines")
	f.StringVar(&since, "since", "", "begin at this `TIME`: RFC 3339, seconds since 1970, or a span back from now (5m)")
	cli.CompleteOption(cmd, "tail", cobra.NoFileCompletions)
	cli.CompleteOption(cmd, "since", cobra.NoFileCompletions)
	return cmd
}

// warnLost says that a log is not whole.
func warnLost(ctx context.Context, t *task.Task) {
	if info, err := t.Info(ctx); err == nil && info.Lost != nil {
		cli.Warn(fmt.Errorf("container %q: %d bytes of its output are lost, they could not be written to its log: %s", t.ID(), info.Lost.Bytes, info.Lost.Error))
	}
}
