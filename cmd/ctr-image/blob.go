// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/tail"
)

// digests is what the verbs say of digests on stdin.
const digests = "with the operand -, digests, one a line"

func blobVerb(g *cli.Global) *cobra.Command {
	blob := cli.Group("blob", "list, read, write and label blobs", cli.About{
		Long: "A blob is anything that has a digest: a layer, a manifest, a configuration. Its bytes are on the disk once; each " +
			"namespace has a record of its own of it, with labels.\n\n" +
			"A blob is named by its digest, or by the beginning of the digest's hexadecimal part, of six digits or more, where only one " +
			"begins so.",
		SeeAlso: []string{"ctrd-lease", "ctrd-gc"},
	})
	for _, verb := range []func(*cli.Global) *cobra.Command{blobAbortVerb, blobActiveVerb, blobCatVerb, blobLabelVerb, blobLsVerb, blobPutVerb, blobRmVerb, blobStatVerb} {
		blob.AddCommand(verb(g))
	}
	return blob
}

// findBlob gives the record that an operand means.
func findBlob(ctx context.Context, d *state.Dir, ns, query string) (b content.Blob, err error) {
	err = d.View(ctx, func(tx *state.Tx) (err error) {
		b, err = content.Find(tx, ns, query)
		return err
	})
	return b, err
}

