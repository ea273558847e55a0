// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/stdio"
)

// logOptions are the options of logs.
type logOptions struct {
	follow, previous, reopen, stamps bool
	tail, since, stream              string
	bytes                            int64
}

func logsVerb(o *options) *cobra.Command {
	var l logOptions
	cmd := cli.New("logs [OPTION]... CONTAINER", "show what a container of a pod has written", cli.About{
		Long:   "Prints the container's output, stdout to stdout and stderr to stderr, from the log file that its pod's configuration names. With -f it goes on until the container ends.",
		Stdout: "what the container wrote to its stdout; its stderr goes to stderr",
		Examples: []cli.Example{
			{Note: "the last ten lines, and what comes", Text: "ctr-cri logs -f --tail 10 8c0de7a1f3b52"},
			{Note: "what the container before it wrote", Text: "ctr-cri logs -p 8c0de7a1f3b52"},
		},
		Args: cli.Count(1, 1), Complete: o.completeContainers, Exit: []int{cli.ExitNotFound, cli.ExitBusy}, SeeAlso: []string{"ctr-cri-attach", "ctr-task-logs"},
	}, func(cmd *cobra.Command, args []string) error {
		opt := stdio.ReadOptions{Follow: l.follow}
		var err error
		if opt.Tail, err = cli.ParseTail(l.tail); err != nil {
			return err
		}
		if opt.Since, err = cli.ParseSince(l.since, time.Now()); err != nil {
			return err
		}
		stdout, stderr, err := l.writers()
		if err != nil {
			return err
		}
		return o.do(cmd, nil, func(ctx context.Context, r *runtimeClient) error {
			if l.reopen {
				if _, err := r.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: args[0]}); err != nil {
					return fmt.Errorf("container %q: open its log anew: %w", args[0], err)
				}
			}
			return r.logs(ctx, args[0], &l, opt, stdout, stderr)
		})
	})
	f := cmd.Flags()
	f.BoolVarP(&l.follow, "follow", "f", false, "go on until the container ends")
	f.BoolVarP(&l.previous, "previous", "p", false, "show the log of the container of that name that ran before in the pod")
	f.BoolVarP(&l.reopen, "reopen", "r", false, "first have the runtime open the log anew, as after a rotation")
	f.BoolVarP(&l.stamps, "timestamps", "t", false, "begin each line with its time")
	f.StringVar(&l.tail, "tail", "all", "begin with the last `NUMBER` of lines")
	f.StringVar(&l.since, "since", "", "begin at this `TIME`: RFC 3339, seconds since 1970, or a span back from now (5m)")
	f.StringVarP(&l.stream, "stream", "s", "", "show only this `STREAM`: stdout, stderr")
	f.Int64Var(&l.bytes, "limit-bytes", -1, "stop after `NUMBER` bytes")
	f.Lookup("limit-bytes").DefValue = ""
	cli.CompleteOption(cmd, "stream", cobra.FixedCompletions([]string{"stdout", "stderr"}, cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"tail", "since", "limit-bytes"} {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
	return cmd
}

// errLimit is the end of what was asked for.
var errLimit = errors.New("limit reached")

// limited writes up to a number of bytes, which several may share.
type limited struct {
	w    io.Writer
	left *int64
}

// Write implements [io.Writer]; it returns errLimit with the last byte.
func (l limited) Write(p []byte) (int, error) {
	whole := p
	if *l.left >= 0 && int64(len(p)) > *l.left {
		p = p[:*l.left]
	}
	n, err := l.w.Write(p)
	if *l.left >= 0 {
		*l.left -= int64(n)
	}
	if err == nil && n < len(whole) {
		err = errLimit
	}
	return n, err
}

// writers are where the two streams go.
func (l *logOptions) writers() (stdout, stderr io.Writer, err error) {
	left := l.bytes
	stdout, stderr = limited{os.Stdout, &left}, limited{os.Stderr, &left}
	switch l.stream {
	case "":
	case "stdout":
		stderr = io.Discard
	case "stderr":
		stdout = io.Discard
	default:
		return nil, nil, cli.Usagef("--stream: %q is neither stdout nor stderr", l.stream)
	}
	return stdout, stderr, nil
}

func (r *runtimeClient) logs(ctx context.Context, id string, l *logOptions, opt stdio.ReadOptions, stdout, stderr io.Writer) error {
	status, err := r.status(ctx, id)
	if err != nil {
		return err
	}
	path := status.GetLogPath()
	if path == "" {
		return fmt.Errorf("container %q has no log: its pod's configuration has no log_directory, or its own no log_path: %w", id, errdefs.ErrFailedPrecondition)
	}
	if l.previous {
		attempt := status.GetMetadata().GetAttempt()
		if attempt == 0 {
			return fmt.Errorf("container %q is the first of its name in the pod: %w", id, errdefs.ErrNotFound)
		}
		path = filepath.Join(filepath.Dir(path), strconv.FormatUint(uint64(attempt)-1, 10)+filepath.Ext(path))
		opt.Follow = false
	}
	opt.Follow = opt.Follow && status.GetState() != runtime.ContainerState_CONTAINER_EXITED
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	reader, err := stdio.Log{Path: path}.Open(ctx, opt)
	if err != nil {
		return about("log of container", id, err)
	}
	defer reader.Close()
	if opt.Follow {
		go func() {
			if err := r.untilEnd(ctx, id); err != nil {
				cancel(err)
			}
			reader.End()
		}()
	}
	err = reader.Copy(stdout, stderr, l.stamps)
	switch {
	case errors.Is(err, errLimit):
		return nil
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

func (r *runtimeClient) status(ctx context.Context, id string) (*runtime.ContainerStatus, error) {
	answer, err := r.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, about("container", id, err)
	}
	return answer.GetStatus(), nil
}

// askEvery is how often a container is looked at whose end is waited for: the protocol has no call that waits.
const askEvery = 250 * time.Millisecond

// untilEnd waits until the container has ended or is gone.
func (r *runtimeClient) untilEnd(ctx context.Context, id string) error {
	for {
		s, err := r.status(ctx, id)
		if errdefs.IsNotFound(err) || err == nil && s.GetState() == runtime.ContainerState_CONTAINER_EXITED {
			return nil
		}
		if err != nil {
			return err
		}
		if sleep(ctx, askEvery) != nil {
			return nil
		}
	}
}
