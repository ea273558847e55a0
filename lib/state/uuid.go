// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// uuidName is a file in the root: a random UUID that names it to clients of the API, for as long as it exists.
const uuidName = "uuid"

// UUID gives the root's identity (RFC 9562, version 4), which the first caller makes.
func (d *Dir) UUID() (string, error) {
	path := d.Path(uuidName)
	for {
		data, err := os.ReadFile(path)
		if err == nil && len(data) == 36 {
			return string(data), nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read the root's identity: %w", err)
		}
		made := NewUUID()
		if err == nil { // what is there is none
			if err := WriteFile(path, []byte(made), true); err != nil {
				return "", err
			}
			continue
		}
		// Of two who make it at once, the first wins.
		mine := path + "." + made
		if err := WriteFile(mine, []byte(made), true); err != nil {
			return "", err
		}
		err = os.Link(mine, path)
		if err = errors.Join(err, os.Remove(mine)); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make the root's identity: %w", err)
		}
	}
}

// NewUUID makes a random identity (RFC 9562, version 4).
func NewUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
