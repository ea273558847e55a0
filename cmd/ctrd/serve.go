// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/cli/network"
	"ctrd.dev/ctrd/lib/cri"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/native"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/state"
)

// drainFor is how long calls that are under way may take to end after a signal.
const drainFor = 10 * time.Second

type server struct {
	g        *cli.Global
	address  string
	cri      string
	group    string
	idle     time.Duration
	logLevel string
}

func serveVerb(g *cli.Global) *cobra.Command {
	s := &server{g: g}
	cmd := cli.New("serve [OPTION]...", "serve containerd's API and the CRI on sockets", cli.About{
		Long: "Serves the API of containerd, so that ctr, nerdctl and containerd's Go client work with what is in the state " +
			"directory, and on a socket of its own the Kubernetes CRI, for the kubelet and crictl. The first socket has the CRI as well. " +
			"It keeps nothing that is not in that directory: containers run on when it ends, and every command works " +
			"beside it. The sockets come from systemd (ctrd.socket), which starts it with the first connection; it ends when there has " +
			"been no call for a while, and the next connection starts it again. Without systemd it makes the sockets itself and stays.\n\n" +
			"Root, its own user and the group that owns the socket may connect. A stream, a wait and a subscription are calls as long " +
			"as they are open; a connection without a call is closed in a way that has its client connect again. Exec, attach and port-forward of the CRI " +
			"are served on a port of 127.0.0.1, which is opened when the first is asked for.\n\n" +
			"SIGTERM and SIGINT let the calls that are under way end, for 10 seconds. Waits and subscriptions are ended at once, with the " +
			"code Unavailable. SIGHUP is answered, and has nothing read again.",
		Stdout: "nothing",
		Examples: []cli.Example{
			{Note: "with systemd", Text: "systemctl enable --now ctrd.socket"},
			{Note: "without systemd", Text: "ctrd serve &"},
			{Note: "use it", Text: "ctr --address /run/ctrd/ctrd.sock images ls"},
		},
		SeeAlso: []string{"ctrd"},
		Args:    cli.Count(0, 0),
	}, func(cmd *cobra.Command, _ []string) error { return s.run(cmd) })
	f := cmd.Flags()
	f.StringVarP(&s.address, "address", "a", "", "listen on the socket `PATH` where systemd gives none (default: ctrd.sock in the state directory)")
	f.StringVar(&s.cri, "cri-address", "", "serve the CRI on the socket `PATH` where systemd gives none (default: cri.sock in the state directory)")
	f.StringVar(&s.group, "group", "ctrd", "let members of `GROUP` connect to a socket that it makes, if there is such a group")
	f.DurationVar(&s.idle, "idle-timeout", time.Minute, "end when there has been no call for this `TIME`; 0 is never, and so it is without systemd unless given")
	f.StringVar(&s.logLevel, "log-level", "info", "say what is at least `LEVEL`: debug (each call), info, warn or error")
	return cmd
}

func (s *server) run(cmd *cobra.Command) error {
	log, err := newLogger(os.Stderr, s.logLevel)
	if err != nil {
		return err
	}
	// The commands put garbage collection off, since they end soon.
	debug.SetGCPercent(100)
	d, err := s.g.Open()
	if err != nil {
		return err
	}
	sockets, err := given()
	if err != nil {
		return err
	}
	activated := len(sockets) > 0
	if !activated {
		for name, path := range map[string]string{"native": cmp.Or(s.address, d.Run("ctrd.sock")), "cri": cmp.Or(s.cri, d.Run("cri.sock"))} {
			l, held, err := makeSocket(path, s.group)
			if err != nil {
				return err
			}
			defer held.Remove()
			sockets = append(sockets, listener{name, l})
		}
	}
	if !activated && !cmd.Flags().Changed("idle-timeout") {
		s.idle = 0
	}
	srv := newServers(d, log)
	failed := make(chan error, len(sockets))
	for _, l := range sockets {
		go func() { failed <- srv[l.name].Serve(l.UnixListener) }()
		log.Info("serving", "address", l.Addr().String(), "api", l.name, "version", cli.Version, "pid", os.Getpid())
	}
	notify(daemon.SdNotifyReady)
	err = s.until(cmd.Context(), srv, failed, log)
	notify(daemon.SdNotifyStopping)
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	srv.stop(ctx)
	return err
}

