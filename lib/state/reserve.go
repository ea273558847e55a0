// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// errReserve is the failure of a removal for which there was no room.
var errReserve = errors.New("disk full")

// The reserve lets a removal commit on a full file system: some pages of a database, and an inode.
const (
	reserveName     = "reserve"
	reserveSize     = 1 << 20
	reserveSizeBoot = 256 << 10 // in the state directory, which is memory
)

func (d *Dir) reservePath(durable bool) string {
	if durable {
		return d.Path(reserveName)
	}
	return d.Run(reserveName)
}

// keepReserve sets the reserve aside, or as much of it as there is room for.
func (d *Dir) keepReserve(durable bool) {
	path, size := d.reservePath(durable), int64(reserveSizeBoot)
	if durable {
		size = reserveSize
	}
	if st, err := os.Stat(path); err == nil && st.Size() >= size {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	for part := size; part >= 4<<10; part /= 2 {
		if err = unix.Fallocate(int(f.Fd()), 0, 0, part); !noRoom(err) {
			break
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, _ = f.Write(make([]byte, size)) // as much as there is room for
	}
}

// giveUpReserve makes room. It reports false when there is none to give up. The next commit sets it aside
// again, or restoreReserves.
func (d *Dir) giveUpReserve(durable bool) bool {
	if os.Remove(d.reservePath(durable)) != nil {
		return false
	}
	d.gaveUp[side(durable)].Store(true)
	return true
}

// restoreReserves sets aside again what this Dir has given up, once a removal has made room.
func (d *Dir) restoreReserves() {
	for _, durable := range []bool{true, false} {
		if d.gaveUp[side(durable)].Swap(false) {
			d.keepReserve(durable)
		}
	}
}
