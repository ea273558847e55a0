// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

func blobTable() cli.Table[content.Blob] {
	return cli.Table[content.Blob]{Columns: []cli.Column[content.Blob]{
		{Name: "digest", Value: func(b content.Blob) string { return b.Digest.String() }},
		{Name: "size", Value: func(b content.Blob) string { return strconv.FormatInt(b.Size, 10) }, Help: "bytes", Right: true},
		{Name: "updated", Value: func(b content.Blob) string { return b.Updated.Format(time.RFC3339) }, Help: "when its record was changed"},
		{Name: "created", Value: func(b content.Blob) string { return b.Created.Format(time.RFC3339) }, Help: "when the namespace got it", Hidden: true},
		{Name: "labels", Value: func(b content.Blob) string { return cli.LabelText(b.Labels) }, Help: "key=value, separated by commas", Hidden: true},
	}}
}

func blobLsVerb(g *cli.Global) *cobra.Command {
	var filtered func() (filter.Filter, error)
	table := blobTable()
	cmd := cli.New("ls [OPTION]...", "list blobs", cli.About{
		Long:   "Lists the blobs of the namespace by digest. No lock is taken.\n\n" + cli.FilterHelp(filter.ContentFields),
		Stdout: "a blob a line",
		Examples: []cli.Example{
			{Note: "list blobs that nothing but their own label keeps", Text: "ctr-image blob ls --filter 'labels.\"" + label.Root + "\"'"},
			{Note: "the largest", Text: "ctr-image blob ls -o size,digest | sort -n | tail -1"},
		},
		Exit: []int{cli.ExitCorrupt},
	}, func(cmd *cobra.Command, _ []string) error {
		f, err := filtered()
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		var all []content.Blob
		err = d.View(cmd.Context(), func(tx *state.Tx) error {
			all, err = filter.Select(f, content.All(tx, g.Namespace), func(b content.Blob) filter.Fields {
				return filter.Content(b.Digest.String(), b.Size, b.Labels)
			}, func(b content.Blob) (content.Blob, error) { return b, nil })
			return err
		})
		if err != nil && !errdefs.IsDataLoss(err) {
			return err
		}
		return errors.Join(table.PrintAll(all), err)
	})
	filtered = cli.FilterOption(cmd, "blobs", filter.ContentFields)
	table.Flags(cmd)
	return cmd
}

func blobStatVerb(g *cli.Global) *cobra.Command {
	table := blobTable()
	cmd := cli.New("stat [OPTION]... BLOB...", "show the records of blobs", cli.About{
		Long:     "Prints the namespace's record of each blob as JSON: indented, or with --json one value a line.",
		Stdin:    digests,
		Stdout:   "a JSON value for each blob",
		Examples: []cli.Example{{Note: "see the labels of a blob", Text: "ctr-image blob stat -o labels 6f1a2b3c"}},
		Args:     cli.Count(1, -1), Complete: cli.Blobs(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-blob-label"},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		return table.Inspect(args, func(name string) (content.Blob, error) {
			return findBlob(cmd.Context(), d, g.Namespace, name)
		})
	})
	table.Flags(cmd)
	return cmd
}

func blobActiveVerb(g *cli.Global) *cobra.Command {
	var filtered func() (filter.Filter, error)
	table := cli.Table[content.Status]{Columns: []cli.Column[content.Status]{
		{Name: "ref", Value: func(s content.Status) string { return s.Ref }},
		{Name: "offset", Value: func(s content.Status) string { return strconv.FormatInt(s.Offset, 10) }, Help: "bytes that are here", Right: true},
		{Name: "total", Value: func(s content.Status) string {
			if s.Total == 0 {
				return ""
			}
			return strconv.FormatInt(s.Total, 10)
		}, Help: "bytes that are expected, if that is known", Right: true},
		{Name: "updated", Value: func(s content.Status) string { return units.HumanDuration(time.Since(s.Updated)) + " ago" }},
		{Name: "started", Value: func(s content.Status) string { return s.Started.Format(time.RFC3339) }, Hidden: true},
		{Name: "expected", Value: func(s content.Status) string { return s.Expected.String() }, Help: "the digest, if it is known", Hidden: true},
	}}
	cmd := cli.New("active [OPTION]...", "list blobs that are being written", cli.About{
		Long: "Lists the refs of the namespace under which blobs are being written or have been written in part, by ctr-image blob put " +
			"and by clients of containerd's API. What a pull has on its way is of no namespace, and not listed.\n\n" +
			cli.FilterHelp(filter.IngestFields),
		Stdout:   "a ref a line",
		Examples: []cli.Example{{Note: "throw away all that is unfinished", Text: "ctr-image blob active -q | ctr-image blob abort -"}},
		SeeAlso:  []string{"ctr-image-blob-put", "ctr-image-blob-abort"},
	}, func(*cobra.Command, []string) error {
		f, err := filtered()
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		all, err := filter.Select(f, content.Statuses(d, g.Namespace), func(s content.Status) filter.Fields {
			return filter.Ingest(s.Ref)
		}, func(s content.Status) (content.Status, error) { return s, nil })
		if err != nil && !errdefs.IsDataLoss(err) {
			return err
		}
		slices.SortFunc(all, func(a, b content.Status) int { return strings.Compare(a.Ref, b.Ref) })
		return errors.Join(table.PrintAll(all), err)
	})
	filtered = cli.FilterOption(cmd, "refs", filter.IngestFields)
	table.Flags(cmd)
	return cmd
}

func blobAbortVerb(g *cli.Global) *cobra.Command {
	return cli.New("abort REF...", "throw away what was written under refs", cli.About{
		Long:     "Throws away what has been written of blobs that are not whole. A command that is still writing fails when it has read all.",
		Stdin:    "with the operand -, refs, one a line",
		Examples: []cli.Example{{Note: "begin anew", Text: "ctr-image blob abort big"}},
		Args:     cli.Count(1, -1), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome},
		SeeAlso: []string{"ctr-image-blob-active"},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		return cli.Each(cli.Operands(args, os.Stdin), func(ref string) error {
			return content.Abort(cmd.Context(), d, g.Namespace, ref, "")
		})
	})
}
