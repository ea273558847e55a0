// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/state"
)

const (
	uploadsDir = "uploads" // below the state directory
	lockSuffix = ".lock"
	newSuffix  = ".new" // of an address that is being written
	// maxUploadAge is how long a registry is asked for an upload that somebody has left.
	maxUploadAge = 24 * time.Hour
)

// kept is where the upload of one blob to one repository goes on: a file that the next push reads if this one is
// killed. One process at a time has it; the others upload the blob without.
type kept struct {
	path string
	held *lock.Held // nil: another process has it
}

// kept is that of a blob, and not taken yet.
func (p *pusher) kept(blob digest.Digest) *kept {
	sum := sha256.Sum256([]byte(p.dest.Address() + " " + blob.String()))
	return &kept{path: p.d.Run(uploadsDir, hex.EncodeToString(sum[:16]))}
}

// keep takes what is kept of the upload of a blob.
func (p *pusher) keep(blob digest.Digest) (*kept, error) {
	k := p.kept(blob)
	err := os.MkdirAll(filepath.Dir(k.path), 0o700)
	if err != nil {
		return nil, fmt.Errorf("keep where the upload goes on: %w", err)
	}
	if k.held, err = lock.Hold(k.path + lockSuffix); err != nil && !errdefs.IsAborted(err) {
		return nil, fmt.Errorf("keep where the upload goes on: %w", err)
	}
	return k, nil
}

// resume goes on with the upload that a killed process has left. It reports whether the registry has a part of it.
func (k *kept) resume(ctx context.Context, up *registry.Upload) bool {
	if k.held == nil {
		return false
	}
	address, err := os.ReadFile(k.path)
	return err == nil && up.Resume(ctx, string(address))
}

// note keeps the address at which the upload goes on. Without it a killed push begins anew, so a failure is none.
func (k *kept) note(address string) {
	if k.held == nil {
		return
	}
	err := os.WriteFile(k.path+newSuffix, []byte(address), 0o600)
	if err == nil {
		err = os.Rename(k.path+newSuffix, k.path)
	}
	if err == nil {
		crash.Point("push.upload-noted")
	}
}

// done forgets an upload that has ended.
func (k *kept) done() {
	if k.held != nil {
		os.Remove(k.path)
		os.Remove(k.path + newSuffix)
	}
}

// isLeft tells whether a process has left something of the upload, or has it.
func (k *kept) isLeft() bool {
	_, err := os.Lstat(k.path + lockSuffix)
	return err == nil
}

// forget removes what a killed process has left of the upload.
func (k *kept) forget() {
	if held, err := lock.Hold(k.path + lockSuffix); err == nil {
		k.held = held
		k.done()
		k.close()
	}
}

// close lets the upload go, for others to go on with. Of one that nothing is known of no file stays.
func (k *kept) close() {
	if k.held == nil {
		return
	}
	if _, err := os.Lstat(k.path); errors.Is(err, os.ErrNotExist) {
		k.held.Remove()
	} else {
		k.held.Release()
	}
}

// sweepUploads forgets the uploads that nobody has gone on with for a day: registries give them up sooner or later. What
// is no address goes at once.
func sweepUploads(d *state.Dir) error {
	entries, err := os.ReadDir(d.Run(uploadsDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		k := &kept{path: d.Run(uploadsDir, strings.TrimSuffix(strings.TrimSuffix(e.Name(), lockSuffix), newSuffix))}
		if st, err := os.Lstat(k.path); err != nil || time.Since(st.ModTime()) > maxUploadAge {
			k.forget()
		}
	}
	return err
}