// servers are those of the kinds of sockets, by the names of the kinds.
type servers map[string]*native.Server

func newServers(d *state.Dir, log *slog.Logger) servers {
	o := native.Options{Dir: d, Version: cli.Version, Log: log}
	var all servers
	k8s := cri.New(cri.Options{
		Dir: d, Version: cli.Version, Log: log, HostDirs: registry.HostDirs(os.Getenv(network.EnvHosts)),
		Collect: func() { all["native"].Collect() }, Busy: func() func() { return all["cri"].Busy() },
	})
	o.Also = k8s.Register
	all = servers{"native": native.New(o), "cri": native.Bare(o)}
	return all
}

// idle tells for how long none of them has had a call; 0 while one has.
func (all servers) idle() time.Duration {
	since := time.Duration(math.MaxInt64)
	for _, s := range all {
		since = min(since, s.Idle())
	}
	return since
}

// stop is native.Server.Stop of all of them at once.
func (all servers) stop(ctx context.Context) {
	var stops sync.WaitGroup
	for _, s := range all {
		stops.Go(func() { s.Stop(ctx) })
	}
	stops.Wait()
}

// until returns when the server is to end: on a signal, after idling, or when a listener fails.
func (s *server) until(ctx context.Context, srv servers, failed <-chan error, log *slog.Logger) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var idle, watchdog <-chan time.Time // nil: never
	var sleep *time.Timer
	if s.idle > 0 {
		sleep = time.NewTimer(s.idle)
		idle = sleep.C
	}
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		t := time.NewTicker(every / 2)
		defer t.Stop()
		watchdog = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-hangup:
			notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
			log.Info("reloaded: there is nothing that ctrd reads again")
			notify(daemon.SdNotifyReady)
		case <-watchdog:
			srv.idle() // a server that hangs does not answer
			notify(daemon.SdNotifyWatchdog)
		case <-idle:
			left := s.idle - srv.idle()
			if left <= 0 {
				log.Info("ending: no call for a while", "idle-timeout", s.idle)
				return nil
			}
			sleep.Reset(left)
		}
	}
}

// notify tells systemd, if that started this process.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

// listener is a socket, and the name of what is served on it.
type listener struct {
	name string
	*net.UnixListener
}

// given has the sockets that systemd has opened (sd_listen_fds(3)).
func given() (all []listener, err error) {
	for _, f := range activation.Files(true) {
		l, err := socket(f)
		if err != nil {
			return nil, fmt.Errorf("socket %q of systemd: %w", f.Name(), err)
		}
		all = append(all, l)
		f.Close()
	}
	return all, nil
}

// socket checks the name that a socket has in its unit (FileDescriptorName=). One that was given none is taken for native.
func socket(f *os.File) (l listener, err error) {
	switch name := f.Name(); {
	case name == "native", name == "unknown", strings.HasSuffix(name, ".socket"), strings.HasPrefix(name, "LISTEN_FD_"):
		l.name = "native"
	case name == "cri":
		l.name = name
	case name == "ttrpc":
		return l, fmt.Errorf("%s is not served yet; containerd's API is, on FileDescriptorName=native: %w", name, errdefs.ErrNotImplemented)
	default:
		return l, fmt.Errorf("want FileDescriptorName=native or cri: %w", errdefs.ErrInvalidArgument)
	}
	any, err := net.FileListener(f)
	if err != nil {
		return l, fmt.Errorf("%w: want a socket that listens", err)
	}
	u, ok := any.(*net.UnixListener)
	if !ok {
		return l, fmt.Errorf("at %v: want a unix socket: %w", any.Addr(), errdefs.ErrInvalidArgument)
	}
	l.UnixListener = u
	return l, nil
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
	if who := listens(path); who != "" {
		return nil, fmt.Errorf("%s listens there: %w", who, errdefs.ErrAlreadyExists)
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

// listens names the process that listens on a socket, such as systemd for ctrd.socket; it is empty when none does.
func listens(path string) string {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) {
			return "a process"
		}
		return ""
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return "a process"
	}
	var who *unix.Ucred
	if err := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || who == nil {
		return "a process"
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", who.Pid))
	return fmt.Sprintf("pid %d (%s)", who.Pid, cmp.Or(strings.TrimSpace(string(name)), "unknown"))
}
