// SPDX-License-Identifier: Apache-2.0

// Package cri serves the Kubernetes CRI (k8s.io/cri-api, runtime.v1). One file is one group of RPCs. A method
// translates a request into a deed of lib/pod, or of another package below, and its result into the answer; it
// decides nothing.
//
// The CRI has one namespace of the state directory, [Namespace], which is containerd's. So the commands, containerd's
// clients and the kubelet see the same pods, containers and images.
package cri
