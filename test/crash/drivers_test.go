// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/test/world"
)

// drivers are the scenarios in which a snapshotter does most, with each that is not the default.
func drivers() (all []scenario) {
	runs := do("ctr-task run --rm " + small + " true")
	names := []string{"pull", "pull with one layer present", "image import", "image commit", "image mount", "image rm", "create", "run --rm", "rm", "snap prepare", "snap view", "snap commit", "snap rm", "collection of what the dead held"}
	for _, driver := range []string{"native", "btrfs", "erofs", "proxy"} {
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
	if s.driver == "proxy" {
		config, err := snapshotServer()
		if err != nil {
			t.Fatal(err)
		}
		w.Env = append(w.Env, "CTRD_CONFIG="+config)
	}
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

// btrfsDisk mounts a disk that all worlds share, below bin.
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

// served is the server of snapshots that all worlds share, which nobody kills.
var served *exec.Cmd

// snapshotServer starts a server of containerd's snapshots API, with a root of its own below bin, and gives a configuration by
// which its snapshotter is called proxy. endServer ends it.
var snapshotServer = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(bin, "served")
	config, socket := filepath.Join(dir, "config.toml"), filepath.Join(dir, "sock")
	text := fmt.Sprintf("[proxy_plugins.proxy]\ntype = \"snapshot\"\naddress = %q\nsnapshotter = \"overlayfs\"\n", socket)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(config, []byte(text), 0o600)); err != nil {
		return "", err
	}
	served = shared.Command(context.Background(), nil, "ctrd", "serve", "--config", "/dev/null", "--address", socket, "--cri-address", socket+".cri")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", err
	}
	defer log.Close()
	served.Stdout, served.Stderr = log, log
	if err := served.Start(); err != nil {
		return "", err
	}
	for range 200 {
		if c, err := net.Dial("unix", socket); err == nil {
			return config, c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", errors.New("the server of snapshots does not answer")
})

// endServer ends the server of snapshots. What the scenarios have left there is an error: each removes all that it has made.
func endServer() error {
	if served == nil {
		return nil
	}
	list := shared.Command(context.Background(), []string{"CTRD_CONFIG=/dev/null"}, "ctr-snap", "-n", "ctrd", "ls", "-q")
	left, err := list.CombinedOutput()
	served.Process.Signal(unix.SIGTERM)
	served.Wait() // what it says of its end is of no interest
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left with the server of snapshots:\n%s", left)
	}
	return err
}
