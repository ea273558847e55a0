// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubeletVersion is what the kubelet calls the version of the CRI that it speaks.
const kubeletVersion = "0.1.0"

// Version tells which runtime this is.
func (r runtimeService) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version: kubeletVersion, RuntimeName: "ctrd", RuntimeVersion: strings.TrimPrefix(r.s.version, "v"), RuntimeApiVersion: "v1",
	}, nil
}
