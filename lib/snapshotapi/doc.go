// SPDX-License-Identifier: Apache-2.0

// Package snapshotapi is a client of containerd's snapshots API (api/services/snapshots/v1/snapshots.proto) on a unix socket.
//
// It speaks gRPC over HTTP/2 (RFC 9113, and gRPC's PROTOCOL-HTTP2.md) itself, as much of both as one call on one connection
// needs: net/http would make each command a third larger. A connection lasts as long as its call, so that a server that ends and
// comes back is nothing to remember.
//
// What a server says is bounded, in time and in bytes, and checked. What it says of a snapshot is its own word: the caller judges
// that.
package snapshotapi
