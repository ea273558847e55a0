// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

// The labels that containerd's CRI plugin gives to the names that it records, and their values.
const (
	labelManaged, managed = "io.cri-containerd.image", "managed"
	labelPinned, pinned   = "io.cri-containerd.pinned", "pinned"
)

// perMessage is how many items a message of a streaming list has at most, so that it stays far below the bound of gRPC.
const perMessage = 256

// criImage is an image as the CRI counts: all names whose target has the same configuration for this machine.
type criImage struct {
	about
	names  []string // in order
	pinned bool
}

// about is what the documents of an image say. They are addressed by digest, so it never changes for a target.
type about struct {
	id     digest.Digest // of the configuration
	target ocispec.Descriptor
	size   int64 // in the registry, in bytes
	user   string
	chain  digest.Digest // of the top layer; empty: there is none
}

// documents remembers what the documents of images say.
type documents struct {
	mu    sync.Mutex
	known map[digest.Digest]about // by target
}

// of reads the documents of a target, or remembers them.
func (c *documents) of(d *state.Dir, target ocispec.Descriptor) (about, error) {
	c.mu.Lock()
	a, ok := c.known[target.Digest]
	c.mu.Unlock()
	if ok {
		return a, nil
	}
	m, err := readManifest(d, target)
	if err != nil {
		return about{}, err
	}
	a = about{id: m.Manifest.Config.Digest, target: target, size: max(m.Size(), 1), user: m.Config.Config.User}
	if n := len(m.ChainIDs); n > 0 {
		a.chain = m.ChainIDs[n-1]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[digest.Digest]about{}
	}
	c.known[target.Digest] = a
	return a, nil
}

// keep forgets all targets but these.
func (c *documents) keep(targets map[digest.Digest]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.known, func(d digest.Digest, _ about) bool { return !targets[d] })
}

// readManifest reads what a target stands for on this machine.
func readManifest(d *state.Dir, target ocispec.Descriptor) (image.Manifest, error) {
	platform, err := image.ParsePlatform("")
	if err != nil {
		return image.Manifest{}, err
	}
	return image.Resolve(d, target, platform)
}

