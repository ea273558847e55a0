// SPDX-License-Identifier: Apache-2.0

// Package taskapi is containerd's task API, version 3 (the ttrpc service
// containerd.task.v3.Task), client and server: what a shim answers and what
// its callers ask.
//
// Messages are plain structs with an encoding of their own over protowire, and
// the ttrpc framing is written here, unary calls only: a supervisor lives as
// long as its container, so neither gRPC nor protobuf's registry may be linked
// into it. The field numbers are those of containerd's
// api/runtime/task/v3/shim.proto and of ttrpc's request.proto.
//
// In every message an empty field and an absent one are the same, as proto3
// has it; a zero time.Time is an absent Timestamp.
package taskapi
