// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskapi"
)

// readOptions decodes the options of Create. Those of another type are not for us, and are left alone.
func readOptions(a *taskapi.Any) (o taskapi.Options, err error) {
	if err := a.To(&o); err != nil && !errdefs.IsNotFound(err) {
		return o, fmt.Errorf("options: %w", err)
	}
	return o, nil
}