// images gives all images, by id. A name whose documents are not here, or that has none for this machine, is left out.
func (s *Server) images(ctx context.Context) ([]criImage, error) {
	var records []image.Image
	err := s.d.View(ctx, func(tx *state.Tx) error {
		records = nil
		for img, err := range image.All(tx, Namespace) {
			if err != nil {
				s.log.Warn("image", "name", img.Name, "error", err)
				continue
			}
			records = append(records, img)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	byID := map[digest.Digest]*criImage{}
	keep := s.pinnedNames()
	targets := map[digest.Digest]bool{}
	for _, r := range records {
		targets[r.Target.Digest] = true
		a, err := s.documents.of(s.d, r.Target)
		if err != nil {
			s.log.Debug("image", "name", r.Name, "error", err)
			continue
		}
		one := byID[a.id]
		if one == nil {
			one = &criImage{about: a}
			byID[a.id] = one
		}
		one.names = append(one.names, r.Name)
		one.pinned = one.pinned || r.Labels[labelPinned] == pinned || slices.Contains(keep, r.Name)
	}
	s.documents.keep(targets)
	all := make([]criImage, 0, len(byID))
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		all = append(all, *byID[id])
	}
	return all, nil
}

// pinnedNames are the names of images that the configuration has the kubelet keep.
func (s *Server) pinnedNames() (names []string) {
	c := s.config().CRI
	for _, text := range append(slices.Collect(maps.Values(c.PinnedImages)), c.SandboxImage) {
		if name, err := parseImage(text); err == nil {
			names = append(names, name.String())
		}
	}
	return names
}

// findImage gives the image that a client means: by a name, as docker users shorten it, or by an id or the beginning of
// one. None is errdefs.ErrNotFound.
func (s *Server) findImage(ctx context.Context, spec *runtimeapi.ImageSpec) (criImage, error) {
	ref := spec.GetImage()
	if ref == "" {
		return criImage{}, fmt.Errorf("image: missing: %w", errdefs.ErrInvalidArgument)
	}
	all, err := s.images(ctx)
	if err != nil {
		return criImage{}, err
	}
	return pickImage(all, ref)
}

func pickImage(all []criImage, ref string) (criImage, error) {
	name, parseErr := parseImage(ref)
	var byID []criImage
	for _, one := range all {
		if one.id.String() == ref || parseErr == nil && slices.Contains(one.names, name.String()) || slices.Contains(one.names, ref) {
			return one, nil
		}
		if strings.HasPrefix(one.id.Encoded(), strings.TrimPrefix(ref, string(one.id.Algorithm())+":")) {
			byID = append(byID, one)
		}
	}
	switch {
	case len(byID) == 1:
		return byID[0], nil
	case len(byID) > 1:
		return criImage{}, fmt.Errorf("image: %q begins the ids of %d images: %w", ref, len(byID), errdefs.ErrInvalidArgument)
	case parseErr != nil && !isID(ref):
		return criImage{}, parseErr
	}
	return criImage{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

// isID tells whether ref is an id, with or without its algorithm, or the beginning of one.
func isID(ref string) bool {
	digits := strings.TrimPrefix(ref, string(digest.SHA256)+":")
	return len(digits) <= 64 && strings.Trim(digits, "0123456789abcdef") == ""
}

// parseImage reads a name. As in a pull, a digest decides alone what a tag beside it would.
func parseImage(text string) (image.Reference, error) {
	ref, err := image.Parse(text)
	if err != nil {
		return ref, fmt.Errorf("image: %w", err)
	}
	if ref.Digest != "" {
		ref.Tag = ""
	}
	return ref, nil
}

// references sorts the names of an image into tags and digests. The others, such as its id, are neither.
func (one criImage) references() (tags, digests []string) {
	for _, name := range one.names {
		ref, err := image.Parse(name)
		switch {
		case err != nil || ref.String() != name || digest.Digest(name).Validate() == nil:
		case ref.Digest != "":
			digests = append(digests, name)
		default:
			tags = append(tags, name)
		}
	}
	return tags, digests
}

func (one criImage) message() *runtimeapi.Image {
	m := &runtimeapi.Image{Id: one.id.String(), Size: uint64(one.size), Pinned: one.pinned}
	m.RepoTags, m.RepoDigests = one.references()
	user, _, _ := strings.Cut(one.user, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		m.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		m.Username = user
	}
	return m
}

// ListImages gives all images, or the one that the filter names.
func (i imageService) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	images, err := i.list(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: images}, nil
}

// StreamImages is ListImages in any number of messages.
func (i imageService) StreamImages(r *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	images, err := i.list(stream.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return sendAll(images, func(some []*runtimeapi.Image) error {
		return stream.Send(&runtimeapi.StreamImagesResponse{Images: some})
	})
}

// sendAll calls send with all items, so many at once as a message is to have.
func sendAll[T any](all []T, send func([]T) error) error {
	for some := range slices.Chunk(all, perMessage) {
		if err := send(some); err != nil {
			return err
		}
	}
	return nil
}

func (i imageService) list(ctx context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	all, err := i.s.images(ctx)
	if err != nil {
		return nil, err
	}
	if ref := f.GetImage().GetImage(); ref != "" {
		one, err := pickImage(all, ref)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		all = []criImage{one}
	}
	var list []*runtimeapi.Image
	for _, one := range all {
		list = append(list, one.message())
	}
	return list, nil
}

// ImageStatus tells of an image; one that is not here is an answer without one. With verbose, info has what containerd says
// there: the chain id of the layers and the configuration.
func (i imageService) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	one, err := i.s.findImage(ctx, r.GetImage())
	if errdefs.IsNotFound(err) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	answer := &runtimeapi.ImageStatusResponse{Image: one.message()}
	if !r.GetVerbose() {
		return answer, nil
	}
	m, err := readManifest(i.s.d, one.target)
	if err != nil {
		return nil, err
	}
	info, err := json.Marshal(struct {
		ChainID   string          `json:"chainID"`
		ImageSpec json.RawMessage `json:"imageSpec"`
	}{string(one.chain), m.RawConfig})
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", one.id, err)
	}
	answer.Info = map[string]string{"info": string(info)}
	return answer, nil
}

// RemoveImage removes all names of an image, also of one that is pinned. An image that is not here is success.
func (i imageService) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	answer := &runtimeapi.RemoveImageResponse{}
	one, err := i.s.findImage(ctx, r.GetImage())
	if errdefs.IsNotFound(err) {
		return answer, nil
	}
	if err != nil {
		return nil, err
	}
	err = i.s.d.Update(ctx, nil, func(tx *state.Tx) error {
		var errs []error
		for _, name := range one.names {
			now, err := image.Get(tx, Namespace, name)
			if err == nil {
				var a about
				if a, err = i.s.documents.of(i.s.d, now.Target); err == nil && a.id == one.id {
					err = image.Remove(tx, Namespace, name)
				}
			}
			if err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, fmt.Errorf("remove image %q: %w", r.GetImage().GetImage(), err)
	}
	i.s.collect()
	return answer, nil
}
