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
	switch {
	case !strings.HasPrefix(err.Error(), "exec: "):
		return err
	case errdefs.IsNotFound(err):
		return &ProgramError{127, err}
	case errdefs.IsPermissionDenied(err), errdefs.IsInvalidArgument(err):
		return &ProgramError{126, err}
	}
	return err
}
