// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

// Image is a name's record.
type Image struct {
	Name    string             `json:"name"`
	Target  ocispec.Descriptor `json:"target"`
	Labels  map[string]string  `json:"labels,omitempty"`
	Created time.Time          `json:"created"`
	Updated time.Time          `json:"updated"`
}

// Pin is a name with exactly what it stands for: NAME@DIGEST. A name that ends so stays as it is.
func Pin(name string, d digest.Digest) string {
	if strings.HasSuffix(name, "@"+d.String()) {
		return name
	}
	return name + "@" + d.String()
}

var records = state.Table[Image]{Name: "images"}

// Get reads the record with exactly this name; see Find for what a user typed.
func Get(tx *state.Tx, ns, name string) (Image, error) {
	img, err := records.Get(tx, ns, name)
	img.Name = name
	return img, err
}

// Put records an image or replaces its record; the time of creation stays. What the target leads to
// must be recorded in the same transaction at the latest.
func Put(tx *state.Tx, ns string, img Image) error {
	if err := check(img); err != nil {
		return err
	}
	old, err := Get(tx, ns, img.Name)
	isNew := errdefs.IsNotFound(err)
	if err != nil && !isNew && !errdefs.IsDataLoss(err) {
		return err
	}
	img.Updated = time.Now().UTC()
	if img.Created = old.Created; img.Created.IsZero() {
		img.Created = img.Updated
	}
	if err := records.Put(tx, ns, img.Name, img); err != nil {
		return err
	}
	if isNew {
		tx.Emit(ns, event.ImageCreate{Name: img.Name, Labels: img.Labels})
	} else {
		tx.Emit(ns, event.ImageUpdate{Name: img.Name, Labels: img.Labels})
	}
	return nil
}

func check(img Image) error {
	if img.Name == "" || strings.ContainsAny(img.Name, "\n\x00") {
		return fmt.Errorf("image name %q: %w", img.Name, errdefs.ErrInvalidArgument)
	}
	if err := img.Target.Digest.Validate(); err != nil {
		return fmt.Errorf("image %q: target digest %q: %w: %w", img.Name, img.Target.Digest, err, errdefs.ErrInvalidArgument)
	}
	if err := label.Check(img.Labels); err != nil {
		return fmt.Errorf("image %q: %w", img.Name, err)
	}
	return nil
}

// Remove removes a record. Blobs and layers stay until a collection finds that nothing needs them.
func Remove(tx *state.Tx, ns, name string) error {
	if err := records.Delete(tx, ns, name); err != nil {
		return err
	}
	tx.Emit(ns, event.ImageDelete{Name: name})
	return nil
}

// All yields the images of a namespace by name. A damaged record comes with an error.
func All(tx *state.Tx, ns string) iter.Seq2[Image, error] {
	return func(yield func(Image, error) bool) {
		for row, err := range records.All(tx, ns) {
			row.Value.Name = row.Key
			if !yield(row.Value, err) {
				return
			}
		}
	}
}

// Namespaces lists the namespaces that have images.
func Namespaces(tx *state.Tx) ([]string, error) { return records.Namespaces(tx) }

// Find gives the image that a user means by query: a name, in full or as docker users shorten it, which
// may have a digest behind it as ctr-pull prints it; the digest of its target; or four or more of the digits that its
// hexadecimal part begins with, if they lead to one target only. Of several names of one target the first is
// given. Nothing found is errdefs.ErrNotFound, several targets are errdefs.ErrInvalidArgument; both
// name candidates.
func Find(tx *state.Tx, ns, query string) (Image, error) {
	all, err := find(tx, ns, query)
	if err != nil {
		return Image{}, err
	}
	return all[0], nil
}

// FindAll gives what is to be removed for a query: as Find, but every name of the target where the query
// is a digest or its beginning. Several names are errdefs.ErrFailedPrecondition unless they are asked for. A record that
// cannot be decoded is found by its name, and has only that.
func FindAll(tx *state.Tx, ns, query string, several bool) ([]Image, error) {
	all, err := find(tx, ns, query)
	if len(all) > 1 && !several {
		return nil, fmt.Errorf("image %q in namespace %q has several names%s: %w", query, ns, names(": ", all, ""), errdefs.ErrFailedPrecondition)
	}
	if len(all) == 1 && errdefs.IsDataLoss(err) {
		if ok, _ := records.Has(tx, tx.Durable(), ns, all[0].Name); ok {
			return []Image{{Name: all[0].Name}}, nil
		}
	}
	return all, err
}

// find is FindAll that gives the error of a damaged record beside its name.
func find(tx *state.Tx, ns, query string) ([]Image, error) {
	img, err := Get(tx, ns, query)
	if err == nil || !errdefs.IsNotFound(err) {
		return []Image{img}, err
	}
	ref, parseErr := Parse(query)
	if parseErr == nil {
		img, err := byName(tx, ns, ref)
		if err == nil || !errdefs.IsNotFound(err) {
			return []Image{img}, err
		}
	}
	var found, near []Image
	for img, err := range All(tx, ns) {
		if err != nil {
			continue
		}
		if isPrefix(img.Target.Digest, query) {
			found = append(found, img)
		}
		if r, err := Parse(img.Name); err == nil && parseErr == nil && r.Path == ref.Path {
			near = append(near, img)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("image %q in namespace %q%s: %w", query, ns, names(" (there is ", near, ")"), errdefs.ErrNotFound)
	}
	for _, img := range found {
		if img.Target.Digest != found[0].Target.Digest {
			return nil, fmt.Errorf("image %q in namespace %q is ambiguous%s: %w", query, ns, names(": it can be ", found, ""), errdefs.ErrInvalidArgument)
		}
	}
	return found, nil
}

// byName looks for a normalised reference. One with a digest is also found under the tag's name, or
// another name of the repository, as long as that has this target.
func byName(tx *state.Tx, ns string, ref Reference) (Image, error) {
	img, err := Get(tx, ns, ref.String())
	if err == nil || !errdefs.IsNotFound(err) || ref.Digest == "" {
		return img, err
	}
	if ref.Tag != "" {
		tagged, err := Get(tx, ns, ref.Repository()+":"+ref.Tag)
		if err == nil && tagged.Target.Digest == ref.Digest {
			return tagged, nil
		}
	}
	for other, e := range All(tx, ns) {
		if r, bad := Parse(other.Name); e == nil && bad == nil && other.Target.Digest == ref.Digest && r.Repository() == ref.Repository() {
			return other, nil
		}
	}
	return img, err
}

// leastDigits is how many digits stand for a digest: fewer would make an image of a word that was typed wrongly.
const leastDigits = 4

// isPrefix tells whether query is the digest or begins its hexadecimal part.
func isPrefix(d digest.Digest, query string) bool {
	if _, hex, _ := strings.Cut(query, ":"); len(query) < leastDigits || strings.Contains(query, ":") && len(hex) < leastDigits || d.Validate() != nil {
		return false
	}
	return strings.HasPrefix(d.String(), query) && strings.Contains(query, ":") || strings.HasPrefix(d.Encoded(), query)
}

// names lists at most four images for a message.
func names(before string, images []Image, after string) string {
	if len(images) == 0 {
		return ""
	}
	var list []string
	for _, img := range images[:min(len(images), 4)] {
		list = append(list, Familiar(img.Name))
	}
	slices.Sort(list)
	if len(images) > 4 {
		list = append(list, fmt.Sprintf("%d others", len(images)-4))
	}
	return before + strings.Join(list, ", ") + after
}
