// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/state"
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
	stdin, tty, transient bool
	owner                 bool // the program ends with us
	since                 time.Time
	outputFromNow         bool
}

// attach joins this process to a running task and ends with the task's status.
func (a *attachFlags) attach(cmd *cobra.Command, d *state.Dir, ns string, t *task.Task, s session) error {
	o := task.AttachOptions{Stdout: os.Stdout, Stderr: os.Stderr, Since: s.since, OutputFromNow: s.outputFromNow}
	ctx, cancel := a.passSignals(cmd.Context(), t.Signal)
	defer cancel()
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
	exit, err := task.Attach(ctx, d, ns, t, o)
	if errors.Is(err, stdio.ErrDetached) {
		return t.Leave()
	}
	if left, ok := errors.AsType[leftError](err); ok {
		return left.of("container "+t.ID, "ctr-task rm -f "+t.ID)
	}
	if outputFailed(err) && s.owner {
		_ = t.Signal(ctx, syscall.SIGKILL) // it may have ended
		if _, e := task.Wait(ctx, d, ns, t.ID); e == nil && s.transient {
			_ = task.Remove(ctx, d, ns, t.ID, false) // the supervisor sees to it otherwise
		}
	}
	if err != nil {
		return err
	}
	if s.transient {
		if err := task.Remove(ctx, d, ns, t.ID, false); err != nil && cli.Status(err) != cli.ExitNotFound {
			cli.Warn(err)
		}
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

// passSignals hands the signals that reach us on to the program, instead of ending this command, unless the
// options say otherwise. One that has come already is handed on first. The context that it gives ends with
// a [leftError] when the program takes too many; cancel ends the passing on.
func (a *attachFlags) passSignals(outer context.Context, send func(context.Context, unix.Signal) error) (ctx context.Context, cancel func()) {
	if a.noSignals {
		return context.WithCancel(outer)
	}
	sigs := cli.Signals(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	ctx, end := context.WithCancelCause(context.WithoutCancel(outer))
	early := make(chan syscall.Signal, 1)
	context.AfterFunc(outer, func() {
		if first, ok := errors.AsType[cli.SignalError](context.Cause(outer)); ok {
			early <- first.Signal
		}
	})
	go func() {
		taken := 0
		pass := func(sig syscall.Signal) {
			if sig == syscall.SIGINT || sig == syscall.SIGTERM {
				if taken++; taken == patience {
					end(leftError{sig})
					return
				}
			}
			// Not waited for: the next one counts also when the supervisor does not answer.
			go func() { _ = send(ctx, sig) }() // the program may have ended
		}
		for {
			select {
			case s := <-early:
				pass(s)
			case s := <-sigs:
				pass(s.(syscall.Signal))
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { end(nil) }
}

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
		d, err := g.Open()
		if err != nil {
			return err
		}
		name, err := cli.Name(args[0])
		if err != nil {
			return err
		}
		t, err := task.Connect(cmd.Context(), d, g.Namespace, name)
		if err != nil {
			return err
		}
		defer t.Close()
		i, err := inspect(cmd, g, d, t.ID)
		if err != nil {
			return err
		}
		return a.attach(cmd, d, g.Namespace, t, session{stdin: i.Stdin && !noStdin, tty: i.Spec.Process.Terminal, outputFromNow: true})
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
		name, err := cli.Name(args[0])
		if err != nil {
			return err
		}
		if interactive && o.TTY && !o.Detach {
			if err := needTerminal(); err != nil {
				return err
			}
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(cmd.Context())
		defer cancel(nil)
		started := make(chan *task.ExecProcess, 1)
		if interactive {
			o.Stdin = os.Stdin
		}
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
		o.Started = func(p *task.ExecProcess) {
			started <- p
			if !o.Detach {
				passed, end := a.passSignals(ctx, p.Signal)
				context.AfterFunc(passed, func() { cancel(context.Cause(passed)) })
				context.AfterFunc(ctx, end)
			}
		}
		// A reader of our output that goes away shall end the program, so the write must fail instead of killing us.
		cli.Signals(syscall.SIGPIPE)
		exit, err := task.Exec(ctx, d, g.Namespace, name, o)
		if errors.Is(err, stdio.ErrDetached) {
			return nil
		}
		if left, ok := errors.AsType[leftError](err); ok {
			return left.of("the program", "ctr-task top "+name+" shows it")
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
		d, err := g.Open()
		if err != nil {
			return err
		}
		name, err := cli.Name(args[0])
		if err != nil {
			return err
		}
		return task.Logs(cmd.Context(), d, g.Namespace, name, o)
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
