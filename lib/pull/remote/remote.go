// SPDX-License-Identifier: Apache-2.0

// Package remote opens the repository of an image, for lib/pull. It is apart from that, so that commands which unpack
// what is here already do not link the network.
package remote

import (
	"fmt"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/registry"
)

// Open gives a pull.Options.Open that asks registries. warn, if set, is told what the user should know.
func Open(opt registry.Options, warn func(string)) func(image.Reference) (pull.Source, error) {
	return func(name image.Reference) (pull.Source, error) { return open(name, opt, warn) }
}

// Explain says which hosts a pull of an image would ask, in order, and how. It sends nothing and needs no state
// directory.
func Explain(name image.Reference, opt registry.Options, warn func(string)) ([]registry.Plan, error) {
	repo, err := open(name, opt, warn)
	if err != nil {
		return nil, fmt.Errorf("explain %s: %w", name, err)
	}
	defer repo.Close()
	return repo.Explain(), nil
}

// open prepares to read the repository of an image.
func open(name image.Reference, opt registry.Options, warn func(string)) (*registry.Repository, error) {
	if opt.Warn == nil {
		opt.Warn = warn
	}
	return registry.Open(name, opt)
}
