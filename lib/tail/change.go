// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"bytes"
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Change is one record of inotify(7).
type Change struct {
	WD   int32  // the watch
	Mask uint32 // IN_*
	Name []byte // in a directory that is watched; part of what was read
}

// Changes are the records in what was read from inotify: wd int32, mask, cookie, len uint32, and a name of len bytes that is filled up with
// zeros.
func Changes(b []byte) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		for len(b) >= unix.SizeofInotifyEvent {
			end := min(len(b), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:])))
			c := Change{int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]), bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00")}
			if !yield(c) {
				return
			}
			b = b[end:]
		}
	}
}
