// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"io"
	"sync"

	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/lib/archive"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/pull/remote"
	"ctrd.dev/ctrd/lib/push"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/state"
)

type transferService struct {
	transferapi.UnimplementedTransferServer
	s *Server
}

// end is a source or a destination: one of the messages of containerd's types/transfer.
type end interface{ proto.Message }

// Transfer moves images between two ends: a registry, the image store, an archive that the client reads or writes.
func (t transferService) Transfer(ctx context.Context, r *transferapi.TransferRequest) (*emptypb.Empty, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	from, err := endOf(r.Source)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	to, err := endOf(r.Destination)
	if err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	j, told := &job{Server: t.s, ns: ns, tell: func(*transfer.Progress) {}, acted: func() {}}, func() {}
	if id := r.GetOptions().GetProgressStream(); id != "" {
		stream, err := t.s.streams.take(ctx, id)
		if err != nil {
			return nil, err
		}
		defer stream.close()
		progress := &teller{send: func(p *transfer.Progress) error { return stream.send(p) }} // a client that does not listen loses nothing but this
		j.tell, told = progress.tell, progress.flush
		j.acted = func() {
			told()
			stream.close()
			settle(ctx)
		}
	}
	if err := j.run(ctx, from, to); err != nil {
		return nil, err
	}
	told() // the client takes the answer for the end of all
	return &emptypb.Empty{}, nil
}

func endOf(a *anypb.Any) (end, error) {
	for _, m := range []end{
		&transfer.OCIRegistry{}, &transfer.ImageStore{}, &transfer.ImageImportStream{}, &transfer.ImageExportStream{},
	} {
		if bareName(a.GetTypeUrl()) == string(m.ProtoReflect().Descriptor().FullName()) {
			return m, unpack(a, m)
		}
	}
	return nil, fmt.Errorf("%.200q: %w", a.GetTypeUrl(), errdefs.ErrNotImplemented)
}

// job is one transfer.
type job struct {
	*Server
	ns    string
	tell  func(*transfer.Progress)
	acted func() // ends the progress, and waits for the client to do what it does about it
}

func (j *job) run(ctx context.Context, from, to end) error {
	switch from := from.(type) {
	case *transfer.OCIRegistry:
		if to, ok := to.(*transfer.ImageStore); ok {
			return j.pull(ctx, from, to)
		}
	case *transfer.ImageStore:
		switch to := to.(type) {
		case *transfer.OCIRegistry:
			return j.push(ctx, from, to)
		case *transfer.ImageStore:
			return j.tag(ctx, from, to)
		case *transfer.ImageExportStream:
			return j.export(ctx, from, to)
		}
	case *transfer.ImageImportStream:
		switch to := to.(type) {
		case *transfer.ImageStore:
			return j.load(ctx, from, to)
		case *transfer.ImageExportStream:
			return j.echo(ctx, from, to)
		}
	}
	return fmt.Errorf("transfer from %s to %s: %w", nameOf(from), nameOf(to), errdefs.ErrNotImplemented)
}

func nameOf(m end) string { return string(m.ProtoReflect().Descriptor().Name()) }

func (j *job) pull(ctx context.Context, from *transfer.OCIRegistry, to *transfer.ImageStore) error {
	asked, done, err := j.access(ctx, from)
	if err != nil {
		return err
	}
	defer done()
	j.tell(&transfer.Progress{Event: "Resolving", Name: from.Reference})
	r := newReport(j.tell, from.Reference)
	opt := pull.Options{
		Namespace: j.ns, Name: to.Name, Labels: to.Labels, NoUnpack: len(to.Unpacks) == 0, Patient: true,
		Open: remote.Open(asked, j.warn), Warn: j.warn, Progress: r.event,
	}
	for _, p := range to.Platforms {
		opt.Platforms = append(opt.Platforms, platformText(p))
	}
	name, err := image.Parse(from.Reference)
	if err != nil {
		return err
	}
	img, err := pull.Image(ctx, j.d, name, opt)
	if err != nil {
		return err
	}
	j.tell(&transfer.Progress{Event: "saved", Name: img.Name, Desc: descriptorMessage(img.Target)})
	j.tell(&transfer.Progress{Event: "Completed pull from OCI Registry (" + from.Reference + ")"})
	return nil
}

