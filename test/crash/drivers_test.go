// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/test/world"
)

// drivers are the scenarios in which a snapshotter does most, with each that is not the default.
func drivers() (all []scenario) {
	runs := do("ctr-task run --rm " + small + " true")
	names := []string{"pull", "pull with one layer present", "image commit", "image mount", "image rm", "create", "run --rm", "rm", "snap prepare", "snap view", "snap commit", "snap rm"}
	for _, driver := range []string{"btrfs", "erofs"} {
		for _, s := range concat(pulls(runs), creates(runs), runsOf(), removals(), snapshots()) {
			if slices.Contains(names, s.name) {
				s.name, s.driver = driver+" "+s.name, driver
				s.only = []string{"snapshot.", "pull.", "gc.", "commit.", "task.staged", "task.recorded", "task.removed", "task.image", "engine.", "state.after"}
				all = append(all, s)
			}
		}
	}
	return all
}

// world makes a world for the scenario, on a file system that its driver can work on.
func (s scenario) world(t *testing.T) *world.World {
	w := world.New(t, bin)
	if s.driver == "" {
		return w
	}
	w.Env = []string{"CTRD_SNAPSHOTTER=" + s.driver}
	if s.driver == "btrfs" {
		at, err := btrfsDisk()
		if err != nil {
			t.Skip(err)
		}
		w.Root = filepath.Join(at, filepath.Base(w.Dir))
		t.Cleanup(func() { os.RemoveAll(w.Root) })
	}
	return w
}

// btrfsDisk mounts a disk that all worlds share, below bin. unmountDisk unmounts it.
var btrfsDisk = sync.OnceValues(func() (string, error) {
	disk, at := filepath.Join(bin, "disk"), filepath.Join(bin, "btrfs")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 8<<30), os.Mkdir(at, 0o755)); err != nil {
		return "", err
	}
	for _, cmd := range [][]string{{"mkfs.btrfs", "-q", disk}, {"mount", "-o", "loop", disk, at}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			return "", errors.Join(errors.New(string(out)), err)
		}
	}
	return at, nil
})

func unmountDisk() { unix.Unmount(filepath.Join(bin, "btrfs"), unix.MNT_DETACH) }
