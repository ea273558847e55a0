// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLabelFile(t *testing.T) {
	got, err := parseLabels([]byte("# no label\n\n a=b=c\r\nkey\nempty=\na=last\n  #x\n"))
	if want := map[string]string{"a": "last", "key": "", "empty": ""}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"=x", "ok=1\n=x\n", "a=\xff", strings.Repeat("k", maxLabel+1)} {
		if _, err := parseLabels([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func FuzzLabelFile(f *testing.F) {
	for _, s := range []string{"a=b\n", "#\n\n=", "k\r\n", "\xff=1", " a = b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseLabels([]byte(text))
		if err != nil {
			return
		}
		for key, value := range set {
			if key == "" || strings.ContainsAny(key, "=\n") || strings.Contains(value, "\n") || !utf8.ValidString(key+value) {
				t.Errorf("%q: %q=%q", text, key, value)
			}
		}
	})
}
