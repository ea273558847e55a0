// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// Event is one line of the journal.
type Event struct {
	Seq       uint64          `json:"seq"`
	Time      time.Time       `json:"time"`
	Namespace string          `json:"namespace"`
	Topic     string          `json:"topic"`
	Type      string          `json:"type"`
	Data      json.RawMessage `json:"event"`
	// Lost is how many events of this boot could not be appended before this one. Their numbers are left out.
	Lost uint64 `json:"lost,omitempty"`
	// Payload is what was appended, where this process did it and has it still; of an event that was read it is nil.
	Payload Payload `json:"-"`
}

// Journal is the journal in a directory, which Append makes when it is missing.
type Journal struct {
	Dir string
	// Patience bounds the waits for the journal's lock. Nil is ten seconds for each append.
	Patience *Patience
	// Tail makes appends that follow each other cheaper, and reading what they appended. Nil opens the newest segment for each.
	Tail *Tail
}

const (
	segmentSize = 1 << 20
	segments    = 8
	maxLine     = 1 << 20
	readSize    = 64 << 10
)

func segmentName(seq uint64) string { return fmt.Sprintf("%020d", seq) }

// segments lists the journal's files, oldest first.
func (j Journal) segments() ([]string, error) {
	entries, err := os.ReadDir(j.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if len(e.Name()) == 20 {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, err
}

// parse reads a line.
func parse(line []byte) (Event, error) {
	var e Event
	err := json.Unmarshal(line, &e)
	return e, err
}

// seqPrefix is how a line begins that this package wrote.
const seqPrefix = `{"seq":`

// parseSeq reads the number in the beginning of a line, and reports false where that is not of the usual
// form.
func parseSeq(line []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(seqPrefix))
	digits, _, whole := bytes.Cut(rest, []byte(","))
	if !ok || !whole || len(digits) > 20 || len(digits) > 1 && digits[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits), 10, 64)
	return n, err == nil
}

// Decode gives the payload of an event, and false when it is of another type.
func Decode[P Payload](e Event) (p P, ok bool) {
	if e.Type != p.Type() {
		return p, false
	}
	return p, json.Unmarshal(e.Data, &p) == nil
}

// Field gives a field of the payload as text, such as container_id; empty when there is none.
func (e Event) Field(name string) string {
	var fields map[string]any
	if json.Unmarshal(e.Data, &fields) != nil || fields[name] == nil {
		return ""
	}
	return fmt.Sprint(fields[name])
}
