// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// space is what du prints of one part of the root or the state directory.
type space struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // on the disk
	Files int64  `json:"files"`
}

func duVerb(g *cli.Global) *cobra.Command {
	var raw bool
	table := cli.Table[space]{Columns: []cli.Column[space]{
		{Name: "name", Value: func(s space) string { return s.Name }, Help: "part of the root or, after state/, of the state directory"},
		{Name: "size", Value: func(s space) string {
			if raw {
				return strconv.FormatInt(s.Bytes, 10)
			}
			return units.BytesSize(float64(s.Bytes))
		}, Help: "on the disk", Right: true},
		{Name: "files", Value: func(s space) string { return strconv.FormatInt(s.Files, 10) }, Right: true},
	}}
	cmd := cli.New("du [OPTION]...", "show what takes how much space", cli.About{
		Long: "Adds up the space that each part of the root takes on the disk, and each part of the state directory, most of which is " +
			"memory: their names begin with state/. A file with several names counts once, and what is mounted somewhere does not count.",
		Stdout: "a part of the two directories a line, then the total",
		Examples: []cli.Example{
			{Note: "where has the disk gone", Text: "ctrd du"},
			{Note: "in bytes, for a script", Text: "ctrd du --bytes -o size,name"},
		},
		Exit: []int{cli.ExitNotFound},
	}, func(*cobra.Command, []string) error {
		d, err := g.OpenThere()
		if err != nil {
			return err
		}
		seen := map[[2]uint64]bool{}
		total := space{Name: "total"}
		var all []space
		for _, dir := range []struct {
			prefix string
			path   func(...string) string
			names  []string
		}{
			{"", d.Path, []string{"meta.db", "content/blobs", "content/ingest", "snapshots", "containers", "trash", "reserve"}},
			{"state/", d.Run, []string{"run.db", "tasks", "events", "leases", "locks", "trash", "reserve"}},
		} {
			for _, name := range dir.names {
				s, err := measure(dir.path(name), seen)
				if err != nil {
					return err
				}
				s.Name = dir.prefix + name
				all = append(all, s)
				total.Bytes += s.Bytes
				total.Files += s.Files
			}
		}
		return table.PrintAll(append(all, total))
	})
	cmd.Flags().BoolVarP(&raw, "bytes", "b", false, "print sizes as numbers of bytes")
	table.Flags(cmd)
	return cmd
}

// measure adds up a file or directory of one file system; what vanishes meanwhile counts nothing.
func measure(top string, seen map[[2]uint64]bool) (s space, err error) {
	var dev uint64
	err = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil || st.Nlink > 1 && seen[[2]uint64{st.Dev, st.Ino}] {
			return nil
		}
		if path == top {
			dev = st.Dev
		} else if st.Dev != dev && e.IsDir() {
			return filepath.SkipDir
		}
		seen[[2]uint64{st.Dev, st.Ino}] = true
		s.Bytes += st.Blocks * 512
		s.Files++
		return nil
	})
	return s, err
}

// summary is what status prints.
type summary struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func statusVerb(g *cli.Global) *cobra.Command {
	table := cli.Table[summary]{Columns: []cli.Column[summary]{
		{Name: "name", Value: func(s summary) string { return s.Name }},
		{Name: "value", Value: func(s summary) string { return s.Value }},
	}}
	cmd := cli.New("status [OPTION]...", "show what the state directory holds", cli.About{
		Long:     "Counts what is kept, in all namespaces, and says where.",
		Stdout:   "a name and a value a line",
		Examples: []cli.Example{{Note: "an overview", Text: "ctrd status"}, {Note: "one value", Text: "ctrd status | awk '$1 == \"running\" { print $2 }'"}},
		Exit:     []int{cli.ExitNotFound, cli.ExitCorrupt},
	}, func(cmd *cobra.Command, _ []string) error {
		d, err := g.OpenThere()
		if err != nil {
			return err
		}
		rows := []summary{{"version", cli.Version}, {"root", d.Path()}, {"state", d.Run()}}
		count := map[string]int{}
		var spaces []string
		err = d.View(cmd.Context(), func(tx *state.Tx) error {
			for kind, n := range map[string]func(*state.Tx) (int, error){
				"images":     counter(image.Namespaces, image.All),
				"containers": counter(container.Namespaces, container.All),
				"snapshots":  counter(snapshot.Namespaces, snapshot.All),
				"blobs":      counter(content.Namespaces, content.All),
			} {
				if count[kind], err = n(tx); err != nil {
					return err
				}
			}
			spaces, err = container.Namespaces(tx)
			return err
		})
		if err != nil {
			return err
		}
		for _, kind := range []string{"images", "blobs", "snapshots", "containers"} {
			rows = append(rows, summary{kind, strconv.Itoa(count[kind])})
		}
		running := 0
		for _, ns := range spaces {
			infos, err := task.All(cmd.Context(), d, ns)
			if err != nil {
				return err
			}
			for _, i := range infos {
				if i.Status == task.Running || i.Status == task.Paused {
					running++
				}
			}
		}
		last, err := d.Journal().Last()
		if err != nil {
			return err
		}
		locks, err := d.Locks().All()
		if err != nil {
			return err
		}
		rows = append(rows, summary{"running", strconv.Itoa(running)}, summary{"events", strconv.FormatUint(last, 10)}, summary{"locks", strconv.Itoa(len(locks))})
		return table.PrintAll(rows)
	})
	table.Flags(cmd)
	return cmd
}
