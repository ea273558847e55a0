// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// stamp is the time of every file, so that the same input gives the same digests.
var stamp = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// entry is a file of a layer that no package brings.
type entry struct {
	path     string // without a leading slash
	mode     int64
	uid, gid int
	link     string // symlink to
	hard     string // hard link to
	data     string
	dir      bool
}

// layer writes what is below tree (which may be empty) and the entries to a gzipped tar file in work.
func layer(work, name, tree string, entries []entry) (v1.Layer, error) {
	path := filepath.Join(work, name+".tar.gz")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	if tree != "" {
		err = addTree(tw, tree)
	}
	for _, e := range entries {
		if err == nil {
			err = addEntry(tw, e)
		}
	}
	if err = errors.Join(err, tw.Close(), zw.Close(), f.Close()); err != nil {
		return nil, fmt.Errorf("layer %s: %w", name, err)
	}
	return tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
}

func addEntry(tw *tar.Writer, e entry) error {
	h := &tar.Header{Name: e.path, Mode: e.mode, Uid: e.uid, Gid: e.gid, ModTime: stamp, Typeflag: tar.TypeReg, Size: int64(len(e.data))}
	switch {
	case e.dir:
		h.Typeflag, h.Name = tar.TypeDir, e.path+"/"
	case e.link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
	case e.hard != "":
		h.Typeflag, h.Linkname = tar.TypeLink, e.hard
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(tw, e.data)
	return err
}

// addTree adds all below a directory in a stable order, hard links as such.
func addTree(tw *tar.Writer, tree string) error {
	seen := map[uint64]string{}
	return filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(path, tree+"/")
		if d.IsDir() {
			h.Name += "/"
		}
		h.ModTime, h.AccessTime, h.ChangeTime = stamp, time.Time{}, time.Time{}
		h.Uname, h.Gname, h.Format = "", "", tar.FormatPAX
		st := info.Sys().(*syscall.Stat_t)
		if first := seen[st.Ino]; first != "" && info.Mode().IsRegular() {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return tw.WriteHeader(h)
		}
		seen[st.Ino] = h.Name
		if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(tw, bytes.NewReader(data))
		return err
	})
}
