// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// Version is set by the linker; where it is not, commands say what the Go tool knows.
var Version string

func version() string {
	if Version != "" {
		return Version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}

// Global is what the options that every command has were set to.
type Global struct {
	Root, State string        // the state directory
	Namespace   string        // never empty
	Wait        time.Duration // for a lock
	// Waiting, when set, hears of a wait for a lock that lasts longer than two seconds. The wait is told on
	// stderr unless it reports that it shows it.
	Waiting func(*lock.BusyError) bool
}

// Environment variables that set the default of a global option.
const (
	EnvRoot      = "CTRD_ROOT"
	EnvState     = "CTRD_STATE"
	EnvNamespace = "CTRD_NAMESPACE"
)

// DefaultWait bounds the wait for a lock where --wait does not: a holder that is stopped or stuck is then
// reported, and nothing hangs for ever.
const DefaultWait = time.Minute

// DefaultNamespace is the namespace where neither option nor environment names one.
const DefaultNamespace = "default"

func newGlobal(root *cobra.Command, namespaces bool) *Global {
	g := &Global{Wait: DefaultWait, Namespace: DefaultNamespace}
	f := root.PersistentFlags()
	f.SortFlags = true
	f.StringVar(&g.Root, "root", env(EnvRoot, state.DefaultRoot), "keep what is durable in `DIR`")
	f.StringVar(&g.State, "state", env(EnvState, state.DefaultState), "keep what lives as long as this boot in `DIR`")
	if namespaces {
		f.StringVarP(&g.Namespace, "namespace", "n", env(EnvNamespace, DefaultNamespace), "work in the namespace `NAME`")
		f.Lookup("namespace").DefValue = DefaultNamespace
		CompleteOption(root, "namespace", Namespaces(g))
	}
	f.Var((*waitValue)(&g.Wait), "wait", "wait at most `DURATION` (5s, 1m) for a lock; 0 fails at once")
	f.BoolP("help", "h", false, "show this help")
	root.Flags().Bool("version", false, "show the version")
	for name, otherwise := range map[string]string{"root": state.DefaultRoot, "state": state.DefaultState} {
		f.Lookup(name).DefValue = otherwise // help and pages do not depend on the environment
	}
	for _, dir := range []string{"root", "state"} {
		root.MarkPersistentFlagDirname(dir)
	}
	CompleteOption(root, "wait", cobra.FixedCompletions([]string{"0", "5s", "1m"}, cobra.ShellCompDirectiveNoFileComp))
	return g
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// Open opens the state directory, which it makes when it is not there, and makes the snapshotters known that the configuration
// says other processes serve. A wait for a lock that lasts
// longer than two seconds is told on stderr.
func (g *Global) Open() (*state.Dir, error) {
	if err := checkNamespace(g.Namespace); err != nil {
		return nil, err
	}
	if err := serveProxies(); err != nil {
		return nil, err
	}
	d, err := state.Open(state.Config{Root: g.Root, State: g.State, Wait: g.Wait, Waiting: func(b *lock.BusyError) {
		if g.Waiting == nil || !g.Waiting(b) {
			Say("waiting: %v", b)
		}
	}, Warn: func(err error) {
		Say("warning: %v", err)
	}})
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		err = Hint(err, "run it as root, or name directories of your own with --root and --state")
	}
	return d, err
}

// NotACount is for verbs of which docker's namesake takes a count with -n, when they have found nothing: if the
// option -n was given a number, nothing is no answer. instead says how the count is given here.
func (g *Global) NotACount(cmd *cobra.Command, instead string) error {
	if _, err := strconv.ParseUint(g.Namespace, 10, 64); err != nil || !cmd.Flags().Changed("namespace") {
		return nil
	}
	return Hint(Usagef("-n %s is the namespace %q, which has nothing to show", g.Namespace, g.Namespace), "%s", instead)
}

// OpenThere is Open for commands that look after a directory and so have nothing to do where there is none:
// a root that was named and is not there is errdefs.ErrNotFound, instead of being made.
func (g *Global) OpenThere() (*state.Dir, error) {
	if _, err := os.Stat(g.Root); g.Root != state.DefaultRoot && errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("root %q: no such directory: %w", g.Root, errdefs.ErrNotFound)
	}
	return g.Open()
}

// waitValue is a duration flag; a bare number counts seconds.
type waitValue time.Duration

// String shows the duration.
func (w *waitValue) String() string { return time.Duration(*w).String() }

// Set parses a duration.
func (w *waitValue) Set(s string) error {
	d, err := ParseDuration(s)
	*w = waitValue(d)
	return err
}

// Type is the name of the value in help texts.
func (w *waitValue) Type() string { return "duration" }

// ParseDuration reads a span of time as a person writes it: a Go duration (1m30s), or seconds (1.5).
// It is never negative.
func ParseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		d, err = time.ParseDuration(strings.TrimSpace(s) + "s")
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s is no span of time such as 5s or 1m30s", strconv.Quote(s))
	}
	return d, nil
}

// Platforms are those that completion offers.
var Platforms = []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/s390x"}

// TimeoutFlag adds the option --timeout to a command; see [WithTimeout].
func TimeoutFlag(cmd *cobra.Command, d *time.Duration) {
	cmd.Flags().Var((*timeoutValue)(d), "timeout", "give each image up after `DURATION` (30s, 5m); 0: never")
	CompleteOption(cmd, "timeout", cobra.FixedCompletions([]string{"30s", "5m", "1h"}, cobra.ShellCompDirectiveNoFileComp))
}

// timeoutValue is a duration flag that has no default.
type timeoutValue time.Duration

// String shows the duration; none is empty.
func (v *timeoutValue) String() string {
	if *v == 0 {
		return ""
	}
	return time.Duration(*v).String()
}

// Set parses a duration.
func (v *timeoutValue) Set(s string) error {
	d, err := ParseDuration(s)
	*v = timeoutValue(d)
	return err
}

// Type is the name of the value in help texts.
func (v *timeoutValue) Type() string { return "duration" }

// WithTimeout calls fn with a context that ends after d; 0: not at all. When it was the time that ended fn, the
// error is errdefs's DeadlineExceeded and says so.
func WithTimeout(ctx context.Context, d time.Duration, fn func(context.Context) error) error {
	if d <= 0 {
		return fn(ctx)
	}
	timed, cancel := context.WithTimeoutCause(ctx, d, timeoutError(d))
	defer cancel()
	err := fn(timed)
	if err != nil && ctx.Err() == nil && timed.Err() != nil && !errors.Is(err, timeoutError(d)) {
		return fmt.Errorf("%w: %w", err, timeoutError(d))
	}
	return err
}

// timeoutError says that a command's own time is over.
type timeoutError time.Duration

// Error says how long the time was.
func (e timeoutError) Error() string { return fmt.Sprintf("not done after %s", time.Duration(e)) }

// Unwrap gives the kind.
func (e timeoutError) Unwrap() error { return context.DeadlineExceeded }
