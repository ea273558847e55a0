// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskdir"
)

// podNetwork gives the whole id of a pod that is ready, and the path of its network namespace; an empty one is the host's.
func (s *Server) podNetwork(ctx context.Context, name string) (id, path string, err error) {
	st, err := s.pods().Status(ctx, name)
	if err == nil && !st.Ready {
		err = fmt.Errorf("pod %q is not ready: %w", st.ID, errdefs.ErrFailedPrecondition)
	}
	return st.ID, st.Paths[taskdir.NetNS], err
}
