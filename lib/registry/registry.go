// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/reference"
)

// Options says how to reach a registry. The zero value is HTTPS with the system's certificates and the
// credentials of the user's docker configuration, and no mirrors.
type Options struct {
	PlainHTTP bool   // speak HTTP instead of HTTPS
	Insecure  bool   // accept any certificate
	CAFile    string // PEM certificates to trust beside the system's
	// AuthFile is a docker config.json to take credentials from; empty: the first that is there of
	// $DOCKER_CONFIG/config.json or ~/.docker/config.json, $REGISTRY_AUTH_FILE, containers/auth.json.
	AuthFile string
	// Username and Password, when set, are used instead of any file, for the registry of the reference alone.
	Username, Password string
	// Ask, when set, is asked for the credentials of each host that wants some, instead of any file.
	Ask func(host string) (Credential, error)
	// Header is sent to the registry of the reference, with every request.
	Header map[string]string
	// HostDirs are directories that have, for each registry, one directory with hosts.toml or certificates.
	// The first that has one for the registry counts; see [HostDirs].
	HostDirs []string
	// Outages, when set, lets repositories that are opened after each other share what they found out of mirrors
	// that are down.
	Outages *Outages
	// Warn, when set, is told what the user should know and nothing fails for. It may be called by several
	// goroutines at the same time.
	Warn func(string)

	auth, ca []byte // of AuthFile and CAFile, once Read has read them
}

// hear passes the warnings of a registry on (OCI distribution specification, "Warnings").
func (o Options) hear(host string, header http.Header) {
	if o.Warn == nil {
		return
	}
	for _, h := range header.Values("Warning") {
		if text, ok := strings.CutPrefix(h, "299 - "); ok {
			o.Warn(fmt.Sprintf("registry %q: %s", host, oneLine(strings.Trim(text, `"`))))
		}
	}
}

// Outages remembers hosts that did not answer, so that each costs a process once. The zero value is ready for
// use.
type Outages struct {
	mu   sync.Mutex
	down map[string]error
}

func (o *Outages) add(host string, cause error) {
	if o == nil || !errdefs.IsUnavailable(cause) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down == nil {
		o.down = map[string]error{}
	}
	o.down[host] = cause
}

func (o *Outages) of(host string) error {
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.down[host]
}

// identifier is what a manifest is asked for by.
func identifier(r reference.Reference) string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// Repository is the repository of one image reference. Its methods may be called at the same time.
type Repository struct {
	ref   reference.Reference
	hosts []*endpoint // in the order in which they are asked
	whole atomic.Bool
	mu    sync.Mutex // guards kept and served
	kept  body       // the manifest that Resolve had to read
	// served tells which host's bytes a blob consists of, for as long as nobody has checked them.
	served map[digest.Digest][]*endpoint
}

// Open prepares to read the repository of a normalised reference. Nothing is sent before the first use. A file
// of the options, or one that they lead to, that cannot be read is errdefs.ErrInvalidArgument.
func Open(ref reference.Reference, opt Options) (*Repository, error) {
	if ref.Domain == "" || ref.Path == "" || identifier(ref) == "" {
		return nil, fmt.Errorf("image reference %q: %w", fmt.Sprint(ref), errdefs.ErrInvalidArgument)
	}
	keys, err := opt.readKeychain()
	if err != nil {
		return nil, err
	}
	configs, err := findHosts(ref.Domain, opt)
	if err != nil {
		return nil, err
	}
	r := &Repository{ref: ref, served: map[digest.Digest][]*endpoint{}}
	for i, c := range configs {
		spare := false
		for _, later := range configs[i+1:] {
			spare = spare || later.caps&canPull != 0 && (c.caps&canResolve == 0 || later.caps&canResolve != 0)
		}
		e, err := newEndpoint(c, ref, opt, keys, spare)
		if err != nil {
			return nil, err
		}
		r.hosts = append(r.hosts, e)
	}
	return r, nil
}

// Close closes idle connections. The repository can still be used.
func (r *Repository) Close() {
	for _, e := range r.hosts {
		e.base.CloseIdleConnections()
	}
}

// Host is the registry's host, with its port when one was given.
func (r *Repository) Host() string { return r.ref.Domain }

// Name is the repository's name within the registry.
func (r *Repository) Name() string { return r.ref.Path }

// Ranges tells whether the registry may be asked for parts of a blob. It turns false when a request
// for a part has been answered with the whole.
func (r *Repository) Ranges() bool { return !r.whole.Load() }

// Distrust says that the bytes of a blob were not those of its digest. The hosts that sent them are asked no
// more, unless there is none else. It reports whether another host can be asked for the blob.
func (r *Repository) Distrust(blob digest.Digest) bool {
	r.mu.Lock()
	from := r.served[blob]
	delete(r.served, blob)
	r.mu.Unlock()
	another := false
	for _, e := range from {
		err := fmt.Errorf("host %q sent other bytes than those of %s: %w", e.host, blob, errdefs.ErrFailedPrecondition)
		another = e.giveUp(err) || another
	}
	return another
}
