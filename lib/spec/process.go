// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// process is everything about the first process.
func process(ctx context.Context, img ocispec.ImageConfig, o Options) (*specs.Process, error) {
	args, err := command(img, o)
	if err != nil {
		return nil, err
	}
	if o.Init {
		args = append([]string{InitPath, "pid1", "--"}, args...)
	}
	p := &specs.Process{Args: args, Terminal: o.TTY, OOMScoreAdj: o.OOMScoreAdj}
	if o.OOMScoreAdj != nil && (*o.OOMScoreAdj < -1000 || *o.OOMScoreAdj > 1000) {
		return nil, invalid("oom-score-adj", itoa(*o.OOMScoreAdj), "want a number from -1000 to 1000")
	}
	if p.Cwd, err = startDir(img.WorkingDir, o.Workdir); err != nil {
		return nil, err
	}
	home := ""
	if p.User, home, err = processUser(img.User, o); err != nil {
		return nil, err
	}
	base := []string{defaultPath}
	if o.Hostname != "" {
		base = append(base, "HOSTNAME="+o.Hostname)
	}
	if o.TTY {
		base = append(base, "TERM=xterm")
	}
	if p.Env, err = Env(ctx, merge(base, img.Env), o.EnvFiles, o.Env); err != nil {
		return nil, err
	}
	if !hasKey(p.Env, "HOME") {
		p.Env = append(p.Env, "HOME="+home)
	}
	if err := checkSize(p.Args, p.Env); err != nil {
		return nil, err
	}
	set, err := capSet(o.Privileged, o.BaseCaps, o.CapAdd, o.CapDrop)
	if err != nil {
		return nil, err
	}
	p.Capabilities = capabilities(set, p.User.UID)
	if p.Rlimits, err = rlimits(o.Ulimits); err != nil {
		return nil, err
	}
	return p, nil
}

// command joins entrypoint and arguments as docker does: an entrypoint from the command line drops the
// image's Cmd, arguments replace it.
func command(img ocispec.ImageConfig, o Options) ([]string, error) {
	entrypoint, args := img.Entrypoint, o.Args
	if o.Entrypoint != nil {
		entrypoint = nil
		if *o.Entrypoint != "" {
			entrypoint = []string{*o.Entrypoint}
		}
	} else if len(args) == 0 {
		args = img.Cmd
	}
	all := slices.Concat(entrypoint, args)
	if len(all) == 0 || all[0] == "" {
		return nil, fmt.Errorf("no command: the image has none of its own; give one after the image: %w", errdefs.ErrInvalidArgument)
	}
	return all, checkArgs(all)
}

// checkArgs refuses what a specification, which is JSON, or the kernel cannot pass on as it is.
func checkArgs(args []string) error {
	for _, a := range args {
		switch {
		case strings.ContainsRune(a, 0):
			return fmt.Errorf("argument %q: a NUL byte: %w", a, errdefs.ErrInvalidArgument)
		case !utf8.ValidString(a):
			return fmt.Errorf("argument %q: not UTF-8, which is all that an OCI specification can hold: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Bounds of execve(2) on Linux: of one string with its NUL byte, and of all together.
const (
	maxString  = 128 << 10
	maxStrings = 6 << 20
)

// checkSize refuses arguments and environment that no stack limit lets the kernel pass on.
func checkSize(args, env []string) error {
	total := 0
	for _, list := range [][]string{args, env} {
		for _, s := range list {
			if len(s) >= maxString {
				return fmt.Errorf("%.32q...: an argument or variable of %d bytes; the kernel takes fewer than %d: %w", s, len(s), maxString, errdefs.ErrInvalidArgument)
			}
			total += len(s) + 1
		}
	}
	if total > maxStrings {
		return fmt.Errorf("arguments and environment of %d bytes; the kernel takes at most %d: %w", total, maxStrings, errdefs.ErrInvalidArgument)
	}
	return nil
}

// defaultUmask is that of a process under a daemon: what a container makes does not depend on the umask of
// the person who starts it.
const defaultUmask = 0o022

// processUser looks up the user of an option, else that of the image.
func processUser(image string, o Options) (specs.User, string, error) {
	bad, who := invalid, o.User
	if who == "" && image != "" {
		who = image
		bad = func(_, value, format string, args ...any) error { return badImage("User", value, format, args...) }
	}
	u, home, err := lookUp(who, o.GroupAdd, o.Open, bad)
	if err != nil {
		return u, "", err
	}
	umask := uint32(defaultUmask)
	u.Umask = &umask
	return u, home, o.UserNS.checkUser(u)
}

// badImage is the one form of an error about a field of the image's configuration, which no option can be
// blamed for.
func badImage(field, value, format string, args ...any) error {
	return fmt.Errorf("the image's %s %q: %s: %w", field, value, fmt.Sprintf(format, args...), errdefs.ErrNotImplemented)
}

// startDir is where the first process starts.
func startDir(image, option string) (string, error) {
	switch {
	case option != "":
		return workdir(option)
	case image == "":
		return "/", nil
	case !path.IsAbs(image) || strings.ContainsRune(image, 0):
		return "", badImage("WorkingDir", image, "want an absolute path; --workdir gives another")
	}
	return path.Clean(image), nil
}

// workdir checks an option --workdir.
func workdir(dir string) (string, error) {
	if !path.IsAbs(dir) || strings.ContainsRune(dir, 0) || len(dir) >= maxPath {
		return "", invalid("workdir", dir, "want an absolute path")
	}
	return path.Clean(dir), nil
}