func (j *job) push(ctx context.Context, from *transfer.ImageStore, to *transfer.OCIRegistry) error {
	asked, done, err := j.access(ctx, to)
	if err != nil {
		return err
	}
	defer done()
	j.tell(&transfer.Progress{Event: "Pushing to OCI Registry (" + to.Reference + ")"})
	opt := push.Options{Namespace: j.ns, Registry: asked, Warn: j.warn, Progress: newReport(j.tell, from.Name).event}
	for _, p := range from.Platforms {
		opt.Platforms = append(opt.Platforms, platformText(p))
	}
	name, err := image.Parse(to.Reference)
	if err != nil {
		return err
	}
	if _, err := push.Image(ctx, j.d, from.Name, name, opt); err != nil {
		return err
	}
	j.tell(&transfer.Progress{Event: "Completed push to OCI Registry (" + to.Reference + ")"})
	return nil
}

// access says how to reach a registry. Its credentials are what the client answers on a stream, and nobody else's.
func (j *job) access(ctx context.Context, r *transfer.OCIRegistry) (o registry.Options, done func(), err error) {
	o, done = registry.Options{Warn: j.warn}, func() {}
	asked := r.GetResolver()
	o.PlainHTTP = asked.GetDefaultScheme() == "http"
	if dir := asked.GetHostDir(); dir != "" {
		o.HostDirs = []string{dir}
	}
	o.Header = asked.GetHeaders()
	o.Ask = func(string) (registry.Credential, error) { return registry.Credential{}, nil }
	if asked.GetAuthStream() == "" {
		return o, done, nil
	}
	stream, err := j.streams.take(ctx, asked.AuthStream)
	if err != nil {
		return o, done, err
	}
	var one sync.Mutex // a question and its answer
	o.Ask = func(host string) (registry.Credential, error) {
		one.Lock()
		defer one.Unlock()
		return askClient(stream, host, r.Reference)
	}
	return o, stream.close, nil
}

// askClient asks for the credentials of a host.
func askClient(stream *stream, host, reference string) (c registry.Credential, err error) {
	if err := stream.send(&transfer.AuthRequest{Host: host, Reference: reference}); err != nil {
		return c, err
	}
	m, err := stream.Recv()
	if err != nil {
		return c, err
	}
	var a transfer.AuthResponse
	if err := unpack(m, &a); err != nil {
		return c, err
	}
	switch a.AuthType {
	case transfer.AuthType_CREDENTIALS:
		c.Username, c.Password = a.Username, a.Secret
	case transfer.AuthType_REFRESH:
		c.Username, c.IdentityToken = a.Username, a.Secret
	case transfer.AuthType_HEADER:
		c.Token = a.Secret
	}
	return c, nil
}

// tag gives an image another name.
func (j *job) tag(ctx context.Context, from, to *transfer.ImageStore) error {
	return j.d.Update(ctx, nil, func(tx *state.Tx) error {
		img, err := image.Get(tx, j.ns, from.Name)
		if err != nil {
			return err
		}
		img.Name = to.Name
		if len(to.Labels) > 0 {
			img.Labels = to.Labels
		}
		return image.Put(tx, j.ns, img)
	})
}

