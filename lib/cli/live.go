// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Images completes the names of images as Familiar writes them, or in full where the typed beginning is
// of that form; each with how long ago it came.
func Images(g *Global) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return Names(g, func(tx *state.Tx, ns string) iter.Seq2[string, string] {
			return func(yield func(string, string) bool) {
				for i, err := range image.All(tx, ns) {
					name := image.Familiar(i.Name)
					if !strings.HasPrefix(name, typed) && strings.HasPrefix(i.Name, typed) {
						name = i.Name
					}
					if err == nil && !yield(name, "image, "+units.HumanDuration(time.Since(i.Created))+" old") {
						return
					}
				}
			}
		})(cmd, args, typed)
	}
}

// Containers completes the ids of containers, each with its image and what it is doing.
func Containers(g *Global) cobra.CompletionFunc {
	return Names(g, containers(func(string) bool { return true }))
}

// restarting is what completion says of a container that waits for its next restart.
const restarting = "restarting"

// Tasks completes the ids of the containers that are running or about to be restarted, each with its image.
func Tasks(g *Global) cobra.CompletionFunc {
	return Names(g, containers(func(status string) bool { return status == string(taskdir.Running) || status == restarting }))
}

func containers(want func(status string) bool) func(*state.Tx, string) iter.Seq2[string, string] {
	return func(tx *state.Tx, ns string) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			for c, err := range container.All(tx, ns) {
				if err != nil {
					continue
				}
				status := glance(tx.Dir().Run("tasks", ns, c.ID))
				if want(status) && !yield(c.ID, image.Familiar(c.Image)+", "+status) {
					return
				}
			}
		}
	}
}

// glance sees from the files of a container's task what it is doing.
func glance(base string) string {
	inc, err := taskdir.Current(base)
	if err != nil || inc == "" {
		return string(taskdir.Created)
	}
	v, err := taskdir.Look(filepath.Join(base, string(inc)))
	if err != nil || v.State == taskdir.None {
		return string(taskdir.Created)
	}
	if v.Restarting {
		return restarting
	}
	return string(v.State)
}

// Namespaces completes the namespaces that there are, and the default one.
func Namespaces(g *Global) cobra.CompletionFunc {
	return Names(g, func(tx *state.Tx, _ string) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			found := map[string]bool{DefaultNamespace: true}
			for n := range namespace.All(tx) {
				if n.Name != "" {
					found[n.Name] = true
				}
			}
			for _, n := range slices.Sorted(maps.Keys(found)) {
				if !yield(n, "namespace") {
					return
				}
			}
		}
	})
}

func checkNamespace(ns string) error {
	if err := container.CheckID(ns); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	return nil
}

// Blobs completes the digests of blobs, each with its size.
func Blobs(g *Global) cobra.CompletionFunc {
	return Names(g, func(tx *state.Tx, ns string) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			for b, err := range content.All(tx, ns) {
				if err == nil && !yield(b.Digest.String(), units.HumanSizeWithPrecision(float64(b.Size), 3)) {
					return
				}
			}
		}
	})
}

// Leases completes the ids of lease records, each with its age.
func Leases(g *Global) cobra.CompletionFunc {
	return Names(g, func(tx *state.Tx, ns string) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			for l, err := range lease.All(tx, ns) {
				if err == nil && !yield(l.ID, "lease, "+units.HumanDuration(time.Since(l.Created))+" old") {
					return
				}
			}
		}
	})
}

// Snapshots completes the keys of snapshots, each with its kind and parent.
func Snapshots(g *Global) cobra.CompletionFunc {
	return Names(g, func(tx *state.Tx, ns string) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			for s, err := range snapshot.All(tx, ns) {
				text := string(s.Kind)
				if s.Parent != "" {
					text += " on " + s.Parent
				}
				if err == nil && !yield(s.Key, text) {
					return
				}
			}
		}
	})
}
