// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	nrigen "github.com/containerd/nri/pkg/runtime-tools/generate"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-tools/generate"

	"ctrd.dev/ctrd/lib/cdi"
	"ctrd.dev/ctrd/lib/config"
)

// adjust changes a spec as plugins want it. What they want and cannot have is errdefs.ErrNotImplemented.
func adjust(s *specs.Spec, to *api.ContainerAdjustment, c config.CRI) error {
	if to == nil {
		return nil
	}
	base := generate.NewFromSpec(s)
	g := nrigen.SpecGenerator(&base,
		nrigen.WithCDIDeviceInjector(func(s *specs.Spec, names []string) error {
			if !c.EnableCDI {
				return fmt.Errorf("CDI device %s: enable_cdi of the configuration is not set: %w", names[0], errdefs.ErrFailedPrecondition)
			}
			return cdi.Inject(s, c.CDISpecDirs, names)
		}),
		nrigen.WithBlockIOResolver(func(class string) (*specs.LinuxBlockIO, error) {
			return nil, fmt.Errorf("class %q of block I/O: there are none: %w", class, errdefs.ErrNotImplemented)
		}),
		nrigen.WithRdtResolver(func(class string) (*specs.LinuxIntelRdt, error) {
			return nil, fmt.Errorf("class %q of RDT: there are none: %w", class, errdefs.ErrNotImplemented)
		}))
	if err := g.Adjust(to); err != nil {
		return fmt.Errorf("what a plugin changes: %w", err)
	}
	return nil
}
