// SPDX-License-Identifier: Apache-2.0

//go:build !cgo || !seccomp

package bpf

import "golang.org/x/sys/unix"

// Use closes the descriptor: a program without libseccomp makes no filters.
func Use(fd int) { unix.Close(fd) }
