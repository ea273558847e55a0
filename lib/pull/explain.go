// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"fmt"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/registry"
)

// Explain says which hosts a pull of ref would ask, in order, and how. It sends nothing and needs no state
// directory.
func Explain(ref string, opt Options) ([]registry.Plan, error) {
	name, err := image.Parse(ref)
	if err != nil {
		return nil, err
	}
	repo, err := open(name, opt)
	if err != nil {
		return nil, fmt.Errorf("explain %s: %w", name, err)
	}
	defer repo.Close()
	return repo.Explain(), nil
}

// open prepares to read the repository of an image.
func open(name image.Reference, opt Options) (*registry.Repository, error) {
	if opt.Registry.Warn == nil {
		opt.Registry.Warn = opt.Warn
	}
	from := registry.Reference{Host: name.Domain, Repository: name.Path, Tag: name.Tag, Digest: name.Digest}
	return registry.Open(from, opt.Registry)
}
