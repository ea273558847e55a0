// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/native"
)

// drainFor is how long calls that are under way may take to end after a signal.
const drainFor = 10 * time.Second

type server struct {
	g        *cli.Global
	address  string
	group    string
	idle     time.Duration
	logLevel string
}

func serveVerb(g *cli.Global) *cobra.Command {
	s := &server{g: g}
	cmd := cli.New("serve [OPTION]...", "serve containerd's API on a socket", cli.About{
		Long: "Serves the API of containerd, so that ctr, nerdctl and containerd's Go client work with what is in the state " +
			"directory. It keeps nothing that is not in that directory: containers run on when it ends, and every command works " +
			"beside it. The socket comes from systemd (ctrd.socket), which starts it with the first connection; it ends when nobody " +
			"has been connected for a while. Without systemd it makes the socket itself and stays.\n\n" +
			"Root, its own user and the group that owns the socket may connect.",
		Stdout: "nothing",
		Examples: []cli.Example{
			{Note: "on a host without systemd", Text: "ctrd serve &"},
			{Note: "use it", Text: "ctr --address /run/ctrd/ctrd.sock images ls"},
		},
		SeeAlso: []string{"ctrd"},
		Args:    cli.Count(0, 0),
	}, func(cmd *cobra.Command, _ []string) error { return s.run(cmd) })
	f := cmd.Flags()
	f.StringVarP(&s.address, "address", "a", "", "listen on the socket `PATH` where systemd gives none (default: ctrd.sock in the state directory)")
	f.StringVar(&s.group, "group", "ctrd", "let members of `GROUP` connect to a socket that it makes, if there is such a group")
	f.DurationVar(&s.idle, "idle-timeout", time.Minute, "end when nobody has been connected for this `TIME`; 0 is never, and so it is without systemd unless given")
	f.StringVar(&s.logLevel, "log-level", "info", "say what is at least `LEVEL`: debug (each call), info, warn or error")
	return cmd
}

func (s *server) run(cmd *cobra.Command) error {
	log, err := s.logger()
	if err != nil {
		return err
	}
	d, err := s.g.Open()
	if err != nil {
		return err
	}
	listeners, err := sockets()
	if err != nil {
		return err
	}
	activated := len(listeners) > 0
	if !activated {
		l, held, err := makeSocket(cmp.Or(s.address, d.Run("ctrd.sock")), s.group)
		if err != nil {
			return err
		}
		defer held.Remove()
		listeners = []*net.UnixListener{l}
	}
	if !activated && !cmd.Flags().Changed("idle-timeout") {
		s.idle = 0
	}
	srv := native.New(native.Options{Dir: d, Version: cli.Version, Log: log})
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		guarded := native.Guard(l, func(peer string) { log.Warn("a peer was turned away", "peer", peer) })
		go func() { failed <- srv.Serve(guarded) }()
		log.Info("serving", "address", l.Addr().String(), "version", cli.Version)
	}
	notify(daemon.SdNotifyReady)
	err = s.until(cmd.Context(), srv, failed)
	notify(daemon.SdNotifyStopping)
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	srv.Stop(ctx)
	return err
}

// until returns when the server is to end: on a signal, after idling, or when a listener fails.
func (s *server) until(ctx context.Context, srv *native.Server, failed <-chan error) error {
	watchdog, _ := daemon.SdWatchdogEnabled(false)
	tick := time.Second
	if s.idle > 0 {
		tick = min(tick, max(s.idle/4, time.Millisecond))
	}
	if watchdog > 0 {
		tick = min(tick, watchdog/3)
	}
	if s.idle == 0 && watchdog == 0 {
		tick = time.Hour // nothing to look for: an idle server costs nothing
	}
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-t.C:
			if watchdog > 0 {
				notify(daemon.SdNotifyWatchdog)
			}
			if s.idle > 0 && srv.Idle() >= s.idle {
				return nil
			}
		}
	}
}

// notify tells systemd; whoever did not start us by it is told nothing.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

func (s *server) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return nil, cli.Usagef("--log-level %q: want debug, info, warn or error", s.logLevel)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), nil
}

// sockets gives those that systemd has opened (sd_listen_fds(3)).
func sockets() (all []*net.UnixListener, err error) {
	given, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("sockets of systemd: %w", err)
	}
	for _, l := range given {
		u, ok := l.(*net.UnixListener)
		if !ok {
			return nil, fmt.Errorf("systemd gave %v, which is no unix socket that listens: %w", l, errdefs.ErrInvalidArgument)
		}
		all = append(all, u)
	}
	return all, nil
}

// makeSocket listens at a path, which members of the group may connect to. It takes the place of a server that is gone; one
// that lives is an error.
func makeSocket(path, group string) (*net.UnixListener, *lock.Held, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, nil, err
	}
	held, err := lock.Hold(path + ".lock")
	if err != nil {
		return nil, nil, fmt.Errorf("serve %s: %w; end that, or give another --address", path, err)
	}
	l, err := bind(path, group)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("serve %s: %w", path, err), held.Remove())
	}
	return l, held, nil
}

func bind(path, group string) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("it is there and is no socket: %w", errdefs.ErrAlreadyExists)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	mask := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(mask)
	if err != nil {
		return nil, err
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return l, nil // root and the server's user alone
	}
	gid, err := strconv.Atoi(g.Gid)
	if err == nil {
		err = errors.Join(os.Lchown(path, -1, gid), os.Chmod(path, 0o660))
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
