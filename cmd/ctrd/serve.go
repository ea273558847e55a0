// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/footprint"
	"ctrd.dev/ctrd/lib/native"
	"ctrd.dev/ctrd/lib/snapshot"
)

// drainFor is how long calls that are under way may take to end after a signal.
const drainFor = 10 * time.Second

// quietAfter is how long there has been no call when a server gives back the memory that it does not need to wait for one.
const quietAfter = 5 * time.Second

type server struct {
	g *cli.Global
	settings
	address, cri, group, logLevel, snapshotter string
	idleTimeout                                time.Duration
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
			"code Unavailable. SIGHUP has the configuration read again: what it says of sockets holds from the next start, all else at once. " +
			"A configuration that is wrong is logged, and the old one holds.\n\n" +
			"What the shims of clients' tasks write to their logs is in the log of ctrd too. Tools of containerd find these tasks in " +
			"io.containerd.runtime.v2.task/NAMESPACE/ID in the state directory: config.json, init.pid, log, to which lines may be written, and " +
			"shim-binary-path. The root of a container is not there but at /proc/PID/root.\n\n" +
			"Plugins of NRI, the Node Resource Interface, are asked about pods and containers of the CRI. They connect to /var/run/nri/nri.sock, " +
			"or to nri.sock in a state directory that is not the usual one, or are started from /opt/nri/plugins; the configuration has " +
			"other places. While one is connected, ctrd does not end for want of calls.\n\n" +
			"Metrics for Prometheus are at /metrics on the socket metrics.sock in the state directory, for root alone, and on a port if the " +
			"configuration names one.",
		Stdout: "nothing",
		Env:    cli.UnpackNotes,
		Files: []cli.Note{
			{Name: config.File, Text: "the configuration; see ctrd-config(1). Options go before it"},
			{Name: "/etc/ctrd/config.d/*.toml", Text: "what overrides it, in the order of names"},
		},
		Examples: []cli.Example{
			{Note: "with systemd", Text: "systemctl enable --now ctrd.socket"},
			{Note: "without systemd", Text: "ctrd serve &"},
			{Note: "use it", Text: "ctr --address /run/ctrd/ctrd.sock images ls"},
		},
		SeeAlso: []string{"ctrd", "ctrd-config"},
		Args:    cli.Count(0, 0),
	}, func(cmd *cobra.Command, _ []string) error { return s.run(cmd) })
	f := cmd.Flags()
	f.StringVar(&s.file, "config", "", "read the configuration in `FILE`, and in config.d beside it (default: "+config.File+", if it is there)")
	f.StringVarP(&s.address, "address", "a", "", "listen on the socket `PATH` where systemd gives none (default: ctrd.sock in the state directory)")
	f.StringVar(&s.cri, "cri-address", "", "serve the CRI on the socket `PATH` where systemd gives none (default: cri.sock in the state directory)")
	f.StringVar(&s.group, "group", "ctrd", "let members of `GROUP` connect to the socket of containerd's API that it makes, if there is such a group")
	f.DurationVar(&s.idleTimeout, "idle-timeout", time.Minute, "end when there has been no call for this `TIME`; 0 is never, and so it is without systemd unless given")
	f.StringVar(&s.logLevel, "log-level", "info", "say what is at least `LEVEL`: debug (each call), info, warn or error")
	cli.SnapshotterFlag(cmd, f, &s.snapshotter)
	s.over = append(s.over, func(c *config.Config) error {
		c.Snapshotter = cmp.Or(s.snapshotter, c.Snapshotter)
		return nil
	})
	s.option(cmd, "address", func(c *config.Config) error { c.Sockets.Native.Address = s.address; return nil })
	s.option(cmd, "cri-address", func(c *config.Config) error { c.Sockets.CRI.Address = s.cri; return nil })
	s.option(cmd, "group", func(c *config.Config) error { c.Sockets.Native.Group = s.group; return nil })
	s.option(cmd, "idle-timeout", func(c *config.Config) error { c.IdleTimeout = config.Duration(s.idleTimeout); return nil })
	s.option(cmd, "log-level", func(c *config.Config) error { c.LogLevel = s.logLevel; return nil })
	return cmd
}

// snapshotters refuses a configuration that names a snapshotter which there is not.
func snapshotters(c *config.Config) error {
	if _, err := snapshot.Named(c.Snapshotter); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	for name, r := range c.Runtimes {
		if _, err := snapshot.Named(r.Snapshotter); err != nil {
			return fmt.Errorf("configuration: runtime %s: %w", name, err)
		}
	}
	return nil
}

