// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/verity"
)

// Prover is a driver whose committed trees can be compared with what their records say.
type Prover interface {
	// Prove reads all that is committed of a snapshot, and compares it with what its record says. Of one of which that says
	// nothing it reads nothing, and gives nil. It changes nothing.
	Prove(ctx context.Context, d *state.Dir, s Info) error
	// Attest is [Driver.Check] before a use: it reads what is [Unproven], and sees to it that the next use need not.
	Attest(ctx context.Context, d *state.Dir, s Info) error
	// Proven tells whether a snapshot has lost what protects its contents, and when they were compared since then; never is zero.
	Proven(d *state.Dir, s Info) (at time.Time, lost bool)
}

// Attest tells whether the directory of a snapshot is there, with the tree that its record means. Unlike [Driver.Check], it
// reads a tree of which nothing else tells that.
func (sn *Snapshotter) Attest(ctx context.Context, d *state.Dir, s Info) error {
	if p, ok := sn.Driver.(Prover); ok {
		return p.Attest(ctx, d, s)
	}
	return sn.Check(d, s)
}

// VerityError says that a file is not the one that was recorded, or that nothing proves it any more ([Unproven]). Its kind is
// errdefs.ErrDataLoss.
type VerityError struct {
	Path      string
	Want, Has digest.Digest // of fs-verity; Has is empty of a file without, whose contents have not been read
}

// Error names the file.
func (e *VerityError) Error() string {
	if e.Has == "" {
		return fmt.Sprintf("%s has no fs-verity any more (%s): it is a copy or another file", e.Path, e.Want)
	}
	return fmt.Sprintf("%s was changed: the digest of fs-verity was %s and is %s", e.Path, e.Want, e.Has)
}

// Unwrap gives the kind.
func (e *VerityError) Unwrap() error { return errdefs.ErrDataLoss }

// Hint names the next step.
func (e *VerityError) Hint() string {
	if e.Has == "" {
		return "ctrd fsck --deep compares its contents; so does the next use"
	}
	return "pull the image again, which makes the layer anew"
}

// Unproven tells whether an error says that a file has lost fs-verity, so that only its contents can tell whether it is the one
// that was recorded.
func Unproven(err error) bool {
	var e *VerityError
	return errors.As(err, &e) && e.Has == ""
}

// known gives the digest of an image without reading it: of the kernel, or of a proof that still holds. Otherwise it is empty.
func (v images) known(d *state.Dir, id ID) (digest.Digest, error) {
	path := v.image(d, id)
	has, err := verity.Measure(path)
	if err != nil || has != "" {
		return has, err
	}
	p, err := v.proof(d, id)
	return p.digest, err
}

// attest asks the kernel whether an image is the one that was recorded. One that has lost fs-verity, as a copy of a root has, is
// read once: it is protected again, or where the file system cannot do that, a proof is noted.
func (v images) attest(ctx context.Context, d *state.Dir, s Info) error {
	err := v.isRecorded(d, s)
	if !Unproven(err) {
		return err
	}
	return v.restore(ctx, d, s)
}

// Attest is attest and Check.
func (v images) Attest(ctx context.Context, d *state.Dir, s Info) error {
	if err := v.Check(d, s); err != nil && !Unproven(err) {
		return err
	}
	return v.attest(ctx, d, s)
}

// isRecorded tells without reading whether an image is the one that was recorded. One that was recorded without fs-verity may be
// any.
func (v images) isRecorded(d *state.Dir, s Info) error {
	if s.Verity == "" {
		return nil
	}
	has, err := v.known(d, s.ID)
	if err != nil {
		return err
	}
	return v.compare(d, s, has)
}

// Prove reads an image, also where there is no fs-verity any more.
func (v images) Prove(ctx context.Context, d *state.Dir, s Info) error {
	if s.Verity == "" {
		return nil
	}
	f, err := os.Open(v.image(d, s.ID))
	if err != nil {
		return err
	}
	defer f.Close()
	has, err := verity.Digest(ctx, f)
	if err != nil {
		return unreadable(err)
	}
	return v.compare(d, s, has)
}

// Proven is the time of a proof.
func (v images) Proven(d *state.Dir, s Info) (at time.Time, lost bool) {
	if s.Verity == "" {
		return at, false
	}
	if has, err := verity.Measure(v.image(d, s.ID)); has != "" || err != nil {
		return at, false
	}
	p, err := v.proof(d, s.ID)
	return p.at, err == nil
}

// unreadable says what to do about an image of which a block has changed on the disk.
func unreadable(err error) error {
	var at *os.PathError
	if errors.Is(err, unix.EIO) && errors.As(err, &at) {
		err = fmt.Errorf("%w: a block is lost; remove %s and pull the image again, which makes the layer anew: %w", err, at.Path, errdefs.ErrDataLoss)
	}
	return err
}

