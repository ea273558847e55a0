// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
)

// Image gives an image, which is pulled first if the policy says so.
func Image(ctx context.Context, r Runtime, name string, policy corev1.PullPolicy) (*runtimeapi.Image, error) {
	spec := &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: name}
	find := func() (*runtimeapi.Image, error) {
		answer, err := r.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", name, err)
		}
		return answer.Image, nil
	}
	if policy != corev1.PullAlways {
		if image, err := find(); image != nil || err != nil {
			return image, err
		}
		if policy == corev1.PullNever {
			return nil, fmt.Errorf("image %q is not here, and its imagePullPolicy is Never: %w", name, errdefs.ErrNotFound)
		}
	}
	if _, err := r.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec}); err != nil {
		return nil, fmt.Errorf("pull image %q: %w", name, err)
	}
	image, err := find()
	if err == nil && image == nil {
		err = fmt.Errorf("image %q was pulled and is not here: %w", name, errdefs.ErrNotFound)
	}
	return image, err
}

// pull has all images of a pod here.
func (p *Pod) pull(ctx context.Context, r Runtime) error {
	for _, c := range p.containers() {
		image, err := Image(ctx, r, c.Image, c.ImagePullPolicy)
		if err == nil {
			err = p.checkUser(c, image)
		}
		if err != nil {
			return wrap(c, err)
		}
	}
	for _, v := range p.Pod.Spec.Volumes {
		if v.Image == nil {
			continue
		}
		policy := v.Image.PullPolicy
		if policy == "" && floating(v.Image.Reference) {
			policy = corev1.PullAlways
		}
		if _, err := Image(ctx, r, v.Image.Reference, policy); err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	return nil
}

// Start makes a pod in dir and runs its sandbox; [Keep] does the rest, and must be called by whoever gets the lock. A pod of
// that name which was made from the same manifest is gone on with; where it is being kept already, held is nil. One of
// another manifest is errdefs.ErrAlreadyExists.
func Start(ctx context.Context, r Runtime, dir, handler string, p *Pod) (h Home, held *lock.Held, err error) {
	if err := Sweep(ctx, r, dir); err != nil {
		return "", nil, err
	}
	h, held, made, err := p.claim(ctx, r, dir)
	if err != nil || held == nil {
		return h, nil, err
	}
	if err = p.pull(ctx, r); err == nil {
		err = p.Prepare(h)
	}
	if err == nil {
		crash.Point("manifest.prepared")
		err = p.runSandbox(ctx, r, h, handler)
	}
	if err == nil {
		crash.Point("manifest.pod-run")
		return h, held, nil
	}
	if made {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		err = errors.Join(err, endSandboxes(ctx, r, h), h.remove())
	}
	return "", nil, errors.Join(err, held.Release())
}

// claim finds the home of a pod, or makes it, and holds it. Where the pod is being kept already, held is nil; one that another call
// is making is waited for.
func (p *Pod) claim(ctx context.Context, r Runtime, dir string) (h Home, held *lock.Held, made bool, err error) {
	for {
		h, held, made, err = p.tryClaim(ctx, dir)
		if !errdefs.IsAborted(err) {
			return h, held, made, err
		}
		pods, e := sandboxes(ctx, r, map[string]string{LabelPodUID: h.UID()})
		if e != nil {
			return "", nil, false, e
		}
		if len(pods) > 0 {
			return h, nil, false, nil
		}
		if e := sleep(ctx, lookEvery/10); e != nil {
			return "", nil, false, errors.Join(e, err)
		}
	}
}

// tryClaim is claim without waiting: a home that somebody holds is errdefs.ErrAborted.
func (p *Pod) tryClaim(ctx context.Context, dir string) (h Home, held *lock.Held, made bool, err error) {
	making, err := holdMaking(ctx, dir)
	if err != nil {
		return "", nil, false, err
	}
	defer func() { err = errors.Join(err, making.Remove()) }()
	homes, err := Find(dir, p.Key())
	if err != nil {
		return "", nil, false, err
	}
	if len(homes) == 0 {
		h, held, err = Make(dir, p)
		return h, held, true, err
	}
	h = homes[0]
	old, err := h.Load()
	if errdefs.IsNotFound(err) {
		return h, nil, false, fmt.Errorf("pod %s has just ended: %w", p.Key(), errdefs.ErrAborted)
	}
	if err != nil {
		return "", nil, false, err
	}
	if h.isEnding() {
		return "", nil, false, fmt.Errorf("pod %s: one of that name is being ended: %w", p.Key(), errdefs.ErrAlreadyExists)
	}
	if !Same(old, p) {
		return "", nil, false, fmt.Errorf("pod %s: there is one of that name, from another manifest: %w", p.Key(), errdefs.ErrAlreadyExists)
	}
	held, err = h.Hold()
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("pod %s has just ended: %w", p.Key(), errdefs.ErrAborted)
	}
	return h, held, false, err
}