// ballast is how many bytes of the heap are never touched, so that they take no memory: as many bytes of garbage are left until a collection.
const ballast = 8 << 20

func (s *server) run(cmd *cobra.Command) error {
	if err := s.load(); err != nil {
		return err
	}
	log := newLogger(&s.level)
	s.warn(log)
	// The commands put garbage collection off, since they end soon. A server of few records, whose heap is a MiB, would collect every 3 MiB.
	debug.SetGCPercent(100)
	defer runtime.KeepAlive(make([]byte, ballast))
	if path := s.get().Cgroup.Path; path != "" {
		if err := cgroup.Place(os.Getpid(), filepath.Join("/", path)); err != nil {
			return fmt.Errorf("cgroup.path of the configuration: %w", err)
		}
	}
	if s.file != "" { // for the commands that it starts, too
		if err := os.Setenv(config.EnvFile, s.file); err != nil {
			return err
		}
	}
	d, err := s.g.Open()
	if err != nil {
		return err
	}
	if err := snapshotters(s.get()); err != nil {
		return err
	}
	s.over = append(s.over, snapshotters) // of what is read again, too
	sockets, err := given()
	if err != nil {
		return err
	}
	sockets, scraped := split(sockets, "metrics")
	idle := s.idle
	if len(sockets) == 0 {
		if !cmd.Flags().Changed("idle-timeout") {
			idle = func() time.Duration { return 0 }
		}
		own, release, err := makeSockets(d, s.get().Sockets)
		if err != nil {
			return err
		}
		defer release()
		sockets = own
	}
	metrics := native.NewMetrics()
	metrics.Histogram = s.get().Metrics.GRPCHistogram
	endMetrics, err := serveMetrics(d, s.get().Metrics, metrics, scraped, log)
	if err != nil {
		return err
	}
	defer endMetrics()
	srv, err := newServers(d, log, s.get, metrics)
	if err != nil {
		return err
	}
	failed := make(chan error, len(sockets))
	for _, l := range sockets {
		go func() { failed <- srv.byName[l.name].Serve(l.UnixListener) }()
		log.Info("serving", "address", l.Addr().String(), "api", l.name, "version", cli.Version, "pid", os.Getpid())
	}
	notify(daemon.SdNotifyReady)
	err = s.until(cmd.Context(), srv, failed, idle, log)
	notify(daemon.SdNotifyStopping)
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	srv.stop(ctx)
	return err
}

// until returns when the server is to end: on a signal, after idling, or when a listener fails.
func (s *server) until(ctx context.Context, srv *servers, failed <-chan error, idle func() time.Duration, log *slog.Logger) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var watchdog <-chan time.Time // nil: never
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		t := time.NewTicker(every / 2)
		defer t.Stop()
		watchdog = t.C
	}
	forget := time.NewTicker(quietAfter)
	defer forget.Stop()
	var quiet time.Duration // how long there had been no call at the last look
	sleep, collect := newAlarm(idle()), newAlarm(time.Duration(s.get().GC.Interval))
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-hangup:
			notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
			s.reload(log)
			sleep.set(idle())
			collect.set(time.Duration(s.get().GC.Interval))
			notify(daemon.SdNotifyReady)
		case <-watchdog:
			srv.idle() // a server that hangs does not answer
			notify(daemon.SdNotifyWatchdog)
		case <-collect.C:
			srv.native.Collect()
			collect.set(time.Duration(s.get().GC.Interval))
		case <-forget.C:
			was := quiet
			if quiet = srv.idle(); was < quietAfter && quiet >= quietAfter {
				srv.native.Forget()
				srv.k8s.Forget()
				debug.FreeOSMemory()
				if err := footprint.ForgetCode(); err != nil {
					log.Warn("memory is not given back", "error", err)
				}
			}
		case <-sleep.C:
			left := idle() - srv.idle()
			if left <= 0 && srv.hasPlugins() {
				left = idle()
			}
			if left <= 0 && srv.retire(idle()) {
				log.Info("ending: no call for a while", "idle-timeout", idle())
				return nil
			}
			sleep.set(max(left, time.Millisecond))
		}
	}
}

// alarm is a timer that may be off.
type alarm struct{ *time.Timer }

func newAlarm(after time.Duration) alarm {
	a := alarm{time.NewTimer(time.Hour)}
	a.set(after)
	return a
}

// set has it go off after a time, and never if that is 0.
func (a alarm) set(after time.Duration) {
	a.Stop()
	if after > 0 {
		a.Reset(after)
	}
}

// notify tells systemd, if that started this process.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }
