// SPDX-License-Identifier: Apache-2.0

// Command gendocs makes the man pages and the completion scripts from what the built commands say of
// themselves.
//
//	gendocs BIN_DIR OUT_DIR
//
// It writes OUT_DIR/man and OUT_DIR/completions and removes pages there that no command has any more.
package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ctrd.dev/ctrd/lib/cli"
)

// The supervisor does not link lib/cli, to stay small; what it would say stands in a file.
//
//go:embed ctr-shim.json
var shim []byte

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: gendocs BIN_DIR OUT_DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func run(bin, out string) error {
	programs, err := filepath.Glob(filepath.Join(bin, "*"))
	if err != nil || len(programs) == 0 {
		return errors.Join(err, fmt.Errorf("no command in %s", bin))
	}
	files := map[string][]byte{}
	var all []cli.Description
	for _, p := range programs {
		d, err := describe(p)
		if err != nil {
			return err
		}
		all = append(all, d)
	}
	for i, d := range all {
		for name, text := range pages(d, all) {
			files["man/"+name] = []byte(text)
		}
		if d.Name == "ctr-shim" {
			continue
		}
		for shell, prefix := range map[string]string{"bash": "", "zsh": "_"} {
			script, err := exec.Command(programs[i], "__completion", shell).Output()
			if err != nil {
				return fmt.Errorf("%s __completion %s: %w", programs[i], shell, err)
			}
			files["completions/"+shell+"/"+prefix+d.Name] = script
		}
	}
	return write(out, files)
}

func describe(program string) (d cli.Description, err error) {
	data := shim
	if filepath.Base(program) != "ctr-shim" {
		if data, err = exec.Command(program, "__describe").Output(); err != nil {
			return d, fmt.Errorf("%s __describe: %w", program, err)
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("%s describes itself: %w", program, err)
	}
	if d.Name != filepath.Base(program) {
		return d, fmt.Errorf("%s calls itself %q", program, d.Name)
	}
	return d, nil
}

func write(out string, files map[string][]byte) error {
	for name, data := range files {
		path := filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	for _, pattern := range []string{"man/*.1", "completions/*/*"} {
		old, err := filepath.Glob(filepath.Join(out, pattern))
		if err != nil {
			return err
		}
		for _, path := range old {
			if _, ok := files[strings.TrimPrefix(path, filepath.Clean(out)+"/")]; !ok {
				if err := os.Remove(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
