// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/cli"
)

// newFile is a file that an option names and that must not exist: it appears whole or not at all.
type newFile struct {
	option, path string
	temp         *os.File
}

type newFileList []newFile

// newFiles sees to it that the files can be written; each is an option and its value, empty ones are left out.
func newFiles(options ...[2]string) (list newFileList, err error) {
	for _, o := range options {
		f := newFile{option: o[0], path: o[1]}
		if f.path != "" {
			if _, err := os.Lstat(f.path); err == nil {
				list.discard()
				return nil, cli.Hint(fmt.Errorf("%s: %s: %w", f.option, f.path, errdefs.ErrAlreadyExists), "it may be of another container: remove the file when that is gone")
			}
			if f.temp, err = os.CreateTemp(filepath.Dir(f.path), ".ctr-task-"); err != nil {
				list.discard()
				var path *os.PathError
				if errors.As(err, &path) {
					err = path.Err
				}
				return nil, fmt.Errorf("%s: %s: %w", f.option, f.path, err)
			}
		}
		list = append(list, f)
	}
	return list, nil
}

// write puts the files in place, with a text and a line break each.
func (l newFileList) write(texts ...string) error {
	for i, f := range l {
		if f.temp == nil {
			continue
		}
		_, err := f.temp.WriteString(texts[i] + "\n")
		if err == nil {
			err = f.temp.Chmod(0o644)
		}
		if err == nil {
			err = os.Link(f.temp.Name(), f.path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.option, err)
		}
	}
	return nil
}

// discard removes what is not in place.
func (l newFileList) discard() {
	for _, f := range l {
		if f.temp != nil {
			f.temp.Close()
			os.Remove(f.temp.Name())
		}
	}
}
