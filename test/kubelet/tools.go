// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package kubelet has the test of ctrd under a real kubelet, which is built from the modules that go.mod names.
package kubelet

import (
	_ "k8s.io/kubernetes/cmd/kubelet"
)
