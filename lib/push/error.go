// SPDX-License-Identifier: Apache-2.0

package push

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/image"
)

// whatBlob is what a MissingError calls a configuration or a layer.
const whatBlob = "blob"

// MissingError says that a part of an image is neither in the store nor at the registry. It is
// errdefs.ErrNotFound.
type MissingError struct {
	Image  string // its name here
	What   string // blob, manifest, or manifest for PLATFORMS
	Digest digest.Digest
	err    error
}

// Error names the part.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s %s is not here, and the registry does not have it: %v", e.What, e.Digest, errdefs.ErrNotFound)
}

// Unwrap gives the kind.
func (e *MissingError) Unwrap() []error { return []error{errdefs.ErrNotFound, e.err} }

// Hint is how it comes here.
func (e *MissingError) Hint() string {
	name := image.Familiar(e.Image)
	if e.What == whatBlob {
		return fmt.Sprintf("bring it with ctr-pull --no-unpack %s", name)
	}
	return fmt.Sprintf("bring it with ctr-pull --no-unpack --all-platforms %s, or name with --platform what is here", name)
}

// absentError is about a platform that an image does not have.
type absentError struct{ error }

// Unwrap gives the error.
func (e *absentError) Unwrap() error { return e.error }

func isAbsent(err error) bool {
	var a *absentError
	var m *MissingError
	return errors.As(err, &a) || errors.As(err, &m)
}