func (j *job) export(ctx context.Context, from *transfer.ImageStore, to *transfer.ImageExportStream) error {
	stream, err := j.streams.take(ctx, to.Stream)
	if err != nil {
		return err
	}
	defer stream.close()
	names := []string{}
	if from.Name != "" {
		names = append(names, from.Name)
	}
	for _, r := range from.ExtraReferences {
		names = append(names, r.Name)
	}
	if len(names) == 0 {
		return fmt.Errorf("export of no image: %w", errdefs.ErrInvalidArgument)
	}
	opt := archive.ExportOptions{
		Namespace: j.ns, AllPlatforms: to.AllPlatforms, NoManifest: to.SkipCompatibilityManifest, Warn: j.warn,
		Platforms: platformsOf(to.Platforms),
	}
	for _, n := range names {
		j.tell(&transfer.Progress{Event: "Exporting", Name: n})
	}
	w := stream.writer()
	if err := archive.Export(ctx, j.d, w, names, opt); err != nil {
		return err
	}
	w.settle(ctx)
	j.tell(&transfer.Progress{Event: "Completed export"})
	return nil
}

// load brings in the images of an archive.
func (j *job) load(ctx context.Context, from *transfer.ImageImportStream, to *transfer.ImageStore) error {
	stream, err := j.streams.take(ctx, from.Stream)
	if err != nil {
		return err
	}
	defer stream.close()
	opt := archive.ImportOptions{
		Namespace: j.ns, Names: names{to}.of, Platforms: platformsOf(to.Platforms), AllPlatforms: len(to.Platforms) == 0,
		NoUnpack: len(to.Unpacks) == 0, Warn: j.warn,
	}
	j.tell(&transfer.Progress{Event: "Importing"})
	all, err := archive.Import(ctx, j.d, stream.reader(), opt)
	if err != nil {
		return err
	}
	for _, img := range all {
		j.tell(&transfer.Progress{Event: "saved", Name: img.Name, Desc: descriptorMessage(img.Target)})
	}
	j.tell(&transfer.Progress{Event: "Completed import"})
	j.acted() // of what the images are called clients learn here alone; nerdctl drops with the answer what it has not looked at
	return nil
}

// echo copies what a client sends to where it reads.
func (j *job) echo(ctx context.Context, from *transfer.ImageImportStream, to *transfer.ImageExportStream) error {
	in, err := j.streams.take(ctx, from.Stream)
	if err != nil {
		return err
	}
	defer in.close()
	out, err := j.streams.take(ctx, to.Stream)
	if err != nil {
		return err
	}
	defer out.close()
	w := out.writer()
	if _, err := io.Copy(w, in.reader()); err != nil {
		return err
	}
	w.settle(ctx)
	return nil
}

func (j *job) warn(text string) { j.log.Warn("transfer", "message", text) }

func platformText(p *types.Platform) string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}

func platformsOf(all []*types.Platform) (list []ocispec.Platform) {
	for _, p := range all {
		list = append(list, ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures})
	}
	return list
}

// report makes containerd's messages of ours.
type report struct {
	tell func(*transfer.Progress)
	name string // of the image
}

func newReport(tell func(*transfer.Progress), name string) *report {
	return &report{tell: tell, name: name}
}

// words are what containerd calls what happens to a descriptor.
var words = map[progress.Status]string{
	progress.Waiting: "waiting", progress.Downloading: "downloading", progress.Unpacking: "extracting", progress.Uploading: "uploading",
	progress.Done: "complete", progress.Exists: "already exists", progress.Mounted: "already exists",
}

// event tells of one step.
func (r *report) event(e progress.Event) {
	word := words[e.Status]
	if word == "" || e.Descriptor.Digest == "" {
		return
	}
	r.tell(&transfer.Progress{
		Event: word, Name: kindOf(e.Descriptor) + "-" + e.Descriptor.Digest.String(), Parents: []string{r.name},
		Progress: e.Current, Total: e.Descriptor.Size, Desc: descriptorMessage(e.Descriptor),
	})
}

// kindOf is how containerd names a descriptor in the names of refs.
func kindOf(d ocispec.Descriptor) string {
	switch {
	case image.IsIndex(d.MediaType):
		return "index"
	case image.IsManifest(d.MediaType):
		return "manifest"
	case image.IsConfig(d.MediaType):
		return "config"
	}
	return "layer"
}
