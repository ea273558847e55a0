// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
)

// ourShim is the name of our shim's program; containerd's are called shimPrefix-NAME-VERSION.
const (
	ourShim    = "ctr-shim"
	shimPrefix = "containerd-shim-"
	// runcShim is containerd's default. Where its program is not installed, and for a container that has a restart policy, which that
	// does not keep, ctr-shim serves: it speaks the same protocol and takes the same options.
	runcShim = "io.containerd.runc.v2"
)

// runtime is what runs a container: a shim, and with ours perhaps another engine than the one that it embeds.
type runtime struct {
	shim    string // path of the program
	init    string // path of ctr-shim, which is also the init of containers that want one; empty: it is not there
	engine  string // name or path of an OCI engine; empty: the embedded one
	foreign bool   // the shim is not ours
}

// findRuntime finds what a container's record names, in the forms that container.CheckRuntime admits. What is not
// there is errdefs.ErrNotFound. shim, if not empty, is the path of ctr-shim.
func findRuntime(name, shim string) (r runtime, err error) {
	r.init = shim
	var missing error
	if shim == "" {
		r.init, missing = Beside(ourShim)
	}
	base := path.Base(name)
	switch {
	case name == runcShim:
		if r.shim, err = Beside(shimProgram(name)); err == nil {
			r.foreign = true
			return r, nil
		}
	case name == "" || name == "ctr" || name == container.DefaultRuntime:
	case path.IsAbs(name) && (base == ourShim || strings.HasPrefix(base, shimPrefix)):
		if err := executable(name); err != nil {
			return r, fmt.Errorf("runtime %q: %w", name, err)
		}
		r.shim, r.foreign = name, base != ourShim
		return r, nil
	case path.IsAbs(name):
		if err := executable(name); err != nil {
			return r, fmt.Errorf("runtime %q: %w", name, err)
		}
		r.engine = name
	case strings.Contains(name, "."):
		if r.shim, err = Beside(shimProgram(name)); err != nil {
			return r, fmt.Errorf("runtime %q: %w", name, err)
		}
		r.foreign = true
		return r, nil
	default:
		if _, err := exec.LookPath(name); err != nil {
			return r, fmt.Errorf("runtime %q: no such program on PATH (%s): %w", name, os.Getenv("PATH"), errdefs.ErrNotFound)
		}
		r.engine = name
	}
	r.shim = r.init
	return r, missing
}

// shimProgram is containerd's naming rule: io.containerd.NAME.vN is containerd-shim-NAME-vN.
func shimProgram(name string) string {
	parts := strings.Split(name, ".")
	return shimPrefix + strings.Join(parts[len(parts)-2:], "-")
}

func executable(path string) error {
	st, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return fmt.Errorf("no such program: %w", errdefs.ErrNotFound)
	case err != nil:
		return err
	case st.IsDir() || st.Mode()&0o111 == 0:
		return fmt.Errorf("it is no program: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// Beside finds a program beside this one, or on PATH.
func Beside(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if executable(path) == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside %s nor on PATH (%s): %w", name, self, os.Getenv("PATH"), errdefs.ErrNotFound)
	}
	return filepath.Abs(path)
}
