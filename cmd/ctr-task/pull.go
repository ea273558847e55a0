// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/task"
)

// pullFlags say when the image is brought by ctr-pull.
type pullFlags struct {
	when  pullWhen
	quiet bool
}

type pullWhen string

const (
	pullMissing pullWhen = "missing"
	pullAlways  pullWhen = "always"
	pullNever   pullWhen = "never"
)

func (p *pullFlags) add(cmd *cobra.Command) {
	p.when = pullMissing
	cmd.Flags().Var(&p.when, "pull", "have ctr-pull bring the image `WHEN`: missing (it is not here), always, or never")
	cmd.Flags().BoolVarP(&p.quiet, "quiet", "q", false, "show no progress of that")
	cli.CompleteOption(cmd, "pull", cobra.FixedCompletions([]string{string(pullMissing), string(pullAlways), string(pullNever)}, cobra.ShellCompDirectiveNoFileComp))
}

// String is the word.
func (p *pullWhen) String() string { return string(*p) }

// Type is what pflag calls the kind of value.
func (p *pullWhen) Type() string { return "string" }

// Set takes the word from the command line.
func (p *pullWhen) Set(s string) error {
	switch pullWhen(s) {
	case pullMissing, pullAlways, pullNever:
		*p = pullWhen(s)
		return nil
	}
	return errors.New("want missing, always or never")
}

// withImage makes a container, with its image brought before where that is asked for or it is not here.
func withImage[T any](cmd *cobra.Command, g *cli.Global, p pullFlags, o task.CreateOptions, make func() (T, error)) (made T, err error) {
	if p.when == pullAlways {
		if err := bring(cmd, g, p, o); err != nil {
			return made, err
		}
		return make()
	}
	made, err = make()
	var missing *task.ImageError
	if p.when == pullNever || !errors.As(err, &missing) || !errdefs.IsNotFound(err) {
		return made, err
	}
	pullErr := bring(cmd, g, p, o)
	var absent *noPullError
	if errors.As(pullErr, &absent) {
		return made, err
	}
	if pullErr != nil {
		return made, pullErr
	}
	return make()
}

// noPullError says that there is no ctr-pull.
type noPullError struct{ error }

// bring runs ctr-pull, which has told on stderr what went wrong: this program links no network.
func bring(cmd *cobra.Command, g *cli.Global, p pullFlags, o task.CreateOptions) error {
	path, err := task.Beside("ctr-pull")
	if err != nil {
		return &noPullError{err}
	}
	args := []string{"--root", g.Root, "--state", g.State, "--namespace", g.Namespace}
	if cmd.Flags().Changed("wait") {
		args = append(args, "--wait", g.Wait.String())
	}
	if p.quiet {
		args = append(args, "--quiet")
	}
	if o.Snapshotter != "" {
		args = append(args, "--snapshotter", o.Snapshotter)
	}
	if o.Platform != "" {
		args = append(args, "--platform", o.Platform)
	}
	pull := exec.CommandContext(cmd.Context(), path, append(args, "--", o.Image)...)
	pull.Stdout, pull.Stderr = io.Discard, os.Stderr
	pull.Cancel = func() error { return pull.Process.Signal(syscall.SIGTERM) }
	if err := pull.Run(); err != nil {
		if cause := context.Cause(cmd.Context()); cause != nil {
			err = cause
		}
		return fmt.Errorf("bring image %q: ctr-pull: %w", o.Image, err)
	}
	return nil
}

// pullStatus gives an error of bring the status that ctr-pull had.
func pullStatus(err error) error {
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() > 0 {
		return cli.WithStatus(err, ended.ExitCode())
	}
	return err
}
