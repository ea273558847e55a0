// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/protobuf/types/known/emptypb"
)

// compatible is the version of containerd whose API this is. Its clients choose what they call by it: from 2.0 on nerdctl
// uses the transfer service.
const compatible = "v2.4.2"

type versionService struct {
	versionapi.UnimplementedVersionServer
	s *Server
}

// Version tells the version of containerd that clients find here, and as the revision that of ctrd.
func (v versionService) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: compatible, Revision: "ctrd " + v.s.version}, nil
}
