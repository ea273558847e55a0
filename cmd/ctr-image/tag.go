// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

func tagVerb(g *cli.Global) *cobra.Command {
	var expect string
	cmd := cli.New("tag [OPTION]... IMAGE NAME...", "give an image more names", cli.About{
		Long: "Makes each NAME stand for the same as IMAGE does now. A name that stands for something else is moved. All " +
			"names are given in one commit, or none.\n\n" +
			"With --expect a name is given only if it stands for that digest now; where DIGEST is empty, only if it is not there. Of several " +
			"processes that do so at the same moment one succeeds.",
		Examples: []cli.Example{
			{Note: "keep an image under a name of your own", Text: "ctr-image tag redis:7 registry.example/redis:tested"},
			{Note: "move a name if nobody else has moved it meanwhile", Text: "ctr-image tag --expect sha256:DIGEST redis:7 app:stable"},
		},
		Args:     cli.Count(2, -1),
		Complete: cli.InTurn(cli.Images(g)),
		Exit:     []int{cli.ExitNotFound, cli.ExitBusy, cli.ExitCorrupt},
		SeeAlso:  []string{"ctr-image-rm"},
	}, func(cmd *cobra.Command, args []string) error {
		want := digest.Digest(expect)
		if expect != "" && want.Validate() != nil {
			return cli.Usagef("--expect %q is no digest", expect)
		}
		d, err := g.Open()
		if err != nil {
			return err
		}
		return d.Update(cmd.Context(), nil, func(tx *state.Tx) error {
			img, err := image.Find(tx, g.Namespace, args[0])
			if err != nil {
				return err
			}
			for _, a := range args[1:] {
				if cmd.Flags().Changed("expect") {
					if err := expected(tx, g.Namespace, a, want); err != nil {
						return err
					}
				}
				if err := tag(tx, g.Namespace, img, a); err != nil {
					return err
				}
			}
			return nil
		})
	})
	cmd.Flags().StringVar(&expect, "expect", "", "only if each NAME stands for `DIGEST` now, or is not there where that is empty")
	cli.CompleteOption(cmd, "expect", cobra.NoFileCompletions)
	return cmd
}

func expected(tx *state.Tx, ns, name string, want digest.Digest) error {
	ref, err := image.Parse(name)
	if err != nil {
		return err
	}
	return image.Expect(tx, ns, ref.String(), want)
}

func tag(tx *state.Tx, ns string, img image.Image, name string) error {
	ref, err := image.Parse(name)
	if err != nil {
		return err
	}
	if ref.Digest != "" && ref.Digest != img.Target.Digest {
		return fmt.Errorf("%q names another digest than %s has, %s: %w", name, img.Name, img.Target.Digest, errdefs.ErrInvalidArgument)
	}
	old, err := image.Get(tx, ns, ref.String())
	if err == nil && old.Target.Digest == img.Target.Digest {
		return nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return image.Put(tx, ns, image.Image{Name: ref.String(), Target: img.Target, Labels: img.Labels})
}
