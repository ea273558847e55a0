// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/state"
)

// Options says what to push for whom, and how.
type Options struct {
	Namespace string
	// Platforms are those of an index to push, each os/architecture[/variant]; none: all that are here.
	Platforms []string
	// AllPlatforms makes it an error that a manifest of an index is neither here nor at the registry.
	AllPlatforms bool
	Registry     registry.Options
	// Check, when set, is asked before anything is sent whether there may be pushed to a reference.
	Check func(image.Reference) error
	// Blobs bounds the blobs that are sent at once; 0: 4.
	Blobs int
	// Nondistributable sends also the layers that their descriptors say may not be passed on.
	Nondistributable bool
	// Warn, when set, is told what the user should know and the push does not fail for. It may be called by
	// several goroutines at the same time.
	Warn func(string)
	// Progress, when set, hears of every step. It is called by one goroutine at a time.
	Progress func(progress.Event)
}

const defaultBlobs = 4

// Result is what was pushed.
type Result struct {
	Name     string             `json:"name"`   // that the image has now at the registry
	Source   string             `json:"source"` // its name here
	Target   ocispec.Descriptor `json:"target"` // what the name stands for there
	Sent     int64              `json:"sent"`   // bytes of blobs
	Uploaded int                `json:"uploaded"`
	Mounted  int                `json:"mounted"` // from another repository of the registry
	Existing int                `json:"existing"`
}

// Image pushes the image that query finds, as [image.Find] does, under the reference to, or under its own name
// when that is the zero value. An image that the registry has whole costs a question for each of its manifests and blobs.
//
// The errors of the registry keep their kinds. A blob that is neither here nor at the registry is
// errdefs.ErrNotFound and a [MissingError]; one whose file is damaged is errdefs.ErrDataLoss. A platform that
// the image does not have is errdefs.ErrNotFound.
func Image(ctx context.Context, d *state.Dir, query string, to image.Reference, opt Options) (res Result, err error) {
	p := &pusher{d: d, opt: opt, blobs: map[digest.Digest]*blob{}, nodes: map[nodeID]*node{}}
	if err := p.find(ctx, query, to); err != nil {
		return res, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("push %s: %w", p.to, err)
		}
	}()
	p.report = progress.New(p.to.String(), opt.Progress)
	for _, s := range opt.Platforms {
		platform, err := image.ParsePlatform(s)
		if err != nil {
			return res, err
		}
		p.platforms = append(p.platforms, platform)
	}
	if p.dest, err = open(p.to, opt); err != nil {
		return res, err
	}
	defer p.dest.Close()
	if p.lease, err = lease.Take(d); err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, p.lease.Release()) }()
	if err := sweepUploads(d); err != nil {
		return res, err
	}
	if err := p.run(ctx); err != nil {
		return res, err
	}
	p.result.Source, p.result.Name = p.image.Name, p.to.String()
	return p.result, nil
}

// Explain says which host a push to a reference would write to, and how. It sends nothing and needs no state
// directory.
func Explain(to image.Reference, opt Options) ([]registry.Plan, error) {
	dest, err := open(to, opt)
	if err != nil {
		return nil, fmt.Errorf("explain %s: %w", to, err)
	}
	defer dest.Close()
	return dest.Explain(), nil
}

func open(to image.Reference, opt Options) (*registry.Destination, error) {
	if opt.Registry.Warn == nil {
		opt.Registry.Warn = opt.Warn
	}
	return registry.OpenPush(to, opt.Registry)
}

// pusher is one push of one image.
type pusher struct {
	d         *state.Dir
	opt       Options
	image     image.Image
	to        image.Reference
	platforms []ocispec.Platform
	lease     *lease.Lease
	dest      *registry.Destination
	report    *progress.Reporter
	blobs     map[digest.Digest]*blob // all that the manifests name
	order     []*blob
	nodes     map[nodeID]*node // that were read
	result    Result
}

// find looks up the image and decides what it is called at the registry.
func (p *pusher) find(ctx context.Context, query string, to image.Reference) error {
	err := p.d.View(ctx, func(tx *state.Tx) (err error) {
		p.image, err = image.Find(tx, p.opt.Namespace, query)
		return err
	})
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if p.to = to; to == (image.Reference{}) {
		p.to, err = image.Parse(p.image.Name)
	}
	if err == nil && p.opt.Check != nil {
		err = p.opt.Check(p.to)
	}
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	return nil
}

func (p *pusher) run(ctx context.Context) error {
	p.report.Send(ocispec.Descriptor{}, progress.Resolving, 0)
	top, err := p.plan(ctx)
	if err != nil {
		return err
	}
	if p.to.Digest != "" && p.to.Digest != top.desc.Digest {
		return fmt.Errorf("what is here of it is %s, and not what the name demands: %w", top.desc.Digest, errdefs.ErrFailedPrecondition)
	}
	if err := p.sources(ctx); err != nil {
		return err
	}
	if err := p.sendBlobs(ctx); err != nil {
		return err
	}
	crash.Point("push.blobs-sent")
	if err := p.putManifests(ctx, top); err != nil {
		return err
	}
	crash.Point("push.done")
	p.result.Target = top.desc
	if err := p.record(ctx); err != nil && p.opt.Warn != nil && ctx.Err() == nil {
		p.opt.Warn(fmt.Sprintf("where the blobs are was not noted: %v", err))
	}
	return nil
}

// read gives a document of the image from the store. Before it looks it puts it on the lease.
func (p *pusher) read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if err := p.lease.Hold(ctx, nil, lease.Content, desc.Digest.String()); err != nil {
		return nil, err
	}
	own, err := p.owns(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	if !own[desc.Digest] {
		return nil, fmt.Errorf("content %q in namespace %q: %w", desc.Digest, p.opt.Namespace, errdefs.ErrNotFound)
	}
	return content.ReadAll(p.d, desc, image.MaxManifest)
}

// owns tells which blobs the namespace has. What only another one has is not here: an index may name anything, and who names
// a digest gets no right to its bytes.
func (p *pusher) owns(ctx context.Context, all ...digest.Digest) (own map[digest.Digest]bool, err error) {
	err = p.d.View(ctx, func(tx *state.Tx) error {
		own = map[digest.Digest]bool{}
		for _, dg := range all {
			_, err := content.Get(tx, p.opt.Namespace, dg)
			if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
				return err
			}
			own[dg] = !errdefs.IsNotFound(err)
		}
		return nil
	})
	return own, err
}