func blobCatVerb(g *cli.Global) *cobra.Command {
	var offset, length int64
	cmd := cli.New("cat [OPTION]... BLOB...", "print blobs", cli.About{
		Long:   "Writes the bytes of each blob to stdout, or a part of them. They are not compared with the digest: ctrd fsck --deep does that.",
		Stdin:  digests,
		Stdout: "the bytes",
		Examples: []cli.Example{
			{Note: "read a manifest", Text: "ctr-image blob cat \"$(ctr-image ls -o target --filter 'name~=redis')\""},
			{Note: "look at the beginning of a layer", Text: "ctr-image blob cat --length 512 6f1a2b3c | xxd"},
		},
		Args: cli.Count(1, -1), Complete: cli.Blobs(g), Exit: []int{cli.ExitNotFound, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-inspect"},
	}, func(cmd *cobra.Command, args []string) error {
		if offset < 0 || length < 0 {
			return cli.Usagef("--offset and --length are numbers of bytes")
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("length") && length == 0 {
			return nil
		}
		return cli.Each(cli.Operands(args, os.Stdin), func(name string) (err error) {
			b, err := findBlob(cmd.Context(), d, g.Namespace, name)
			if err != nil {
				return err
			}
			r, err := content.OpenRange(cmd.Context(), d, g.Namespace, b.Digest, offset, length)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			_, err = io.Copy(tail.Writer(cmd.Context(), os.Stdout), r)
			return err
		})
	})
	cmd.Flags().Int64Var(&offset, "offset", 0, "begin at this `BYTE`")
	cmd.Flags().Int64Var(&length, "length", 0, "print at most this number of `BYTES`")
	return cmd
}

func blobPutVerb(g *cli.Global) *cobra.Command {
	var o content.WriterOptions
	var expected string
	var given []string
	cmd := cli.New("put [OPTION]... [FILE]", "store a file, or what stdin has, as a blob", cli.About{
		Long: "Reads a blob from FILE, or from stdin, stores it and prints its digest. A blob that is here already is no failure. Where another namespace " +
			"has the blob that --digest names, it is shared, and what is read is only compared with it.\n\n" +
			"With --ref, what was read before the command was interrupted is kept under that name, and a later put with the same --ref goes " +
			"on with it: what is there is compared with the beginning of what is read and not written again. One put at a time has a ref.\n\n" +
			"The blob gets the label " + label.Root + ", so that it stays until it is removed, unless --lease says how long it stays.",
		Stdin:  "the bytes of the blob, where FILE is not given or -",
		Stdout: "the digest",
		Examples: []cli.Example{
			{Note: "store a file", Text: "ctr-image blob put layer.tar.gz"},
			{Note: "store a file that may arrive in several tries", Text: "ctr-image blob put --ref big --digest sha256:9c2e... big.tar"},
		},
		Args: cli.Count(0, 1), Complete: cli.InTurn(files),
		Exit:    []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-blob-active", "ctrd-lease"},
	}, func(cmd *cobra.Command, args []string) error {
		from := os.Stdin
		if len(args) > 0 && args[0] != "-" {
			f, err := tail.Open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			from = f
		}
		labels, err := cli.ParseLabels(given)
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		o.Digest = digest.Digest(expected)
		if o.Lease == "" {
			label.Keep(labels)
		}
		resume := o.Ref != ""
		if !resume {
			o.Ref = "put-" + rand.Text()
		}
		dg, err := blobPut(cmd.Context(), d, g.Namespace, tail.Reader(cmd.Context(), from), o, labels, resume)
		if err != nil {
			return err
		}
		_, err = os.Stdout.WriteString(dg.String() + "\n")
		return err
	})
	f := cmd.Flags()
	f.StringVar(&o.Ref, "ref", "", "keep what was read under `NAME`, and go on with it")
	f.StringVar(&expected, "digest", "", "the blob must have this `DIGEST`, of sha256, sha384 or sha512")
	f.Int64Var(&o.Size, "size", 0, "the blob must have this number of `BYTES`")
	f.StringVar(&o.Lease, "lease", "", "let the lease `ID` hold the blob")
	f.StringArrayVar(&given, "label", nil, "set the label `KEY[=VALUE]` of the blob")
	cli.CompleteOption(cmd, "lease", cli.Leases(g))
	for _, name := range []string{"ref", "digest", "size", "label"} {
		cli.CompleteOption(cmd, name, cobra.NoFileCompletions)
	}
	return cmd
}

// files completes names of files.
func files(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// blobPut stores what from has. Where the blob is here already it gets the labels, too: what keeps it now may not keep it for long.
func blobPut(ctx context.Context, d *state.Dir, ns string, from io.Reader, o content.WriterOptions, labels map[string]string, resume bool) (dg digest.Digest, err error) {
	l, err := lease.Take(d)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if o.Digest != "" {
		if err := l.Hold(ctx, nil, lease.Content, o.Digest.String()); err != nil {
			return "", err
		}
	}
	w, err := content.OpenWriter(ctx, d, ns, o)
	if errdefs.IsAlreadyExists(err) {
		return o.Digest, labelBlob(ctx, d, ns, o.Digest, labels)
	}
	if err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, w.Close())
		if err != nil && !resume {
			if aerr := content.Abort(context.WithoutCancel(ctx), d, ns, o.Ref, o.Lease); !errdefs.IsNotFound(aerr) {
				err = errors.Join(err, aerr)
			}
		}
	}()
	if err := w.Fill(ctx, from); err != nil {
		return "", err
	}
	if dg, err = w.Digest(); err != nil {
		return "", err
	}
	if err := l.Hold(ctx, nil, lease.Content, dg.String()); err != nil {
		return "", err
	}
	b, err := w.Commit(ctx, o.Size, o.Digest, labels)
	if errdefs.IsAlreadyExists(err) {
		err = labelBlob(ctx, d, ns, b.Digest, labels)
	}
	return b.Digest, err
}

func labelBlob(ctx context.Context, d *state.Dir, ns string, dg digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	return d.Update(ctx, nil, func(tx *state.Tx) error { return content.Label(tx, ns, dg, labels) })
}

func blobRmVerb(g *cli.Global) *cobra.Command {
	var force bool
	cmd := cli.New("rm [OPTION]... BLOB...", "remove blobs", cli.About{
		Long: "Removes the namespace's record of each blob, and the bytes when no other namespace has it. A blob that an image, a container " +
			"or a lease needs is not removed, and the message says who needs it.",
		Stdin: digests,
		Examples: []cli.Example{
			{Note: "remove a blob that was put", Text: "ctr-image blob rm 6f1a2b3c"},
		},
		Args: cli.Count(1, -1), Complete: cli.Blobs(g), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitSome, cli.ExitCorrupt},
		SeeAlso: []string{"ctrd-gc", "ctrd-du"},
	}, func(cmd *cobra.Command, args []string) error {
		d, err := g.Open()
		if err != nil {
			return err
		}
		removed, err := cli.Remove(cli.Operands(args, os.Stdin), force, func(name string) error {
			b, err := findBlob(cmd.Context(), d, g.Namespace, name)
			if err == nil || errdefs.IsDataLoss(err) {
				err = gc.RemoveBlob(cmd.Context(), d, g.Namespace, b.Digest)
			}
			return err
		})
		if !removed {
			return err
		}
		_, collected := gc.Collect(cmd.Context(), d)
		return cli.After(err, collected)
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a blob that is not here is no failure")
	return cmd
}

func blobLabelVerb(g *cli.Global) *cobra.Command {
	return cli.New("label BLOB KEY=VALUE...", "set labels of a blob", cli.About{
		Long: "Sets labels of the namespace's record of a blob; KEY= removes a label. Labels that begin with containerd.io/gc. say what a " +
			"collection keeps, and are described with ctrd gc.",
		Examples: []cli.Example{
			{Note: "keep a blob although nothing refers to it", Text: "ctr-image blob label 6f1a2b3c " + label.Root + "=1"},
			{Note: "let a blob keep another one", Text: "ctr-image blob label 6f1a2b3c containerd.io/gc.ref.content.x=sha256:9c2e..."},
		},
		Args: cli.Count(2, -1), Complete: cli.InTurn(cli.Blobs(g)), Exit: []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso: []string{"ctr-image-blob-stat", "ctrd-gc"},
	}, func(cmd *cobra.Command, args []string) error {
		labels, err := cli.ParseLabels(args[1:])
		if err != nil {
			return err
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		return d.Update(cmd.Context(), nil, func(tx *state.Tx) error {
			b, err := content.Find(tx, g.Namespace, args[0])
			if err != nil {
				return err
			}
			return content.Label(tx, g.Namespace, b.Digest, labels)
		})
	})
}
