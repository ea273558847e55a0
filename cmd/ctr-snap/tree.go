// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/snapshot"
)

// node is a snapshot in its place in the tree.
type node struct {
	snapshot.Info
	Depth int    `json:"depth"` // 0: it has no parent
	lines string // that join it to its parent
}

func treeVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[node]{Columns: []cli.Column[node]{
		{Name: "snapshot", Value: func(n node) string { return n.lines + n.Key }, Help: "its key, joined by lines to its parent's"},
		{Name: "kind", Value: func(n node) string { return string(n.Kind) }, Help: "active, view or committed"},
		{Name: "size", Value: func(n node) string { return size(n.Info) }, Help: "on the disk, without its parents; known of committed ones", Right: true},
		{Name: "key", Value: func(n node) string { return n.Key }, Help: "without lines", Hidden: true},
	}}
	cmd := cli.New("tree [OPTION]... [SNAPSHOT...]", "show which snapshots stand on which", cli.About{
		Long:  "Draws the snapshots of the namespace, each below the one it stands on; or only those that stand on the given ones.",
		Stdin: operands, Stdout: "a snapshot a line, parents before what stands on them",
		Examples: []cli.Example{
			{Note: "draw all", Text: "ctr-snap tree"},
			{Note: "list what stands on a layer, the last first, so that it can be removed in this order", Text: "ctr-snap tree -o key 3f1c2a9d0b77 | tac"},
		},
		Args: cli.Count(0, -1), Complete: cli.Snapshots(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-snap-ls"},
	}, func(cmd *cobra.Command, args []string) error {
		all, lost, err := list(cmd, g)
		if err != nil {
			return err
		}
		nodes := grow(all)
		if len(args) == 0 {
			return errors.Join(table.PrintAll(nodes), lost)
		}
		d, sn, err := open(cmd.Context(), g)
		if err != nil {
			return err
		}
		p, err := table.Printer(os.Stdout)
		if err != nil {
			return err
		}
		err = cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
			s, err := find(cmd.Context(), d, sn, g.Namespace, name)
			if err != nil {
				return err
			}
			return branch(nodes, s.Key, p.Add)
		})
		if e := p.Flush(); err == nil {
			err = e
		}
		return err
	})
	table.Flags(cmd)
	return cmd
}

// grow puts snapshots in the order of the tree. One whose parent is not there stands at the bottom.
func grow(all []snapshot.Info) []node {
	children, there := map[string][]snapshot.Info{}, map[string]bool{}
	for _, s := range all {
		there[s.Key] = true
	}
	for _, s := range all {
		parent := s.Parent
		if !there[parent] {
			parent = ""
		}
		children[parent] = append(children[parent], s)
	}
	nodes := make([]node, 0, len(all))
	var add func(parent, indent string, depth int)
	add = func(parent, indent string, depth int) {
		for i, s := range children[parent] {
			joint, below := "├─ ", "│  "
			if i == len(children[parent])-1 {
				joint, below = "└─ ", "   "
			}
			if depth == 0 {
				joint, below = "", ""
			}
			nodes = append(nodes, node{s, depth, indent + joint})
			add(s.Key, indent+below, depth+1)
		}
	}
	add("", "", 0)
	return nodes
}

// branch calls fn with a snapshot and all that stand on it, moved to the left.
func branch(nodes []node, key string, fn func(node) error) error {
	for i, n := range nodes {
		if n.Key != key {
			continue
		}
		cut := len([]rune(n.lines))
		for j, m := range nodes[i:] {
			if j > 0 && m.Depth <= n.Depth {
				break
			}
			m.lines = string([]rune(m.lines)[cut:])
			if err := fn(m); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("snapshot %q: %w", key, errdefs.ErrNotFound) // removed between two looks
}
