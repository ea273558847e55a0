// SPDX-License-Identifier: Apache-2.0

// Package crash kills the commands and their supervisors: at every named crash point, at random moments,
// and while others hold the locks. As root, on a real kernel, with a real registry.
package crash

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"ctrd.dev/ctrd/test/world"
)

var (
	top      string
	bin      string // the commands, with their crash points
	registry string // address of the real registry
	small    string // an image of one layer: busybox
	large    string // an image of three layers: redis
	second   string // an image of two layers, the first of which is that of small
)

func TestMain(m *testing.M) {
	status := world.Main(m, func(s world.Site) (err error) {
		top, registry = s.Top, s.Registry
		small, large, second = registry+"/busybox:1", registry+"/redis:7", registry+"/multi:1"
		if bin, err = os.MkdirTemp("", "ctrd-crash-bin-"); err != nil {
			return err
		}
		return errors.Join(os.Chmod(bin, 0o755), world.Build(top, bin, "crashpoints"))
	})
	os.RemoveAll(bin)
	os.Exit(status)
}

// number reads a number from the environment.
func number[T int | uint64](variable string, otherwise T) T {
	n, err := strconv.ParseUint(os.Getenv(variable), 10, 63)
	if err != nil {
		return otherwise
	}
	return T(n)
}
