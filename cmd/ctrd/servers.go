// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"math"
	"net"
	"os"
	"sync"
	"time"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/cli/network"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/cri"
	"ctrd.dev/ctrd/lib/native"
	"ctrd.dev/ctrd/lib/nri"
	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/state"
)

// api is what is served on a socket of a kind; see native.Server.
type api interface {
	Serve(*net.UnixListener) error
	Stop(context.Context)
	Idle() time.Duration
}

// servers are those of the kinds of sockets.
type servers struct {
	native, cri *native.Server // by what they serve
	k8s         *cri.Server    // the CRI, on both
	byName      map[string]api // by the names of the kinds
	plugins     *nri.Plugins   // nil: there are none
	endPlugins  func()
}

func newServers(d *state.Dir, log *slog.Logger, conf func() *config.Config, m *native.Metrics) (*servers, error) {
	o := native.Options{Dir: d, Version: cli.Version, Log: log, Config: conf, Metrics: m}
	all := &servers{}
	var err error
	if all.plugins, all.endPlugins, err = startPlugins(d, conf, log); err != nil {
		return nil, err
	}
	var asked pod.Plugins
	if all.plugins != nil {
		asked = all.plugins
	}
	k8s := cri.New(cri.Options{
		Dir: d, Version: cli.Version, Log: log, Config: conf,
		Hosts: os.Getenv(network.EnvHosts), Plugins: asked,
		Collect: func() { all.native.Collect() }, Busy: func() func() { return all.cri.Busy() }, Lasting: true,
	})
	shims, err := native.NewShims(o)
	if err != nil {
		all.endPlugins()
		return nil, err
	}
	all.k8s, o.Also = k8s, k8s.Register
	all.native, all.cri = native.New(o), native.Bare(o)
	all.byName = map[string]api{"native": all.native, "cri": all.cri, "ttrpc": shims}
	return all, nil
}

// idle tells for how long none of them has had a call; 0 while one has.
func (all *servers) idle() time.Duration {
	since := time.Duration(math.MaxInt64)
	for _, s := range all.byName {
		since = min(since, s.Idle())
	}
	return since
}

// retire is native.Retire of all of them. A shim's supervisor that tells an event meanwhile is waited for by stop.
func (all *servers) retire(idle time.Duration) bool {
	return all.byName["ttrpc"].Idle() >= idle && native.Retire(idle, all.native, all.cri)
}

// hasPlugins tells whether plugins of NRI are connected, which the end of the server would end.
func (all *servers) hasPlugins() bool { return all.plugins != nil && all.plugins.Count() > 0 }

// stop is native.Server.Stop of all of them at once.
func (all *servers) stop(ctx context.Context) {
	var stops sync.WaitGroup
	for _, s := range all.byName {
		stops.Go(func() { s.Stop(ctx) })
	}
	stops.Wait()
	all.endPlugins()
}
