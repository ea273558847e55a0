// SPDX-License-Identifier: Apache-2.0

package event

import "encoding/json"

// Foreign is an event of a type that is not one of this package's, or of any type from somebody else: a client of the
// API, a shim. Data is its message as JSON with proto names; of a type that nobody here can decode, it is
// {"@value": "BASE64"} with the message's bytes.
type Foreign struct {
	ForeignTopic, ForeignType string
	Data                      json.RawMessage
}

// Topic is the topic that it was published under.
func (f Foreign) Topic() string { return f.ForeignTopic }

// Type is the full name of its protobuf message, or another type URL.
func (f Foreign) Type() string { return f.ForeignType }

// MarshalJSON gives Data.
func (f Foreign) MarshalJSON() ([]byte, error) { return f.Data, nil }
