// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/task"
)

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
		return a.exec(cmd, t, o, interactive)
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

// exec runs the program and ends with its status.
func (a *attachFlags) exec(cmd *cobra.Command, t *task.Task, o task.ExecOptions, interactive bool) error {
	// A signal that comes before the program runs ends the start; one that comes later is the program's.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(cmd.Context()))
	defer cancel(nil)
	takeOver := context.AfterFunc(cmd.Context(), func() { cancel(context.Cause(cmd.Context())) })
	started := make(chan *task.ExecProcess, 1)
	o.ConsoleSize = consoleSize(o.TTY && !o.Detach)
	if interactive {
		restore, in, err := a.input(ctx, o.TTY, started)
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
		switch {
		case o.Detach:
		case takeOver():
			passed, proxy := a.passSignals(cmd.Context(), p.Signal)
			passing.Store(proxy)
			context.AfterFunc(passed, func() { cancel(context.Cause(passed)) })
			context.AfterFunc(ctx, proxy.close)
		default: // a signal has ended the start, and its news may still be on their way
			<-ctx.Done()
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
}

// input is what is passed on to the program: our stdin, and of a terminal also its size, once the program has started.
// restore undoes what was set on the terminal.
func (a *attachFlags) input(ctx context.Context, tty bool, started chan *task.ExecProcess) (restore func() error, in io.Reader, err error) {
	if !tty {
		return func() error { return nil }, os.Stdin, nil
	}
	return terminal(ctx, a.detachKeys, func(ctx context.Context, w, h uint16) error {
		select {
		case p := <-started:
			started <- p
			return p.Resize(ctx, w, h)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}