// undoTime bounds how long what was begun is undone.
const undoTime = time.Minute

// Same tells whether two pods were made from the same manifest.
func Same(a, b *Pod) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// runSandbox runs the pod's sandbox, unless it runs. What an earlier boot has left of it is removed before.
func (p *Pod) runSandbox(ctx context.Context, r Runtime, h Home, handler string) error {
	pods, err := sandboxes(ctx, r, map[string]string{LabelPodUID: h.UID()})
	if err != nil {
		return err
	}
	for _, s := range pods {
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			return nil
		}
	}
	if err := endSandboxes(ctx, r, h); err != nil {
		return err
	}
	config, err := p.Sandbox(h)
	if err != nil {
		return err
	}
	if name := p.Pod.Spec.RuntimeClassName; handler == "" && name != nil {
		handler = *name
	}
	if _, err := r.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler}); err != nil {
		return fmt.Errorf("run pod %s: %w", p.Key(), err)
	}
	return nil
}

// endSandboxes stops and removes the sandboxes of a home's pod, with their containers.
func endSandboxes(ctx context.Context, r Runtime, h Home) error {
	pods, err := sandboxes(ctx, r, map[string]string{LabelPodUID: h.UID()})
	if err != nil {
		return err
	}
	for _, s := range pods {
		if _, err := r.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return fmt.Errorf("stop pod %s: %w", s.Id, err)
		}
		if _, err := r.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return fmt.Errorf("remove pod %s: %w", s.Id, err)
		}
	}
	return nil
}

// End ends a pod: its keeper, its containers within their time of grace, its sandbox, and its home.
func End(ctx context.Context, r Runtime, h Home) error {
	if err := h.setEnding(); err != nil {
		return err
	}
	crash.Point("manifest.ending")
	held, err := h.await(ctx)
	if err != nil || held == nil {
		return err
	}
	defer held.Release()
	crash.Point("manifest.taken")
	p, err := h.Load()
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err == nil {
		k := &keeper{r: r, h: h, p: p, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		if err = k.find(ctx); err == nil {
			err = k.end(ctx)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	crash.Point("manifest.ended")
	if err := endSandboxes(ctx, r, h); err != nil {
		return err
	}
	crash.Point("manifest.pod-removed")
	return h.remove()
}

// await waits until nobody holds the home any more; held is nil where it has gone.
func (h Home) await(ctx context.Context) (held *lock.Held, err error) {
	for {
		held, err := h.Hold()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if !errdefs.IsAborted(err) {
			return held, err
		}
		if e := sleep(ctx, lookEvery/10); e != nil {
			return nil, errors.Join(e, err)
		}
	}
}

// end stops all containers, those that others rely on last.
func (k *keeper) end(ctx context.Context) error {
	var stops sync.WaitGroup
	for i := range k.p.Pod.Spec.Containers {
		stops.Go(func() { k.stopLatest(ctx, &k.p.Pod.Spec.Containers[i]) })
	}
	stops.Wait()
	return k.endSidecars(ctx)
}

func (k *keeper) stopLatest(ctx context.Context, c *corev1.Container) {
	s, err := k.latest(ctx, c)
	if err == nil && s != nil && s.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		err = k.stop(ctx, c, s.Id, *k.p.Pod.Spec.TerminationGracePeriodSeconds)
	}
	if err != nil {
		k.log.Warn("stop", "container", c.Name, "error", err) // StopPodSandbox kills it
	}
}
