// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"errors"
	"time"
)

// Record is one record of a log: a line, or with Partial a piece of one that goes on in the stream's next
// record.
type Record struct {
	Stamp   []byte // the time as it is written
	Stream  Stream
	Partial bool
	Data    []byte // without the newline
}

// Time is the time at which the output was read from the process.
func (r Record) Time() (time.Time, error) { return time.Parse(time.RFC3339Nano, string(r.Stamp)) }

var errRecord = errors.New("not a log record")

// ParseRecord reads one line of a log, without its newline. The record's slices lie in line.
func ParseRecord(line []byte) (Record, error) {
	var r Record
	var stream, tag []byte
	var ok bool
	if r.Stamp, line, ok = bytes.Cut(line, []byte{' '}); !ok {
		return Record{}, errRecord
	}
	if stream, line, ok = bytes.Cut(line, []byte{' '}); !ok {
		return Record{}, errRecord
	}
	tag, r.Data, _ = bytes.Cut(line, []byte{' '})
	// Further tags may follow the first one after a colon.
	tag, _, _ = bytes.Cut(tag, []byte{':'})
	switch {
	case string(stream) == "stdout":
	case string(stream) == "stderr":
		r.Stream = Stderr
	default:
		return Record{}, errRecord
	}
	switch {
	case string(tag) == "F":
	case string(tag) == "P":
		r.Partial = true
	default:
		return Record{}, errRecord
	}
	return r, nil
}
