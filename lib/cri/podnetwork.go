// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskdir"
)

// podNetwork gives the path of the network namespace of a pod that is ready; an empty one is the host's.
func (s *Server) podNetwork(ctx context.Context, id string) (string, error) {
	st, err := s.pods().Status(ctx, id)
	if err == nil && !st.Ready {
		err = fmt.Errorf("pod %q is not ready: %w", st.ID, errdefs.ErrFailedPrecondition)
	}
	return st.Paths[taskdir.NetNS], err
}
