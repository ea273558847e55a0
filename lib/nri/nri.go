// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/state"
)

// Options are what plugins are served with.
type Options struct {
	Version string // of ctrd
	Log     *slog.Logger
	Config  config.NRI
	// Socket is where plugins connect; empty: nowhere. What is there is replaced.
	Socket string

	// The pods that plugins are shown and may change are those of this namespace of Dir.
	Dir           *state.Dir
	Namespace     string
	Configuration func() *config.Config // by which they are made
}

// Plugins are those that are connected. They are pod.Plugins.
type Plugins struct {
	o     Options
	nri   *adaptation.Adaptation
	begun atomic.Bool // synchronize has been called
	count atomic.Int64

	mu sync.Mutex
	// stopped has the containers that plugins have been told have ended; the channel is closed when they have.
	stopped  map[string]chan struct{}
	unfollow context.CancelFunc // ends follow; nil: it does not run
}

// Start starts the plugins of the configured directory, which is waited for, and lets others connect. A plugin that cannot be
// started is logged. The timeouts are the process's: there can be one Plugins in it.
func Start(o Options) (*Plugins, error) {
	p := &Plugins{o: o, stopped: map[string]chan struct{}{}}
	nrilog.Set(logger{o.Log})
	adaptation.SetPluginRegistrationTimeout(time.Duration(o.Config.PluginRegistrationTimeout))
	adaptation.SetPluginRequestTimeout(time.Duration(o.Config.PluginRequestTimeout))
	options := []adaptation.Option{
		adaptation.WithPluginPath(o.Config.PluginPath), adaptation.WithPluginConfigPath(o.Config.PluginConfigPath),
		adaptation.WithSocketPath(o.Socket), adaptation.WithMetrics(counter{p}),
	}
	if o.Socket == "" {
		options = append(options, adaptation.WithDisabledExternalConnections())
	}
	var err error
	if p.nri, err = adaptation.New("ctrd", o.Version, p.synchronize, p.updateUnasked, options...); err != nil {
		return nil, fmt.Errorf("plugins of NRI: %w", err)
	}
	if err := p.nri.Start(); err != nil {
		p.Close()
		return nil, fmt.Errorf("plugins of NRI: %w", err)
	}
	return p, nil
}

// host gives the pods.
func (p *Plugins) host() pod.Host {
	return pod.Host{Dir: p.o.Dir, Namespace: p.o.Namespace, Config: p.o.Configuration(), Plugins: p}
}

// Close removes the socket and ends the plugins that Start has started.
func (p *Plugins) Close() {
	p.nri.Stop()
	p.counted(0)
}

// Count is how many plugins there are. One that has gone is counted until the next request.
func (p *Plugins) Count() int { return int(p.count.Load()) }

// Enter keeps plugins that come in from being shown what there is, until leave is called.
func (p *Plugins) Enter() (leave func()) { return p.nri.BlockPluginSync().Unblock }

// synchronize shows a new plugin what there is. It is called while nobody is in between Enter and leave.
//
// A synchronization is part of a plugin's coming in, and may take as long as its registration: no other request is under way
// that the longer timeout could concern.
func (p *Plugins) synchronize(ctx context.Context, show adaptation.SyncCB) error {
	if installed, _ := os.ReadDir(p.o.Config.PluginPath); p.begun.CompareAndSwap(false, true) && len(installed) == 0 {
		return nil // the first time is for those that the server starts
	}
	h := p.host()
	since, err := p.o.Dir.Journal().Last()
	if err != nil {
		return err
	}
	pods, containers, err := p.all(ctx, h)
	if err != nil {
		return err
	}
	adaptation.SetPluginRequestTimeout(max(time.Duration(p.o.Config.PluginRegistrationTimeout), time.Duration(p.o.Config.PluginRequestTimeout)))
	updates, err := show(ctx, pods, containers)
	adaptation.SetPluginRequestTimeout(time.Duration(p.o.Config.PluginRequestTimeout))
	if err != nil {
		return err
	}
	p.mu.Lock()
	if p.unfollow == nil {
		var ctx context.Context
		ctx, p.unfollow = context.WithCancel(context.Background())
		go p.follow(ctx, since)
		go func() {
			if err := h.RecordEnds(ctx); err != nil && ctx.Err() == nil {
				p.o.Log.Error("plugins of NRI may be told late of ends below shims of others", "error", err)
			}
		}()
	}
	p.mu.Unlock()
	if _, err := h.Apply(ctx, changes(updates)); err != nil {
		p.o.Log.Warn("a plugin of NRI wants what cannot be done", "error", err)
	}
	return nil
}

