// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ExecOptions are one more process in a running container: what `ctr-task exec` offers.
type ExecOptions struct {
	Args       []string
	Env        []string // --env
	EnvFiles   []string // --env-file, before Env
	Workdir    string   // --workdir; empty: the container's
	User       string   // --user; empty: the container's
	Privileged bool     // --privileged: all capabilities
	TTY        bool     // --tty
	Open       Opener   // see Options.Open; what the container has mounted over its files goes before it
	// ConsoleSize is that of the terminal when the program starts; nil: 0 rows and columns.
	ConsoleSize *specs.Box
}

// Exec derives one more process from the container's specification, which stays as it is: environment,
// directory, user, capabilities, limits and no-new-privileges are the container's unless an option says
// otherwise. Another user has HOME, groups and capabilities of its own; groups of --group-add are not
// among them, for the specification does not tell which they are. What is wrong with an option is
// errdefs.ErrInvalidArgument.
func Exec(ctx context.Context, s *specs.Spec, o ExecOptions) (*specs.Process, error) {
	if s.Process == nil {
		return nil, fmt.Errorf("derive process: specification without process: %w", errdefs.ErrInvalidArgument)
	}
	if len(o.Args) == 0 || o.Args[0] == "" {
		return nil, fmt.Errorf("no command; give one after the container: %w", errdefs.ErrInvalidArgument)
	}
	if err := checkArgs(o.Args); err != nil {
		return nil, err
	}
	p := *s.Process
	p.Args, p.Terminal, p.ConsoleSize, p.CommandLine = o.Args, o.TTY, o.ConsoleSize, ""
	p.Env = slices.Clone(p.Env)
	var err error
	if o.Workdir != "" {
		if p.Cwd, err = workdir(o.Workdir); err != nil {
			return nil, err
		}
	}
	if o.User != "" {
		home, umask := "", p.User.Umask
		if p.User, home, err = User(o.User, nil, over(s.Mounts, o.Open)); err != nil {
			return nil, err
		}
		p.User.Umask = umask
		p.Env = merge(p.Env, []string{"HOME=" + home})
	}
	if o.TTY {
		p.Env = merge([]string{"TERM=xterm"}, p.Env)
	}
	if p.Env, err = Env(ctx, p.Env, o.EnvFiles, o.Env); err != nil {
		return nil, err
	}
	if err := checkSize(p.Args, p.Env); err != nil {
		return nil, err
	}
	set := []string(nil)
	if p.Capabilities != nil {
		set = p.Capabilities.Bounding
	}
	if o.Privileged {
		if set, err = capSet(true, nil, nil, nil); err != nil {
			return nil, err
		}
	}
	if o.Privileged || o.User != "" {
		p.Capabilities = capabilities(set, p.User.UID)
	}
	return &p, nil
}