// compare wants an image to have the digest that was recorded.
func (v images) compare(d *state.Dir, s Info, has digest.Digest) error {
	if has == s.Verity {
		return nil
	}
	return &VerityError{v.image(d, s.ID), s.Verity, has}
}

// restore compares the contents of an image that has no fs-verity any more, and gives it back. Of several processes one reads.
func (v images) restore(ctx context.Context, d *state.Dir, s Info) error {
	path := v.image(d, s.ID)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // and with it the lock
	if err := lockFile(ctx, f); err != nil {
		return err
	}
	if err := v.isRecorded(d, s); !Unproven(err) {
		return err // another process has read it
	}
	d.Warn(fmt.Errorf("%s has no fs-verity any more, as in a copy of the root: its contents are compared once", path))
	before, err := stampOf(f)
	if err != nil {
		return err
	}
	has, err := verity.Digest(ctx, f)
	if err != nil {
		return unreadable(err)
	}
	after, err := stampOf(f)
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("%s is being written: %w", path, errdefs.ErrAborted)
	}
	crash.Point("snapshot.image-read")
	if has == s.Verity {
		switch now, err := verity.Protect(ctx, path); {
		case now != "":
			return v.compare(d, s, now)
		case later(err):
			return nil // nor can anything be noted: the next use reads it again
		case err != nil:
			return err
		}
	}
	// Also what is wrong is not read again.
	if err := v.note(d, s.ID, proof{has, after, time.Now()}); err != nil && !later(err) {
		return err
	}
	return v.compare(d, s, has)
}

// later tells whether a disk that is full, or only to be read, is in the way.
func later(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS)
}

// pause is how often a file is asked for that another process reads.
const pause = 20 * time.Millisecond

// lockFile waits for whoever reads an image to compare it. It is no lock of lib/lock, whose order it would have to fit in under
// every lock that a user of a snapshot holds: nothing else is taken or waited for while it is held.
func lockFile(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil // or a file system without locks: then several processes read
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// proof says which digest the contents of an image had that has no fs-verity. It holds as long as the file's stamp is the same.
type proof struct {
	digest digest.Digest
	file   stamp
	at     time.Time
}

// stamp tells a file, and a state of its contents, from all others: a copy has another inode or is on another file system, and the
// kernel sets the time of the last change.
type stamp struct {
	fs        [2]int32
	inode     uint64
	sec, nsec int64
}

func stampOf(f *os.File) (s stamp, err error) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	fd := int(f.Fd())
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &fs)); err != nil {
		return s, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return stamp{fs.Fsid.Val, st.Ino, int64(st.Ctim.Sec), int64(st.Ctim.Nsec)}, nil
}

// proofAttr is an attribute of a snapshot's directory, as one of the file itself would change that. It has no place in the
// record: it is about one file, and a copy of the root has the record.
const proofAttr = "ctrd.proof"

var proofClasses = []string{"user.", "trusted."} // as file systems have them

func (s stamp) String() string {
	return fmt.Sprintf("%x.%x:%d:%d.%d", uint32(s.fs[0]), uint32(s.fs[1]), s.inode, s.sec, s.nsec)
}

// note keeps a proof. A kill leaves none, or all of it.
func (v images) note(d *state.Dir, id ID, p proof) (err error) {
	dir := pathOf(v, d, id)
	text := fmt.Sprintf("%s %s %d", p.digest, p.file, p.at.Unix())
	for _, class := range proofClasses {
		if err = unix.Setxattr(dir, class+proofAttr, []byte(text), 0); err == nil {
			return nil
		}
	}
	return &os.PathError{Op: "setxattr", Path: dir, Err: err}
}

// proof gives the proof of an image, if there is one that holds.
func (v images) proof(d *state.Dir, id ID) (p proof, err error) {
	f, err := os.Open(v.image(d, id))
	if err != nil {
		return p, err
	}
	defer f.Close()
	is, err := stampOf(f)
	if err != nil {
		return p, err
	}
	buf := make([]byte, 512)
	for _, class := range proofClasses {
		n, err := unix.Getxattr(pathOf(v, d, id), class+proofAttr, buf)
		if err != nil {
			continue
		}
		words := strings.Fields(string(buf[:n]))
		if len(words) != 3 || words[1] != is.String() {
			continue
		}
		if at, err := strconv.ParseInt(words[2], 10, 64); err == nil {
			return proof{digest.Digest(words[0]), is, time.Unix(at, 0)}, nil
		}
	}
	return p, nil
}
