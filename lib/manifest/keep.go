// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/tail"
)

// Runtime is a CRI runtime.
type Runtime interface {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
}

// The pauses before a restart are those of the kubelet: none before the first, then ten seconds, twice as long each
// time, up to five minutes; a container that has run for ten minutes begins anew.
const (
	firstPause = 10 * time.Second
	lastPause  = 5 * time.Minute
	longRun    = 10 * time.Minute
)

// lookEvery is how often a container is looked at whose end is waited for: the CRI has no call that waits.
const lookEvery = 500 * time.Millisecond

// keeper keeps one pod.
type keeper struct {
	r     Runtime
	h     Home
	p     *Pod
	log   *slog.Logger
	pod   string // id of its sandbox
	class string // the handler that the sandbox has
	facts Facts

	told func(event string, err error)

	mu      sync.Mutex
	ready   map[string]bool // by container
	started bool            // Started was told
	whole   bool            // Ready was told
}

// What Keep tells.
const (
	Started = "started" // all containers have been started
	Ready   = "ready"   // and all are ready, as their probes say
)

// Keep keeps the pod of a home, which the caller holds: it runs the init containers, starts the containers, carries out their
// probes and starts them again as the manifest says. A sandbox whose supervisor was killed is made anew, and what fails
// once the containers have been started is tried again, unless the pod is never to be restarted. It returns when the pod has ended, when somebody ends it ([End]) or when ctx does; the containers then go on. told hears of Started and Ready, once each, or of what went wrong before.
func Keep(ctx context.Context, r Runtime, h Home, log *slog.Logger, told func(event string, err error)) error {
	p, err := h.Load()
	if err != nil {
		return err
	}
	k := &keeper{r: r, h: h, p: p, log: log, ready: map[string]bool{}, told: told}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := k.find(ctx); err != nil {
		return err
	}
	crash.Point("manifest.kept")
	go k.untilEnding(ctx, cancel)
	var b backoff
	for {
		began := time.Now()
		err := k.attempt(ctx)
		ran := time.Since(began)
		switch {
		case err == nil, ctx.Err() != nil, p.Pod.Spec.RestartPolicy == corev1.RestartPolicyNever:
			return err
		case errors.Is(err, errLost):
			log.Warn("the pod is made anew", "because", err)
			err = k.remake(ctx, &b, ran)
		case !k.started, errors.Is(err, errStopped), errors.Is(err, errRemoved):
			return err
		default:
			log.Warn("what the pod lacks is tried again", "error", err)
			err = sleep(ctx, max(b.next(ran), lookEvery))
		}
		if err != nil {
			return err
		}
	}
}

// remake makes the sandbox anew, of a pod that has run for a while, and tries until it can be made.
func (k *keeper) remake(ctx context.Context, b *backoff, ran time.Duration) error {
	for ; ; ran = 0 {
		lost := errors.Is(k.gone(ctx), errLost)
		if err := sleep(ctx, b.next(ran)); err != nil {
			return err
		}
		if err := k.gone(ctx); lost && err != nil && !errors.Is(err, errLost) {
			return err // somebody has stopped or removed it meanwhile
		}
		err := k.p.runSandbox(ctx, k.r, k.h, k.class)
		if err == nil {
			err = k.find(ctx)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			k.log.Warn("the pod cannot be made anew yet", "error", err)
		}
	}
}

// The ends of a keeper's attempt whose sandbox is not ready any more.
var (
	errLost    = fmt.Errorf("the pod's supervisor, or its pause process, was killed: %w", errdefs.ErrFailedPrecondition)
	errStopped = fmt.Errorf("the pod was stopped: %w", errdefs.ErrFailedPrecondition)
	errRemoved = fmt.Errorf("the pod was removed: %w", errdefs.ErrNotFound)
)

// attempt is the life of one sandbox of the pod.
func (k *keeper) attempt(ctx context.Context) error {
	with, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	watch.Go(func() {
		for sleep(with, 4*lookEvery) == nil {
			if err := k.gone(with); err != nil {
				cancel(err)
			}
		}
	})
	err := k.run(with)
	if ctx.Err() == nil {
		if e := k.gone(ctx); e != nil {
			return e
		}
	}
	return err
}

// gone tells why the sandbox is not ready any more: nil, as long as it is. Our runtime says which; of another one, who stops a pod
// ends its containers, and when its supervisor is killed nobody does.
func (k *keeper) gone(ctx context.Context) error {
	answer, err := k.r.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: k.pod, Verbose: true})
	if errdefs.IsNotFound(err) {
		return errRemoved
	}
	if err != nil || answer.GetStatus().GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil
	}
	var info struct{ Lost *bool }
	if json.Unmarshal([]byte(answer.Info["info"]), &info) == nil && info.Lost != nil {
		if *info.Lost {
			return errLost
		}
		return errStopped
	}
	all, err := k.r.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: k.pod}})
	if err != nil {
		return nil
	}
	for _, c := range all.Containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING || c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
			return errLost
		}
	}
	return errStopped
}

// errEnding is the end of a keeper whose pod is being ended.
var errEnding = fmt.Errorf("the pod is being ended: %w", errdefs.ErrAborted)

// untilEnding cancels when somebody ends the pod.
func (k *keeper) untilEnding(ctx context.Context, cancel context.CancelCauseFunc) {
	w, err := tail.Watch(string(k.h))
	if err != nil {
		cancel(err)
		return
	}
	defer w.Close()
	for !k.h.isEnding() {
		if err := w.Wait(ctx); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return
		}
	}
	cancel(errEnding)
}

// find looks the pod's sandbox up.
func (k *keeper) find(ctx context.Context) error {
	pods, err := sandboxes(ctx, k.r, map[string]string{LabelPodUID: k.h.UID()})
	if err != nil {
		return err
	}
	for _, s := range pods {
		if s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		k.pod = s.Id
		answer, err := k.r.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.Id})
		if err != nil {
			return fmt.Errorf("pod %s: %w", k.p.Key(), err)
		}
		k.class, k.facts = s.RuntimeHandler, facts(k.h, k.p, answer.GetStatus())
		return nil
	}
	return fmt.Errorf("pod %s does not run: %w", k.p.Key(), errdefs.ErrNotFound)
}

func facts(h Home, p *Pod, s *runtimeapi.PodSandboxStatus) Facts {
	f := Facts{UID: h.UID()}
	f.Node, _ = os.Hostname()
	f.HostIP = "127.0.0.1"
	if ip := s.GetNetwork().GetIp(); ip != "" {
		f.IPs = append(f.IPs, ip)
	} else if p.Pod.Spec.HostNetwork {
		f.IPs = append(f.IPs, f.HostIP)
	}
	for _, more := range s.GetNetwork().GetAdditionalIps() {
		f.IPs = append(f.IPs, more.Ip)
	}
	return f
}

// run is the life of the pod.
func (k *keeper) run(ctx context.Context) error {
	spec := &k.p.Pod.Spec
	var sidecars, mains sync.WaitGroup
	side, endSide := context.WithCancel(ctx)
	defer sidecars.Wait()
	defer endSide()
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		if !isSidecar(c) {
			if err := k.runToEnd(ctx, c); err != nil {
				return fmt.Errorf("init container %q: %w", c.Name, err)
			}
			continue
		}
		up := make(chan error, 1)
		sidecars.Go(func() { k.keep(side, c, corev1.RestartPolicyAlways, up) })
		if err := await(ctx, up); err != nil {
			return fmt.Errorf("sidecar %q: %w", c.Name, err)
		}
	}
	ups := make(chan error, len(spec.Containers))
	for i := range spec.Containers {
		c := &spec.Containers[i]
		mains.Go(func() {
			up := make(chan error, 1)
			go func() { ups <- wrap(c, await(ctx, up)) }()
			k.keep(ctx, c, spec.RestartPolicy, up)
		})
	}
	var failed error
	for range spec.Containers {
		failed = errors.Join(failed, <-ups)
	}
	k.mu.Lock()
	again := k.started
	k.started = true
	k.mu.Unlock()
	if !again {
		k.told(Started, failed)
	}
	k.tellReady()
	mains.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	endSide()
	sidecars.Wait()
	return k.endSidecars(ctx)
}

func wrap(c *corev1.Container, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("container %q: %w", c.Name, err)
}

func await(ctx context.Context, up <-chan error) error {
	select {
	case err := <-up:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endSidecars stops what runs beside the containers, the last first, once these have ended.
func (k *keeper) endSidecars(ctx context.Context) error {
	for _, c := range slices.Backward(k.p.Pod.Spec.InitContainers) {
		if !isSidecar(&c) {
			continue
		}
		s, err := k.latest(ctx, &c)
		if err == nil && s != nil && s.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			err = k.stop(ctx, &c, s.Id, *k.p.Pod.Spec.TerminationGracePeriodSeconds)
		}
		if err != nil {
			return wrap(&c, err)
		}
	}
	return nil
}

// latest is the newest container of a name in the pod, nil where there is none.
func (k *keeper) latest(ctx context.Context, c *corev1.Container) (*runtimeapi.ContainerStatus, error) {
	all, err := k.all(ctx, c)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return k.status(ctx, all[0].Id)
}

// all are the containers of a name in the pod, the newest first.
func (k *keeper) all(ctx context.Context, c *corev1.Container) ([]*runtimeapi.Container, error) {
	answer, err := k.r.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		PodSandboxId: k.pod, LabelSelector: map[string]string{LabelPodUID: k.h.UID(), LabelContainerName: c.Name},
	}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	slices.SortFunc(answer.Containers, func(a, b *runtimeapi.Container) int {
		return cmp.Compare(b.GetMetadata().GetAttempt(), a.GetMetadata().GetAttempt())
	})
	return answer.Containers, nil
}

func (k *keeper) status(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	answer, err := k.r.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return answer.GetStatus(), nil
}

// start makes and starts the next container of a name, after the one with the attempt before, nil for none.
func (k *keeper) start(ctx context.Context, c *corev1.Container, before *runtimeapi.ContainerStatus) (*runtimeapi.ContainerStatus, error) {
	id := ""
	if before != nil && before.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		id = before.Id // its start was cut off
	} else {
		var err error
		if id, err = k.create(ctx, c, before); err != nil {
			return nil, err
		}
	}
	crash.Point("manifest.container-created")
	if _, err := k.r.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return nil, err
	}
	crash.Point("manifest.container-started")
	k.log.Info("started", "container", c.Name, "id", id)
	s, err := k.status(ctx, id)
	if err == nil && s == nil {
		err = fmt.Errorf("it was removed at once: %w", errdefs.ErrNotFound)
	}
	return s, err
}

func (k *keeper) create(ctx context.Context, c *corev1.Container, before *runtimeapi.ContainerStatus) (string, error) {
	attempt := uint32(0)
	if before != nil {
		attempt = before.GetMetadata().GetAttempt() + 1
	}
	image, err := Image(ctx, k.r, c.Image, corev1.PullIfNotPresent)
	if err != nil {
		return "", err
	}
	if err := k.p.checkUser(c, image); err != nil {
		return "", err
	}
	config, err := k.p.Container(c, attempt, image.Id, k.h, k.facts)
	if err != nil {
		return "", err
	}
	pod, err := k.p.Sandbox(k.h)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(k.h.logs(), c.Name), 0o755); err != nil {
		return "", err
	}
	answer, err := k.r.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: k.pod, Config: config, SandboxConfig: pod})
	if err != nil {
		return "", err
	}
	k.clean(ctx, c)
	return answer.ContainerId, nil
}

// clean removes the containers of a name but the newest two, so that the log of the one before can be read.
func (k *keeper) clean(ctx context.Context, c *corev1.Container) {
	all, err := k.all(ctx, c)
	for _, old := range all[min(2, len(all)):] {
		if _, e := k.r.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: old.Id}); e != nil {
			err = errors.Join(err, e)
			continue
		}
		if e := os.Remove(filepath.Join(k.h.logs(), logPath(c.Name, old.GetMetadata().GetAttempt()))); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		k.log.Warn("old containers stay", "container", c.Name, "error", err)
	}
}

// untilEnd waits for the end of a container. One that was removed has ended as by SIGKILL.
func (k *keeper) untilEnd(ctx context.Context, s *runtimeapi.ContainerStatus) (*runtimeapi.ContainerStatus, error) {
	told := false
	for {
		switch now, err := k.status(ctx, s.Id); {
		case err != nil:
			if !told && ctx.Err() == nil {
				k.log.Warn("container cannot be looked at, and is asked for again", "id", s.Id, "error", err)
			}
			told = true
		case now == nil:
			s.State, s.ExitCode = runtimeapi.ContainerState_CONTAINER_EXITED, removedStatus
			return s, nil
		case now.State == runtimeapi.ContainerState_CONTAINER_EXITED:
			return now, nil
		default:
			told = false
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return nil, err
		}
	}
}

// removedStatus is the exit status of a container that was removed while it ran.
const removedStatus = 128 + 9

// backoff is the pause before the next restart of a container.
type backoff struct{ pause time.Duration }

func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= longRun {
		b.pause = 0
	}
	now := b.pause
	b.pause = min(max(firstPause, 2*now), lastPause)
	return now
}

// restarts tells whether a container that has ended is to be started again.
func restarts(policy corev1.RestartPolicy, s *runtimeapi.ContainerStatus) bool {
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && (s == nil || s.ExitCode != 0)
}

// runToEnd runs an init container until it has succeeded.
func (k *keeper) runToEnd(ctx context.Context, c *corev1.Container) error {
	s, err := k.latest(ctx, c)
	if err != nil {
		return err
	}
	var b backoff
	for {
		if s == nil || s.State == runtimeapi.ContainerState_CONTAINER_CREATED {
			if s, err = k.start(ctx, c, s); err != nil {
				return err
			}
		}
		if s, err = k.untilEnd(ctx, s); err != nil {
			return err
		}
		if s.ExitCode == 0 {
			return nil
		}
		if k.p.Pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
			return fmt.Errorf("it ended with status %d: %w", s.ExitCode, errdefs.ErrFailedPrecondition)
		}
		k.log.Warn("init container failed", "container", c.Name, "status", s.ExitCode)
		if err := sleep(ctx, b.next(0)); err != nil {
			return err
		}
		if s, err = k.start(ctx, c, s); err != nil {
			return err
		}
	}
}

// keep keeps a container running as the policy says until it has ended for good, or ctx. up hears, once, that it has been started
// and that its startup probe has succeeded, or what was in the way at first. A start that fails is tried again, unless the pod is never to be restarted.
func (k *keeper) keep(ctx context.Context, c *corev1.Container, policy corev1.RestartPolicy, up chan<- error) {
	var once sync.Once
	tell := func(err error) { once.Do(func() { up <- err }) }
	started := func() { tell(nil) }
	defer started()
	s, err := k.latest(ctx, c)
	for b := (backoff{}); ; {
		begins := false
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			tell(err)
			k.log.Warn("container cannot be kept", "container", c.Name, "error", err)
			if policy == corev1.RestartPolicyNever {
				return
			}
			if sleep(ctx, max(b.next(0), lookEvery)) != nil {
				return
			}
			s, err = k.latest(ctx, c)
			continue
		case s == nil, s.State == runtimeapi.ContainerState_CONTAINER_CREATED:
			begins = true
		case s.State == runtimeapi.ContainerState_CONTAINER_EXITED:
			if !restarts(policy, s) {
				return
			}
			pause := b.next(time.Duration(s.FinishedAt - s.StartedAt))
			k.log.Info("container is started again", "container", c.Name, "status", s.ExitCode, "after", pause)
			if sleep(ctx, pause) != nil {
				return
			}
			begins = true
		}
		if begins {
			if s, err = k.start(ctx, c, s); err != nil {
				continue
			}
		}
		s, err = k.guard(ctx, c, s, begins, started)
	}
}

