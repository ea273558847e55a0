// SPDX-License-Identifier: Apache-2.0

package world

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Registry serves the images of scripts/mkimages from Debian's registry on loopback, until stop is
// called. top is the top of the source tree. The images are kept for the next run.
func Registry(top string) (address string, stop func(), err error) {
	program := filepath.Join(top, "build", "mkimages")
	build := exec.Command("go", "build", "-o", program, "./scripts/mkimages")
	build.Dir = top
	if out, err := build.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("build mkimages: %w: %s", err, out)
	}
	serve := exec.Command(program, "-dir", filepath.Join(top, "build", "images"))
	var errs strings.Builder
	serve.Stderr = &errs
	hold, err1 := serve.StdinPipe()
	out, err2 := serve.StdoutPipe()
	if err := errors.Join(err1, err2, serve.Start()); err != nil {
		return "", nil, fmt.Errorf("mkimages: %w", err)
	}
	stop = func() {
		hold.Close()
		serve.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("mkimages: %w: %s", err, errs.String())
	}
	return strings.TrimSpace(line), stop, nil
}

// Build builds the commands into bin, with build tags if there are any.
func Build(top, bin, tags string) error {
	cmd := exec.Command("make", "-s", "-C", top, "build", "BIN="+bin, "TAGS="+tags)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the commands: %w: %s", err, out)
	}
	return nil
}
