// SPDX-License-Identifier: Apache-2.0

//go:build cgo && seccomp

package bpf

/*
#cgo pkg-config: libseccomp
#cgo LDFLAGS: -Wl,--wrap=seccomp_rule_add_array -Wl,--wrap=seccomp_export_bpf
void ctrd_use_filter(int fd);
*/
import "C"

// Use has libseccomp, in this process, give the filter of a memfd for the one that it is told to compile, or put that one
// into the memfd when it is empty. It closes the descriptor when it is needed no more. The process must make no other filter.
func Use(fd int) { C.ctrd_use_filter(C.int(fd)) }
