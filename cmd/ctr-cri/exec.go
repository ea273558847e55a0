// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/stdio"
)

// statuses is what a command ends with that runs a program.
var statuses = []cli.ExitStatus{
	{Code: "n", Meaning: "the program's own status; 128+n when signal n ended it"},
	{Code: "125", Meaning: "the failure is ours: no such container, a bad option, a runtime that does not answer"},
}

// detachKeys end a session at a terminal, and leave the program to itself.
const detachKeys = "ctrl-p,ctrl-q"

// console puts the terminal on stdin into raw mode and makes the session one at a terminal; restore undoes that.
func (s *session) console() (restore func() error, err error) {
	if !stdio.IsTerminal(os.Stdin) {
		return nil, cli.Hint(cli.Usagef("-i and -t together want a terminal on stdin"), "leave -t out to pass a file or a pipe on")
	}
	keys, err := stdio.ParseDetachKeys(detachKeys)
	if err != nil {
		return nil, err
	}
	if restore, err = stdio.Raw(os.Stdin); err != nil {
		return nil, err
	}
	s.stdin = stdio.NewDetachReader(os.Stdin, keys)
	s.sizes = func(ctx context.Context, set func(w, h uint16)) { stdio.WatchSize(ctx, os.Stdin, set) }
	return restore, nil
}

// carry runs a session at an address of the runtime's and ends with its program's status.
func (s *session) carry(ctx context.Context, flags *streamFlags, address string, interactive bool) (err error) {
	conn, err := flags.dial(ctx, address, sessionProtocol)
	if err != nil {
		return err
	}
	if interactive {
		s.stdin = os.Stdin
		if s.tty {
			restore, err := s.console()
			if err != nil {
				conn.Close()
				return err
			}
			defer restore()
		}
	}
	status, err := s.run(ctx, conn)
	if errors.Is(err, stdio.ErrDetached) {
		return nil
	}
	return cmp.Or(err, cli.Exit(status))
}

// execOptions are the options of exec.
type execOptions struct {
	sync, tty, interactive bool
	quiet, ignore, side    bool
	timeout                int64
	stream                 streamFlags
	containerFilter
}

func execVerb(o *options) *cobra.Command {
	var e execOptions
	cmd := cli.New("exec [OPTION]... [CONTAINER] PROGRAM [ARGUMENT]...", "run one more program in a container of a pod", cli.About{
		Long: "Runs a program in a container that runs, passes its output on and ends with its status. Where options pick " +
			"containers, none is given, and the program is run in each; the status is then that of the first that failed.",
		Stdin: "with -i, the program's input", Stdout: "the program's output",
		Examples: []cli.Example{
			{Note: "a shell", Text: "ctr-cri exec -it 8c0de7a1f3b52 sh"},
			{Note: "ask all containers of a pod", Text: "ctr-cri exec --pod 3f1c2a9d04b7e -- hostname"},
		},
		Args: cli.Count(1, -1), Complete: cli.InTurn(o.completeContainers), Program: true, Failure: 125, Status: statuses,
		SeeAlso: []string{"ctr-cri-attach", "ctr-task-exec"},
	}, func(cmd *cobra.Command, args []string) error {
		if !e.given() && len(args) < 2 {
			return cli.Usagef("no PROGRAM given")
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			if !e.given() {
				return e.run(ctx, r, args[0], args[1:])
			}
			all, err := e.list(ctx, r)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return fmt.Errorf("no container fits the options: %w", errdefs.ErrNotFound)
			}
			return e.runAll(ctx, r, idsOf(all), args)
		})
	})
	f := cmd.Flags()
	f.BoolVarP(&e.sync, "sync", "s", false, "ask for the whole output at once, as the kubelet's probes do")
	f.Int64Var(&e.timeout, "timeout", 0, "with --sync, kill the program after `SECONDS`; 0 waits as long as it takes")
	f.BoolVarP(&e.tty, "tty", "t", false, "give the program a terminal")
	f.BoolVarP(&e.interactive, "interactive", "i", false, "pass the input on")
	f.BoolVarP(&e.quiet, "quiet", "q", false, "do not print the id before the output where several containers are picked")
	f.BoolVarP(&e.ignore, "ignore-errors", "e", false, "end with 0 whatever the programs do")
	f.BoolVarP(&e.side, "parallel", "x", false, "run the program in all containers that are picked at the same time")
	e.containerFilter.addExec(cmd)
	e.stream.add(cmd)
	cli.CompleteOption(cmd, "timeout", cobra.NoFileCompletions)
	return cmd
}

// runAll runs the program in each container and ends as the first one that failed.
func (e *execOptions) runAll(ctx context.Context, r *runtimeClient, ids, args []string) error {
	failures := make([]error, len(ids))
	one := func(i int) {
		if !e.quiet && !e.side && len(ids) > 1 {
			fmt.Printf("%s:\n", ids[i])
		}
		failures[i] = e.run(ctx, r, ids[i], args)
	}
	var all sync.WaitGroup
	for i := range ids {
		if e.side {
			all.Go(func() { one(i) })
		} else {
			one(i)
		}
	}
	all.Wait()
	if e.ignore {
		return nil
	}
	return cmp.Or(failures...)
}

func (e *execOptions) run(ctx context.Context, r *runtimeClient, id string, args []string) error {
	if e.sync {
		answer, err := r.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: id, Cmd: args, Timeout: e.timeout})
		if err != nil {
			return about("container", id, err)
		}
		if _, err := os.Stdout.Write(answer.Stdout); err != nil {
			return err
		}
		if _, err := os.Stderr.Write(answer.Stderr); err != nil {
			return err
		}
		return cli.Exit(int(answer.ExitCode))
	}
	answer, err := r.Exec(ctx, &runtime.ExecRequest{ContainerId: id, Cmd: args, Tty: e.tty, Stdin: e.interactive, Stdout: true, Stderr: !e.tty})
	if err != nil {
		return about("container", id, err)
	}
	s := session{tty: e.tty}
	if err := s.carry(ctx, &e.stream, answer.Url, e.interactive); err != nil && !cli.HasStatus(err) {
		return about("container", id, err)
	} else {
		return err
	}
}

func attachVerb(o *options) *cobra.Command {
	var tty, interactive bool
	var flags streamFlags
	cmd := cli.New("attach [OPTION]... CONTAINER", "join a running container of a pod", cli.About{
		Long:  "Passes on what the container writes from now on, with -i this command's input to it, until it ends. At a terminal the keys " + detachKeys + " leave it to itself.",
		Stdin: "with -i, the container's input", Stdout: "the container's output",
		Examples: []cli.Example{{Note: "join a container that was made with a terminal", Text: "ctr-cri attach -it 8c0de7a1f3b52"}},
		Args:     cli.Count(1, 1), Complete: o.completeContainers, Failure: 125, Status: statuses, SeeAlso: []string{"ctr-cri-exec", "ctr-cri-logs"},
	}, func(cmd *cobra.Command, args []string) error {
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			answer, err := r.Attach(ctx, &runtime.AttachRequest{ContainerId: args[0], Tty: tty, Stdin: interactive, Stdout: true, Stderr: !tty})
			if err != nil {
				return about("container", args[0], err)
			}
			s := session{tty: tty}
			return s.carry(ctx, &flags, answer.Url, interactive)
		})
	})
	f := cmd.Flags()
	f.BoolVarP(&tty, "tty", "t", false, "the container has a terminal")
	f.BoolVarP(&interactive, "stdin", "i", false, "pass the input on")
	flags.add(cmd)
	return cmd
}
