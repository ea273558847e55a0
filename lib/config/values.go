// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"
)

// Duration is a span of time, never negative, written as Go writes it: "1m30s". Zero is "0s".
type Duration time.Duration

// UnmarshalText reads a span. An empty text is zero, as containerd has it.
func (d *Duration) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = 0
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no span of time such as \"1m30s\"", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes a span.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Mode has the permissions of a file, written in octal as a text: "0660".
type Mode fs.FileMode

// UnmarshalText reads permissions.
func (m *Mode) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 8, 32)
	if err != nil || v > 0o777 {
		return fmt.Errorf("%q are no permissions in octal such as \"0660\"", text)
	}
	*m = Mode(v)
	return nil
}

// MarshalText writes permissions.
func (m Mode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", m), nil }

// Port is a port of TCP, written as a text, as containerd has it: "10010". Zero is "0".
type Port uint16

// UnmarshalText reads a port.
func (p *Port) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 10, 16)
	if err != nil {
		return errors.New("a port is a number from 0 to 65535 in quotes")
	}
	*p = Port(v)
	return nil
}

// MarshalText writes a port.
func (p Port) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(p), 10), nil }
