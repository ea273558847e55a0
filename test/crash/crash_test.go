// SPDX-License-Identifier: Apache-2.0

// Package crash kills the commands and their supervisors: at every named crash point, at random moments,
// and while others hold the locks. As root, on a real kernel, with a real registry.
package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"ctrd.dev/ctrd/test/world"
)

var (
	top      string
	shared   *world.World // has bin, and what else the worlds of scenarios have in common
	bin      string       // the commands, with their crash points
	registry string       // address of the real registry
	small    string       // an image of one layer: busybox
	large    string       // an image of three layers: redis
	second   string       // an image of two layers, the first of which is that of small
	exported string       // where ctr-image export writes to
)

func TestMain(m *testing.M) {
	end := func() error { return nil }
	status := world.Main(m, func(s world.Site) (err error) {
		top, registry = s.Top, s.Registry
		small, large, second = registry+"/busybox:1", registry+"/redis:7", registry+"/multi:1"
		if shared, end, err = world.Shared(); err != nil {
			return err
		}
		bin = shared.Dir
		exported = filepath.Join(bin, "exported")
		if err := errors.Join(os.Chmod(bin, 0o755), world.Build(top, bin, "crashpoints")); err != nil {
			return err
		}
		return errors.Join(buildClients(), layOut(filepath.Join(bin, "layout"), registry+"/busybox:1"))
	})
	if err := errors.Join(endServer(), end()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// buildClients builds clients of the content store and of the mount manager, with their crash points: no command of ours is one.
func buildClients() error {
	build := exec.Command("go", "build", "-tags", "crashpoints", "-o", bin, "./putblob", "./mounts")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the clients: %w: %s", err, out)
	}
	return nil
}

// layOut makes an OCI image layout of an image of the registry.
func layOut(dir, image string) error {
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		return err
	}
	img, err := remote.Image(ref)
	if err != nil {
		return err
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return path.AppendImage(img)
}

// number reads a number from the environment.
func number[T int | uint64](variable string, otherwise T) T {
	n, err := strconv.ParseUint(os.Getenv(variable), 10, 63)
	if err != nil {
		return otherwise
	}
	return T(n)
}
