// SPDX-License-Identifier: Apache-2.0

// Package native serves containerd's gRPC API (module github.com/containerd/containerd/api) on unix sockets. One file is one
// service, and translates: what a request means is decided by the packages below, which the commands call too. So what a
// command did is there for a client at once, and the other way round.
//
// Requests name their namespace, and the lease that is to hold what they make, in metadata (containerd's
// client/grpc.go). Errors travel by their errdefs kind, as gRPC status codes.
//
// The server keeps nothing in memory that the state directory does not hold, but open writers and streams, which end with
// their connection. It may be killed at any moment: its clients connect to the next one. How much of the logs of shims it has in its own
// log is in told.json of their tasks.
package native
