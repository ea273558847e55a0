// SPDX-License-Identifier: Apache-2.0

// Package crash kills the commands and their supervisors: at every named crash point, at random moments,
// and while others hold the locks. As root, on a real kernel, with a real registry.
package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"ctrd.dev/ctrd/test/world"
)

var (
	top      = "../.."
	bin      string // the commands, with their crash points
	registry string // address of the real registry
	small    string // an image of one layer: busybox
	large    string // an image of three layers: redis
	second   string // an image of two layers, the first of which is that of small
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "crash: not root, nothing is tested")
		os.Exit(0)
	}
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	if top, err = filepath.Abs(top); err != nil {
		return 1, err
	}
	if bin, err = os.MkdirTemp("", "ctrd-crash-bin-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(bin)
	if err := os.Chmod(bin, 0o755); err != nil {
		return 1, err
	}
	if err := world.Build(top, bin, "crashpoints"); err != nil {
		return 1, err
	}
	address, stop, err := world.Registry(top)
	if err != nil {
		return 1, err
	}
	defer stop()
	registry = address
	small, large, second = registry+"/busybox:1", registry+"/redis:7", registry+"/multi:1"
	return m.Run(), nil
}

// number reads a number from the environment.
func number[T int | uint64](variable string, otherwise T) T {
	n, err := strconv.ParseUint(os.Getenv(variable), 10, 63)
	if err != nil {
		return otherwise
	}
	return T(n)
}
