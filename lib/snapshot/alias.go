// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/state"
)

// aliases is the directory of short names below the state directory.
const aliases = "l"

// minAlias is the length of a short name, in characters of five bits.
const minAlias = 10

// alias gives a tree a short name below the state directory, so that the lower directories of a deep overlay fit
// the page that mount(2) takes, also for a program that is given the mounts and knows no other way. A name is a
// symbolic link. It is derived from the path of the tree, and made longer when another tree has it.
func alias(d *state.Dir, tree string) (string, error) {
	sum := sha256.Sum256([]byte(tree))
	name := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
	for n := minAlias; n <= len(name); {
		link := d.Run(aliases, name[:n])
		to, err := os.Readlink(link)
		switch {
		case err == nil && to == tree:
			return link, nil
		case err == nil:
			n++
			continue
		case !errors.Is(err, os.ErrNotExist):
			return "", err
		}
		err = os.Symlink(tree, link)
		if errors.Is(err, os.ErrNotExist) {
			err = os.Mkdir(d.Run(aliases), 0o711)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("short name of %s: %w", tree, errdefs.ErrAlreadyExists)
}

// SweepAliases removes the short names of trees that are gone.
func SweepAliases(d *state.Dir) error {
	entries, err := os.ReadDir(d.Run(aliases))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("short names of snapshots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		link := d.Run(aliases, e.Name())
		if _, err := os.Stat(link); errors.Is(err, os.ErrNotExist) {
			if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
