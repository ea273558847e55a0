// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

// Label sets labels of an image by its exact name; an empty value removes the label.
func Label(tx *state.Tx, ns, name string, labels map[string]string) (Image, error) {
	img, err := Get(tx, ns, name)
	if err != nil {
		return img, err
	}
	if img.Labels, err = label.Set(img.Labels, labels); err != nil {
		return img, fmt.Errorf("image %q: %w", name, err)
	}
	if err := Put(tx, ns, img); err != nil {
		return img, err
	}
	return Get(tx, ns, name)
}

// MovedError says that a name stands for something else than was expected. Its kind is errdefs.ErrFailedPrecondition.
type MovedError struct {
	Name string
	Want digest.Digest // empty: the name should be new
	Have digest.Digest // empty: there is no such name
}

// Error says what the name stands for.
func (e *MovedError) Error() string {
	switch {
	case e.Have == "":
		return fmt.Sprintf("image %q is not here, and %s was expected", e.Name, e.Want)
	case e.Want == "":
		return fmt.Sprintf("image %q is here already, %s", e.Name, e.Have)
	}
	return fmt.Sprintf("image %q is %s, and %s was expected", e.Name, e.Have, e.Want)
}

// Unwrap gives the kind.
func (e *MovedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Expect is a [*MovedError] unless the name stands for the digest want, or for nothing where want is empty. In the
// transaction that then changes the name it makes the change a compare-and-swap.
func Expect(tx *state.Tx, ns, name string, want digest.Digest) error {
	img, err := Get(tx, ns, name)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if img.Target.Digest != want {
		return &MovedError{name, want, img.Target.Digest}
	}
	return nil
}