// all gives all pods and containers. Of what is removed meanwhile nothing is told.
func (p *Plugins) all(ctx context.Context, h pod.Host) (pods []*api.PodSandbox, containers []*api.Container, err error) {
	list, err := h.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	dirs := map[string]string{}
	for _, st := range list {
		dirs[st.ID] = st.Dir
		pods = append(pods, podMessage(*st))
	}
	all, err := h.ListContainers(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, one := range all {
		c, s, err := h.Inspect(ctx, one.ID)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if c.State == pod.Exited {
			p.told(c.ID) // by this
		}
		containers = append(containers, containerMessage(c, s, dirs[c.Pod]))
	}
	return pods, containers, nil
}

// updateUnasked carries out what a plugin wants changed of itself.
func (p *Plugins) updateUnasked(ctx context.Context, all []*api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	left, err := p.host().Apply(ctx, changes(all))
	for _, c := range left {
		for _, u := range all {
			if u.GetContainerId() == c.ID {
				failed = append(failed, u)
			}
		}
	}
	return failed, err
}

// Pod asks plugins about a pod, or tells them; see pod.Plugins.
func (p *Plugins) Pod(ctx context.Context, e pod.PodEvent, st pod.Status) (err error) {
	if p.Count() == 0 {
		return nil
	}
	m := podMessage(st)
	switch e {
	case pod.PodRun:
		err = p.nri.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: m})
	case pod.PodUpdate:
		_, err = p.nri.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{
			Pod: m, OverheadLinuxResources: m.GetLinux().GetPodOverhead(), LinuxResources: m.GetLinux().GetPodResources(),
		})
	case pod.PodUpdated:
		err = p.nri.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: m})
	case pod.PodStopped:
		err = p.nri.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: m})
	case pod.PodRemoved:
		err = p.nri.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: m})
	}
	if err != nil && e != pod.PodRun && e != pod.PodUpdate {
		p.o.Log.Warn("a plugin of NRI objects to what has happened", "pod", st.ID, "error", err)
		return nil
	}
	return err
}

// Container asks plugins about a container, or tells them; see pod.Plugins.
func (p *Plugins) Container(ctx context.Context, e pod.ContainerEvent, st pod.Status, c pod.ContainerStatus, s *specs.Spec) (all []pod.Change, err error) {
	if p.Count() == 0 {
		return nil, nil
	}
	switch e {
	case pod.ContainerStopped:
		tell, done := p.first(c.ID)
		if !tell {
			return nil, nil
		}
		defer done()
	case pod.ContainerRemoved:
		defer p.forget(c.ID)
	}
	m, in := containerMessage(c, s, st.Dir), podMessage(st)
	switch e {
	case pod.ContainerCreated:
		err = p.nri.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: in, Container: m})
	case pod.ContainerStart:
		err = p.nri.StartContainer(ctx, &api.StartContainerRequest{Pod: in, Container: m})
	case pod.ContainerStarted:
		err = p.nri.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: in, Container: m})
	case pod.ContainerUpdated:
		err = p.nri.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: in, Container: m})
	case pod.ContainerStopped:
		var r *api.StopContainerResponse
		r, err = p.nri.StopContainer(ctx, &api.StopContainerRequest{Pod: in, Container: m})
		all = changes(r.GetUpdate())
	case pod.ContainerRemoved:
		err = p.nri.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: in, Container: m})
	}
	if err != nil && e != pod.ContainerStart {
		p.o.Log.Warn("a plugin of NRI objects to what has happened", "container", c.ID, "error", err)
		return nil, nil
	}
	return all, err
}

// Create asks plugins about a container that is to be made; see pod.Plugins.
func (p *Plugins) Create(ctx context.Context, st pod.Status, c pod.ContainerStatus, s *specs.Spec) ([]pod.Change, error) {
	if p.Count() == 0 {
		return nil, nil
	}
	p.forget(c.ID)
	m := containerMessage(c, s, st.Dir)
	r, err := p.nri.CreateContainer(ctx, &api.CreateContainerRequest{Pod: podMessage(st), Container: m})
	if err != nil {
		return nil, err
	}
	if len(r.GetAdjust().GetEnv()) > 0 || len(m.GetEnv()) != len(s.Process.Env) {
		// NRI has made the changes of each plugin in the message for the next one. Its answer lacks variables that were removed.
		s.Process.Env = m.GetEnv()
		if r.GetAdjust() != nil {
			r.Adjust.Env = nil
		}
	}
	if err := adjust(s, r.GetAdjust(), p.o.Configuration().CRI); err != nil {
		return nil, err
	}
	return changes(r.GetUpdate()), nil
}

