// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args, action, failure string
	}{
		{"-namespace n -address /a -publish-binary /b -id i -bundle /x start", "start", ""},
		{"--namespace=n --id=i --bundle=/x -debug delete", "delete", ""},
		{"-namespace n -id i -bundle /x serve -socket /s", "serve", ""},
		{"-info", "info", ""},
		{"-v", "version", ""},
		{"--help", "help", ""},
		{"", "", "no action"},
		{"-namespace n -id i -bundle /x reboot", "", "unknown action"},
		{"-namespace n -id i -bundle x serve", "", "not an absolute path"},
		{"-id i -bundle /x serve", "", "needs -namespace and -id"},
		{"-namespace n -id i serve now", "", "unexpected argument"},
		{"-namespace", "", "needs a value"},
		{"-nosuch serve", "", "unknown option -nosuch"},
		{"-debug=x serve", "", "unknown option"},
	} {
		o, err := parse(strings.Fields(c.args))
		switch {
		case c.failure == "" && (err != nil || o.action != c.action):
			t.Errorf("%s: %+v, %v", c.args, o, err)
		case c.failure != "" && (err == nil || !strings.Contains(err.Error(), c.failure)):
			t.Errorf("%s: %v, want %q", c.args, err, c.failure)
		}
	}
}

func TestLoggerURI(t *testing.T) {
	for args, want := range map[string]string{
		"logger||uri|log:///x": "log:///x",
		"uri|log:///x|logger|": "log:///x",
		"logger|x|uri|log:///": "",
		"other||uri|log:///x":  "",
		"logger||uri":          "",
	} {
		if got := loggerURI(strings.Split(args, "|")); got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-namespace\nn\n-id\ni\n-bundle\n/x\nserve")
	f.Add("--id=\x00\nstart")
	f.Fuzz(func(t *testing.T, args string) {
		o, err := parse(strings.Split(args, "\n"))
		if err == nil && (o.action == "serve" || o.action == "start" || o.action == "delete") && (o.namespace == "" || o.id == "" || o.bundle == "") {
			t.Errorf("%q: %+v", args, o)
		}
	})
}
