// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// over opens files of a container as its programs see them: what the mounts, in their order, put over the
// image goes before the image's. Of a bind mount the host's file is opened, which is to be a regular one: a
// FIFO or a directory is an error at once. Links within a mounted directory are followed inside it alone.
func over(mounts []specs.Mount, image Opener) Opener {
	return func(name string) (io.ReadCloser, error) {
		var top *specs.Mount
		for i, m := range mounts {
			if name == m.Destination || strings.HasPrefix(name, strings.TrimSuffix(m.Destination, "/")+"/") {
				top = &mounts[i]
			}
		}
		switch {
		case top == nil && image == nil:
			return nil, fs.ErrNotExist
		case top == nil:
			return image(name)
		case top.Type != "bind":
			return nil, fs.ErrNotExist // it begins empty
		}
		f, err := openBound(top.Source, strings.TrimPrefix(name[len(top.Destination):], "/"))
		if err != nil {
			return nil, &fs.PathError{Op: "open as mounted", Path: name, Err: errOnly(err)}
		}
		return f, nil
	}
}

// openBound opens a regular file: source itself, or rest below it.
func openBound(source, rest string) (f *os.File, err error) {
	if rest == "" {
		f, err = os.OpenFile(source, os.O_RDONLY|unix.O_NONBLOCK, 0)
	} else {
		var root *os.Root
		if root, err = os.OpenRoot(source); err != nil {
			return nil, err
		}
		defer root.Close()
		f, err = root.OpenFile(rest, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = notRegular(kindOf(st.Mode))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// seen is over for volumes that are not in a specification yet. An anonymous one begins with what the image has there.
func seen(volumes []Volume, image Opener) Opener {
	var mounts []specs.Mount
	for _, v := range sorted(volumes) {
		if !v.Anonymous {
			mounts = append(mounts, v.Mount)
		}
	}
	return over(mounts, image)
}
