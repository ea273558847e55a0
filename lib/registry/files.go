// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"

	"ctrd.dev/ctrd/lib/tail"
)

// The options that name a file, as the commands call them.
const (
	optionAuth = "--authfile"
	optionCA   = "--ca-file"
)

// maxFile bounds a file of credentials or certificates, in bytes.
const maxFile = 16 << 20

// Read reads the files that CAFile and AuthFile name, so that all repositories that are opened with the options use the
// same bytes. Either may be a pipe, which can be read once, or a FIFO, whose writer may come late. Without Read each
// [Open] reads them. A file that cannot be read is errdefs.ErrInvalidArgument.
func (o *Options) Read(ctx context.Context) (err error) {
	if o.AuthFile != "" {
		if o.auth, err = readFile(ctx, optionAuth, o.AuthFile); err != nil {
			return err
		}
	}
	if o.CAFile != "" {
		o.ca, err = readFile(ctx, optionCA, o.CAFile)
	}
	return err
}

func readFile(ctx context.Context, option, path string) ([]byte, error) {
	text, err := tail.ReadFile(ctx, path, maxFile)
	switch {
	case err == nil:
		return text, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s %q: %w", option, path, err)
	}
	return nil, badFile(option, path, err)
}
