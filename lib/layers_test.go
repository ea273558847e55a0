// SPDX-License-Identifier: Apache-2.0

// Package lib_test holds the floors of the library.
package lib_test

import (
	"encoding/json"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "ctrd.dev/ctrd/"

// floors lists the packages of each floor, the lowest first. A package imports only from floors below
// its own and from its own floor; a package that stands nowhere fails the test.
var floors = []struct {
	name     string
	packages []string
}{
	{"tools", []string{"btrfs", "cdi", "cgroup", "config", "crash", "diff", "engine", "erofs", "filter", "footprint", "label", "layer", "lock", "mount", "netns", "network", "pid1", "progress", "reference", "registry", "shim", "smallfile", "snapshotapi", "spec", "stdio", "tail", "taskapi", "taskdir", "unixsocket", "verity"}},
	{"kept", []string{"activation", "container", "content", "event", "image", "lease", "namespace", "sandbox", "snapshot", "state"}},
	{"deeds", []string{"account", "archive", "checkpoint", "commit", "fsck", "gc", "pod", "prune", "pull", "push", "task"}},
	{"doors", []string{"cli", "cri", "manifest", "native", "nri"}},
}

// toolsThatPublish may import the event journal: the supervisor writes what it sees.
var exceptions = map[string][]string{"shim": {"event"}}

// only lists imports that belong to few packages; a name that ends in / stands for all below it.
var only = map[string][]string{
	"go.etcd.io/bbolt": {"state"},
	"net/http":         {"cri", "manifest", "registry"},
	"regexp":           {"container", "filter", "manifest"},
	"text/template":    {"cli"}, // lib/cli/format, not to execute: methods found by name keep all methods of a program
	"html/template":    {},
	"github.com/google/go-containerregistry/": {"registry"},
	"github.com/opencontainers/runc/":         {"engine"},
	"github.com/containerd/go-runc":           {"engine"},
	"github.com/checkpoint-restore/":          {},         // see ARCHITECTURE.md, "Why our own RPC with criu?"
	"github.com/coreos/go-systemd/v22/dbus":   {"cgroup"}, // lib/cgroup/scope
	"github.com/godbus/":                      {"cgroup"},
	"google.golang.org/grpc/":                 {"cri", "manifest", "native"},
	"github.com/containerd/ttrpc":             {"native"},
	"github.com/containerd/containerd/":       {"native"},
	"github.com/containerd/nri/":              {"nri"},
	"k8s.io/":                                 {"cri", "manifest"},
	"github.com/containernetworking/":         {"network"},
	"github.com/spf13/cobra":                  {"cli"},
	"tags.cncf.io/":                           {"cdi"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports", "-tags", "seccomp"}, patterns...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func floorOf(name string) int {
	for i, f := range floors {
		if slices.Contains(f.packages, name) {
			return i
		}
	}
	return -1
}

// wrong lists what is against the rules in one package's imports.
func wrong(p pkg) []string {
	name, ok := strings.CutPrefix(p.ImportPath, module+"lib/")
	if !ok {
		return nil
	}
	name, _, _ = strings.Cut(name, "/")
	floor := floorOf(name)
	if floor < 0 {
		return []string{name + " stands on no floor; add it to the table"}
	}
	var bad []string
	for _, imp := range p.Imports {
		if dep, ok := strings.CutPrefix(imp, module+"lib/"); ok {
			dep, _, _ = strings.Cut(dep, "/")
			if floorOf(dep) > floor && !slices.Contains(exceptions[name], dep) {
				bad = append(bad, name+" ("+floors[floor].name+") imports "+dep+" of a floor above")
			}
			continue
		}
		for rule, allowed := range only {
			if imp == strings.TrimSuffix(rule, "/") || strings.HasSuffix(rule, "/") && strings.HasPrefix(imp, rule) {
				if !slices.Contains(allowed, name) {
					bad = append(bad, name+" imports "+imp+", which belongs to "+strings.Join(append(allowed, "nobody")[:max(1, len(allowed))], ", "))
				}
			}
		}
	}
	return bad
}

func TestFloors(t *testing.T) {
	for _, p := range list(t, "ctrd.dev/ctrd/lib/...") {
		for _, w := range wrong(p) {
			t.Error(w)
		}
	}
}

// TestFloorsFail shows that the rules bite.
func TestFloorsFail(t *testing.T) {
	for _, p := range []pkg{
		{module + "lib/lock", []string{module + "lib/state"}},
		{module + "lib/content", []string{module + "lib/pull"}},
		{module + "lib/task", []string{module + "lib/cli"}},
		{module + "lib/image", []string{"go.etcd.io/bbolt"}},
		{module + "lib/state", []string{"net/http"}},
		{module + "lib/taskapi", []string{"google.golang.org/grpc/codes"}},
		{module + "lib/nowhere", nil},
	} {
		if len(wrong(p)) == 0 {
			t.Errorf("%s importing %v is allowed", path.Base(p.ImportPath), p.Imports)
		}
	}
}

// TestNoContainerd: the product never links containerd itself, only what it publishes for clients.
func TestNoContainerd(t *testing.T) {
	for _, p := range list(t, "-deps", "ctrd.dev/ctrd/cmd/...") {
		if strings.HasPrefix(p.ImportPath, "github.com/containerd/containerd/v2") {
			t.Errorf("%s is linked into a command", p.ImportPath)
		}
	}
}
