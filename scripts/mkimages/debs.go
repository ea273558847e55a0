// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// download puts packages of Debian into dir and unpacks each into dir/PACKAGE. Nothing is installed.
func download(ctx context.Context, dir string, packages []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	get := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)...)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download %s: %w: %s", strings.Join(packages, " "), err, lastLine(out))
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		pkg, _, _ := strings.Cut(filepath.Base(deb), "_")
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, filepath.Join(dir, pkg)).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb -x %s: %w: %s", deb, err, lastLine(out))
		}
	}
	return nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// libraries finds the library packages that packages need, themselves excluded, in order.
func libraries(ctx context.Context, packages []string) ([]string, error) {
	if _, err := depends(ctx, packages); err != nil { // no package lists yet, or old ones
		if out, err := exec.CommandContext(ctx, "apt-get", "update", "-qq").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("apt-get update: %w: %s", err, lastLine(out))
		}
	}
	found := map[string]bool{}
	for next := packages; len(next) > 0; {
		deps, err := depends(ctx, next)
		if err != nil {
			return nil, err
		}
		next = nil
		for _, d := range deps {
			if isLibrary(d) && !found[d] && !slices.Contains(packages, d) {
				found[d] = true
				next = append(next, d)
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

func isLibrary(pkg string) bool { return strings.HasPrefix(pkg, "lib") || pkg == "zlib1g" }

// depends lists what packages depend on directly, the first of alternatives.
func depends(ctx context.Context, packages []string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", append([]string{"show", "--no-all-versions"}, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("apt-cache show %s: %w", strings.Join(packages, " "), err)
	}
	var all []string
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		list, ok := strings.CutPrefix(sc.Text(), "Depends: ")
		if !ok {
			if list, ok = strings.CutPrefix(sc.Text(), "Pre-Depends: "); !ok {
				continue
			}
		}
		for d := range strings.SplitSeq(list, ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(d), " ")
			name, _, _ = strings.Cut(name, ":")
			all = append(all, name)
		}
	}
	return all, nil
}

// needed tells which of the unpacked library packages in dir the programs use, through other libraries
// too. A library that none has is an error.
func needed(dir string, packages, libs []string) ([]string, error) {
	owner := map[string]string{} // soname -> package
	imports := map[string][]string{}
	for _, pkg := range append(slices.Clone(packages), libs...) {
		err := filepath.WalkDir(filepath.Join(dir, pkg), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if strings.Contains(d.Name(), ".so") {
				owner[d.Name()] = pkg
			}
			if d.Type().IsRegular() {
				if f, err := elf.Open(path); err == nil {
					names, _ := f.ImportedLibraries()
					imports[pkg] = append(imports[pkg], names...)
					f.Close()
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	used := map[string]bool{"libc6": true}
	for next := append(slices.Clone(packages), "libc6"); len(next) > 0; next = next[1:] {
		for _, so := range imports[next[0]] {
			pkg, ok := owner[so]
			if !ok {
				return nil, fmt.Errorf("package %s needs %s, which none of %v has", next[0], so, libs)
			}
			if !used[pkg] && !slices.Contains(packages, pkg) {
				used[pkg] = true
				next = append(next, pkg)
			}
		}
	}
	return slices.Sorted(maps.Keys(used)), nil
}

// merge moves the trees of packages into one.
func merge(dir string, packages []string, tree string) error {
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	for _, pkg := range packages {
		if out, err := exec.Command("cp", "-a", filepath.Join(dir, pkg)+"/.", tree).CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, lastLine(out))
		}
	}
	return nil
}