// Update asks plugins about new bounds; see pod.Plugins.
func (p *Plugins) Update(ctx context.Context, st pod.Status, c pod.ContainerStatus, s *specs.Spec, r *specs.LinuxResources) (*specs.LinuxResources, []pod.Change, error) {
	if p.Count() == 0 {
		return r, nil, nil
	}
	answer, err := p.nri.UpdateContainer(ctx, &api.UpdateContainerRequest{
		Pod: podMessage(st), Container: containerMessage(c, s, st.Dir), LinuxResources: api.FromOCILinuxResources(r, nil),
	})
	if err != nil {
		return nil, nil, err
	}
	var others []pod.Change
	for _, one := range changes(answer.GetUpdate()) {
		if one.ID != c.ID {
			others = append(others, one)
		} else if one.Resources != nil {
			r = one.Resources
		}
	}
	return r, others, nil
}

// first tells whether plugins do not know yet that a container has ended, so that the caller tells them and then calls done. For
// all others it returns when they know.
func (p *Plugins) first(id string) (tell bool, done func()) {
	p.mu.Lock()
	known, ok := p.stopped[id]
	if !ok {
		known = make(chan struct{})
		p.stopped[id] = known
	}
	p.mu.Unlock()
	if ok {
		<-known
		return false, nil
	}
	return true, sync.OnceFunc(func() { close(known) })
}

// told notes that plugins know that a container has ended.
func (p *Plugins) told(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped[id] == nil {
		p.stopped[id] = make(chan struct{})
		close(p.stopped[id])
	}
}

func (p *Plugins) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.stopped, id)
}

// counted notes how many plugins there are. Without any nothing is followed, and nothing remembered.
func (p *Plugins) counted(n int) {
	p.count.Store(int64(n))
	if n > 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unfollow != nil {
		p.unfollow()
		p.unfollow = nil
	}
	clear(p.stopped)
}

// follow tells plugins of the containers that end by themselves, which the journal knows.
func (p *Plugins) follow(ctx context.Context, since uint64) {
	for e, err := range p.o.Dir.Journal().Read(ctx, since, true) {
		if err != nil {
			if ctx.Err() == nil {
				p.o.Log.Error("plugins of NRI are told of no ends any more", "error", err)
			}
			return
		}
		if e.Namespace != p.o.Namespace {
			continue
		}
		if gone, ok := event.Decode[event.ContainerDelete](e); ok {
			p.forget(gone.ID)
		}
		exit, ok := event.Decode[event.TaskExit](e)
		if !ok || exit.ID != "" && exit.ID != exit.ContainerID {
			continue
		}
		if err := p.host().Stopped(ctx, exit.ContainerID); err != nil && !errdefs.IsNotFound(err) {
			p.o.Log.Warn("plugins of NRI are not told of the end of a container", "container", exit.ContainerID, "error", err)
		}
	}
}

// counter is told how many plugins there are.
type counter struct{ p *Plugins }

// UpdatePluginCount implements adaptation.Metrics.
func (c counter) UpdatePluginCount(n int) { c.p.counted(n) }

// RecordPluginInvocation implements adaptation.Metrics; it counts nothing.
func (counter) RecordPluginInvocation(string, string, error) {}

// RecordPluginLatency implements adaptation.Metrics; it counts nothing.
func (counter) RecordPluginLatency(string, string, time.Duration) {}

// RecordPluginAdjustments implements adaptation.Metrics; it counts nothing.
func (counter) RecordPluginAdjustments(string, string, *api.ContainerAdjustment, int, int) {}

// logger writes what NRI has to say. What it calls information is of use to who looks for a fault.
type logger struct{ log *slog.Logger }

func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}

func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}

func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.log.WarnContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}

func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	if slices.Contains(args, any(adaptation.ErrWasmDisabled)) {
		return // it is left out on purpose
	}
	l.log.ErrorContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}
