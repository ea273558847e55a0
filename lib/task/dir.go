// SPDX-License-Identifier: Apache-2.0

package task

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"os"
	"path/filepath"

	"ctrd.dev/ctrd/lib/state"
)

// Dir is the directory of a task; it need not exist.
func Dir(d *state.Dir, ns, id string) string { return d.Run("tasks", ns, id) }

// LogPath is the output log of a container.
func LogPath(d *state.Dir, ns, id string) string { return d.Path("containers", ns, id, "log") }

// cgroupPath names the cgroup of a container. It is flat: a parent that containers share could be
// removed by one while another is made in it. Another state directory than the usual one marks its
// cgroups, so that two of them never meet.
func cgroupPath(d *state.Dir, parent, ns, id string) string {
	mark := ""
	if d.Run() != state.DefaultState {
		h := sha256.Sum256([]byte(d.Run()))
		mark = "-" + hex.EncodeToString(h[:3])
	}
	return filepath.Join("/", parent, "ctrd"+mark+"--"+ns+"--"+id)
}

// Dirs yields namespace/id of every task directory.
func Dirs(d *state.Dir) iter.Seq2[string, error] { return twoLevels(d.Run("tasks")) }

// LogDirs yields namespace/id of every container's log directory.
func LogDirs(d *state.Dir) iter.Seq2[string, error] { return twoLevels(d.Path("containers")) }

// twoLevels yields the names a/b below a directory, which may be missing.
func twoLevels(dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		outer, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			yield("", err)
			return
		}
		for _, o := range outer {
			inner, err := os.ReadDir(filepath.Join(dir, o.Name()))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				yield("", err)
				return
			}
			for _, i := range inner {
				if !yield(o.Name()+"/"+i.Name(), nil) {
					return
				}
			}
		}
	}
}
