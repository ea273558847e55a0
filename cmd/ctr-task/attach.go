// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

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
