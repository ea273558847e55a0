// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/state"
)

// TestNoRoom: a pull that fills the disk says which one, and keeps the bytes that it can go on with, not what they
// unpack to. With room it goes on.
func TestNoRoom(t *testing.T) {
	d := smallDir(t)
	s := newServer(t)
	b := s.build("test/app", "1", files("first", string(make([]byte, 4<<20))), files("second", string(make([]byte, 32<<20))))
	opt := options()
	opt.Layers = 1
	s.set(nil)
	_, err := pullText(ctx, d, b.ref, opt)
	var room *state.RoomError
	if !errors.As(err, &room) || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("%v", err)
	}
	if !strings.HasPrefix(room.Path, d.Path()) || room.Bytes > 1<<20 || !strings.Contains(err.Error(), "KiB") {
		t.Errorf("%+v: %v", room, err)
	}
	left, err := filepath.Glob(d.Path("snapshots", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	before, _ := s.count(b.layers[0].Digest)
	if err := unix.Mount("tmpfs", filepath.Dir(d.Path()), "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if _, err := pullText(ctx, d, b.ref, opt); err != nil {
		t.Fatal(err)
	}
	if after, _ := s.count(b.layers[0].Digest); after > 1 || after < before {
		t.Errorf("the first layer was fetched %d times", after)
	}
}

// TestNoRoomOfOthers: what another pull has made, or a record names, stays.
func TestNoRoomOfOthers(t *testing.T) {
	d := smallDir(t)
	s := newServer(t)
	small := files("first", string(make([]byte, 1<<20)))
	one, two := s.build("test/one", "1", small), s.build("test/two", "1", small, files("second", string(make([]byte, 32<<20))))
	if _, err := pullText(ctx, d, one.ref, options()); err != nil {
		t.Fatal(err)
	}
	if _, err := pullText(ctx, d, two.ref, options()); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	left, err := filepath.Glob(d.Path("snapshots", "*", "*", "fs", "first"))
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v %v", left, err)
	}
	if st, err := os.Stat(left[0]); err != nil || st.Size() != 1<<20 {
		t.Error(err)
	}
}

// TestNoRoomOfState: it is the state directory that is full, and the error says so and not the root.
func TestNoRoomOfState(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base := t.TempDir()
	run := filepath.Join(base, "state")
	d := openDir(t, base)
	s := newServer(t)
	b := s.build("test/app", "1", files("first", "1"))
	if err := unix.Mount("tmpfs", run, "tmpfs", 0, "size=64k,nr_inodes=1"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(run, unix.MNT_DETACH) })
	_, err := pullText(ctx, d, b.ref, options())
	var room *state.RoomError
	if !errors.As(err, &room) || !strings.HasPrefix(room.Path, run) {
		t.Fatalf("%+v: %v", room, err)
	}
}
