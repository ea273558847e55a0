// SPDX-License-Identifier: Apache-2.0

// Package taskapi is what containerd and its shims say to each other, both
// sides of it: the task API (the ttrpc services containerd.task.v3.Task and
// containerd.task.v2.Task, which differ in the name alone), the sandbox API, what
// a shim is told and answers when it is started, its options, and the events
// that it publishes.
//
// Messages are plain structs with an encoding of their own over protowire, and
// the ttrpc framing is written here, unary calls only: a supervisor lives as
// long as its container, so neither gRPC nor protobuf's registry may be linked
// into it. The field numbers are those of containerd's api directory and of
// ttrpc's request.proto.
//
// In every message an empty field and an absent one are the same, as proto3
// has it; a zero time.Time is an absent Timestamp.
package taskapi
