// SPDX-License-Identifier: Apache-2.0

package task

import (
	"strings"

	"github.com/containerd/errdefs"
)

// ProgramError says that the container was set up and its program could not be run.
type ProgramError struct {
	// Status is what a shell gives: 127 for a program that is not there, 126 for one that cannot be
	// executed.
	Status int
	Err    error
}

// Error is the engine's text, which names the program.
func (e *ProgramError) Error() string { return e.Err.Error() }

// Unwrap gives the engine's error.
func (e *ProgramError) Unwrap() error { return e.Err }

// programError recognises the failures that are the program's: ctr-shim marks them by their kind, and
// their text begins as that of os/exec does.
func programError(err error) error {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "exec: "):
	case !strings.Contains(text, `exec: "`):
		return err
	// A foreign shim gives the engine's text alone.
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		return &ProgramError{127, err}
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"), strings.Contains(text, "exec format error"):
		return &ProgramError{126, err}
	}
	switch {
	case errdefs.IsNotFound(err):
		return &ProgramError{127, err}
	case errdefs.IsPermissionDenied(err), errdefs.IsInvalidArgument(err):
		return &ProgramError{126, err}
	}
	return err
}
