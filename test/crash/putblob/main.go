// SPDX-License-Identifier: Apache-2.0

// Command putblob writes a text as a blob, as a client of containerd's content API has it written: under a ref, in
// pieces, and recorded by a commit. What a killed one has written it goes on with. A blob that is there is success.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/state"
)

const ref = "ref"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: putblob TEXT")
		os.Exit(2)
	}
	if err := put(context.Background(), os.Args[1]); err != nil && !errdefs.IsAlreadyExists(err) {
		fmt.Fprintln(os.Stderr, "putblob:", err)
		os.Exit(1)
	}
	fmt.Println(digest.FromString(os.Args[1]))
}

func put(ctx context.Context, text string) error {
	d, err := state.Open(state.Config{Root: os.Getenv("CTRD_ROOT"), State: os.Getenv("CTRD_STATE"), Wait: time.Minute})
	if err != nil {
		return err
	}
	dg := digest.FromString(text)
	w, err := content.OpenWriter(ctx, d, "default", content.WriterOptions{Ref: ref, Size: int64(len(text)), Digest: dg})
	if errdefs.IsAlreadyExists(err) {
		// One that was killed behind its commit has left the ref, for a day.
		if err := content.Abort(ctx, d, "default", ref, ""); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err != nil {
		return err
	}
	defer w.Close()
	for at := w.Status().Offset; at < int64(len(text)); at++ {
		if _, err := w.Write([]byte{text[at]}); err != nil {
			return err
		}
	}
	_, err = w.Commit(ctx, int64(len(text)), dg, nil)
	return err
}
