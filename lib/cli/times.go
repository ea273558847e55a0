// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strconv"
	"time"
)

// ParseTail reads the value of an option --tail, a number of lines; all is -1.
func ParseTail(s string) (int, error) {
	if s == "all" || s == "-1" { // as kubectl and crictl say it
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, Usagef("--tail: %q is neither a number of lines nor all", s)
	}
	return n, nil
}

// ParseSince reads the value of an option --since, a moment: RFC 3339, seconds since 1970, or a span back from now. Empty is the zero time.
func ParseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(s); err == nil && s != "0" { // which is a number
		return now.Add(-d.Abs()), nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return time.UnixMicro(int64(n * 1e6)), nil
	}
	return time.Time{}, Usagef("--since: %q is neither RFC 3339, nor seconds since 1970, nor a span such as 5m", s)
}