// guard carries out the hook, of a container that has just been started, and the probes of a running container until it ends.
func (k *keeper) guard(ctx context.Context, c *corev1.Container, s *runtimeapi.ContainerStatus, begins bool, up func()) (*runtimeapi.ContainerStatus, error) {
	id := s.Id
	defer k.setReady(c, false)
	running, ended := context.WithCancel(ctx)
	var probes sync.WaitGroup
	defer probes.Wait()
	defer ended()
	t := k.target(c, id)
	kill := func(p *corev1.Probe, why string, err error) {
		k.log.Warn("container is stopped", "container", c.Name, "because", why, "error", err)
		grace := *k.p.Pod.Spec.TerminationGracePeriodSeconds
		if p != nil && p.TerminationGracePeriodSeconds != nil {
			grace = *p.TerminationGracePeriodSeconds
		}
		for running.Err() == nil {
			if e := k.gone(running); e != nil {
				k.log.Warn("container is left alone", "container", c.Name, "because", e)
				return
			}
			err := k.stop(running, c, id, grace)
			if err == nil || running.Err() != nil {
				return
			}
			k.log.Warn("stop", "container", c.Name, "error", err)
			_ = sleep(running, firstPause)
		}
	}
	probes.Go(func() {
		if begins && c.Lifecycle != nil {
			if err := t.hook(running, c.Lifecycle.PostStart); err != nil && running.Err() == nil {
				kill(nil, "postStart failed", err)
				return
			}
		}
		if p := c.StartupProbe; p != nil {
			begun := false
			t.watch(running, p, func(well bool, err error) bool {
				if begun = well; !well {
					kill(p, "its startup probe failed", err)
				}
				return false
			})
			if !begun {
				return
			}
		}
		up()
		if p := c.LivenessProbe; p != nil {
			probes.Go(func() {
				t.watch(running, p, func(well bool, err error) bool {
					if !well {
						kill(p, "its liveness probe failed", err)
					}
					return well
				})
			})
		}
		if c.ReadinessProbe == nil {
			k.setReady(c, true)
			return
		}
		t.watch(running, c.ReadinessProbe, func(well bool, _ error) bool {
			k.setReady(c, well)
			return true
		})
	})
	return k.untilEnd(ctx, s)
}

func (k *keeper) target(c *corev1.Container, id string) target {
	t := target{r: k.r, container: c, id: id, ip: "127.0.0.1"}
	if len(k.facts.IPs) > 0 {
		t.ip = k.facts.IPs[0]
	}
	return t
}

// stop ends a container as its manifest says: the hook first, and within the time of grace, in seconds, both.
func (k *keeper) stop(ctx context.Context, c *corev1.Container, id string, grace int64) error {
	began := time.Now()
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		within, cancel := context.WithTimeout(ctx, time.Duration(grace)*time.Second)
		if err := k.target(c, id).hook(within, c.Lifecycle.PreStop); err != nil {
			k.log.Warn("preStop failed", "container", c.Name, "error", err)
		}
		cancel()
	}
	left := max(grace-int64(time.Since(began).Seconds()), min(grace, 2)) // as the kubelet has it
	_, err := k.r.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: left})
	return err
}

// setReady notes whether a container is ready, and tells when all are.
func (k *keeper) setReady(c *corev1.Container, ready bool) {
	k.mu.Lock()
	changed := k.ready[c.Name] != ready
	k.ready[c.Name] = ready
	k.mu.Unlock()
	if changed {
		k.log.Info("readiness", "container", c.Name, "ready", ready)
		k.tellReady()
	}
}

func (k *keeper) tellReady() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.started || k.whole {
		return
	}
	for i := range k.p.Pod.Spec.Containers {
		if !k.ready[k.p.Pod.Spec.Containers[i].Name] {
			return
		}
	}
	k.whole = true
	k.told(Ready, nil)
}
