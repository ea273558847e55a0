// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/pull/remote"
	"ctrd.dev/ctrd/lib/registry"
)

// PullImage brings an image and records it under three names, as containerd's CRI plugin does: the name that was asked for,
// the repository with the digest, and the id, which is the digest of the configuration. The answer is the id. A pull that
// makes no progress for the time of the options is ended with context.DeadlineExceeded.
func (i imageService) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	s := i.s
	text := r.GetImage().GetImage()
	if text == "" {
		return nil, fmt.Errorf("image: missing: %w", errdefs.ErrInvalidArgument)
	}
	name, err := parseImage(text)
	if err != nil {
		return nil, err
	}
	ask, err := credentials(r.GetAuth())
	if err != nil {
		return nil, err
	}
	sn, err := s.snapshotter(r.GetImage().GetRuntimeHandler())
	if err != nil {
		return nil, fmt.Errorf("runtime_handler: %w", err)
	}
	warn := func(text string) { s.log.Warn("pull", "image", name.String(), "message", text) }
	conf := s.config().CRI
	ctx, alive, stop := whileAlive(ctx, time.Duration(conf.ImagePullProgressTimeout))
	defer stop()
	var id digest.Digest
	labels := map[string]string{labelManaged: managed}
	if slices.Contains(s.pinnedNames(), name.String()) {
		labels[labelPinned] = pinned
	}
	opt := pull.Options{
		Namespace: Namespace, Labels: labels, Snapshotter: sn, Patient: true, Warn: warn, Layers: conf.MaxConcurrentDownloads, Discard: conf.DiscardUnpackedLayers,
		Open:     remote.Open(registry.Options{HostDirs: registry.HostDirs(cmp.Or(s.hosts, conf.Registry.ConfigPath)), Header: headers(conf.Registry.Headers), Ask: ask, Warn: warn}, warn),
		Progress: func(progress.Event) { alive() },
		Also: func(target ocispec.Descriptor, m image.Manifest) []string {
			id = m.Manifest.Config.Digest
			return []string{image.Pin(name.Repository(), target.Digest), id.String()}
		},
	}
	if _, err := pull.Image(ctx, s.d, name, opt); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("pull %s: %w", name, cause)
		}
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: id.String()}, nil
}

// headers joins the values of each header, as HTTP allows.
func headers(all map[string][]string) map[string]string {
	joined := map[string]string{}
	for name, values := range all {
		joined[name] = strings.Join(values, ", ")
	}
	return joined
}

// whileAlive gives a context that ends when alive has not been called for this time; 0 is never.
func whileAlive(ctx context.Context, limit time.Duration) (_ context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if limit <= 0 {
		return ctx, func() {}, func() { cancel(nil) }
	}
	t := time.AfterFunc(limit, func() { cancel(fmt.Errorf("no progress for %s: %w", limit, context.DeadlineExceeded)) })
	return ctx, func() { t.Reset(limit) }, func() { t.Stop(); cancel(nil) }
}

// credentials makes of the kubelet's credentials what answers a registry. Those for a server are told to no other one. Without
// any the registry is told none; no file on this machine is asked.
func credentials(a *runtimeapi.AuthConfig) (func(host string) (registry.Credential, error), error) {
	c := registry.Credential{
		Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), Token: a.GetRegistryToken(),
	}
	if pair := a.GetAuth(); pair != "" && c == (registry.Credential{}) {
		text, err := base64.StdEncoding.DecodeString(pair)
		user, password, ok := strings.Cut(strings.TrimRight(string(text), "\x00"), ":")
		if err != nil || !ok {
			// The value is a secret, so the error does not quote it.
			return nil, fmt.Errorf("auth.auth: want base64 of USER:PASSWORD: %w", errdefs.ErrInvalidArgument)
		}
		c.Username, c.Password = user, password
	}
	server := serverHost(a.GetServerAddress())
	return func(host string) (registry.Credential, error) {
		if server != "" && server != serverHost(host) {
			return registry.Credential{}, nil
		}
		return c, nil
	}, nil
}

// serverHost is the host of a server's address, with or without a scheme, by which two addresses can be compared. All names
// of docker.io are one.
func serverHost(address string) string {
	if !strings.Contains(address, "://") {
		address = "//" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	switch host := strings.ToLower(u.Host); host {
	case "docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	default:
		return host
	}
}
