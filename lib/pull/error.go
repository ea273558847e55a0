// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/containerd/errdefs"
)

// ContentError says that what the registry sent is no image that can be taken: bytes without their
// digest, a layer that is not what the configuration names, an entry that no layer may have. It keeps
// the kind of what it wraps. An image of a kind that is not supported is none: errdefs.ErrNotImplemented.
type ContentError struct{ Err error }

// Error is the text of the cause.
func (e *ContentError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *ContentError) Unwrap() error { return e.Err }

// Hint is what the user may do about it.
func (e *ContentError) Hint() string {
	return "nothing of it was kept visible; pull it again, and if it fails again the image itself is damaged"
}

// isContent tells whether an error is about what the bytes say, rather than about the disk or the end of
// ctx, after which every error is only its echo. What the kernel refused to do for a layer is about both.
func isContent(ctx context.Context, err error) bool {
	var errno syscall.Errno
	return ctx.Err() == nil && (!errors.As(err, &errno) || errdefs.IsInvalidArgument(err))
}

// contentError makes a ContentError of an error of reading or unpacking a layer, unless it is another's
// fault. What this program cannot read is not damaged.
func contentError(ctx context.Context, err error) error {
	if isContent(ctx, err) && !errdefs.IsNotImplemented(err) {
		return &ContentError{err}
	}
	return err
}

// blame makes a ContentError of an error that the bytes are to blame for.
func blame(ctx context.Context, err error) error {
	var already *ContentError
	switch {
	case err == nil || !isContent(ctx, err) || errors.As(err, &already):
	case errdefs.IsFailedPrecondition(err), errdefs.IsInvalidArgument(err), errors.Is(err, io.ErrUnexpectedEOF):
		return &ContentError{err}
	}
	return err
}
