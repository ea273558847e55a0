// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"text/template"
)

const sample = `{"name":"redis:7","size":12345678901234567,"ratio":0.5,"ok":true,"off":false,"none":null,
	"tags":["a","b","c"],"labels":{"x.y/z":"1","k":"v"},"layers":[{"digest":"sha256:1","size":3},{"digest":"sha256:2","size":4}]}`

func TestExecute(t *testing.T) {
	for in, want := range map[string]string{
		`{{.name}}`: "redis:7", `{{.missing}}`: "", `{{.missing.deeper}}`: "", `{{.size}}`: "12345678901234567",
		`{{.tags}}`: `["a","b","c"]`, `{{json .labels}}`: `{"k":"v","x.y/z":"1"}`, `{{index .labels "x.y/z"}}`: "1",
		`{{range .layers}}{{.digest}} {{end}}`: "sha256:1 sha256:2 ", `{{range $i, $l := .layers}}{{$i}}={{$l.size}},{{end}}`: "0=3,1=4,",
		`{{range $k, $v := .labels}}{{$k}}{{$v}} {{end}}`: "kv x.y/z1 ", `{{range .none}}x{{else}}empty{{end}}`: "empty",
		`{{if .ok}}yes{{else}}no{{end}}`: "yes", `{{if and .ok (not .off)}}1{{end}}`: "1", `{{if .missing}}1{{else if .off}}2{{else}}3{{end}}`: "3",
		`{{with .name}}<{{.}}>{{end}}`: "<redis:7>", `{{len .tags}} {{len .name}}`: "3 7", `{{join .tags ","}} {{.tags | join ";"}}`: "a,b,c a;b;c",
		`{{range split .name ":"}}[{{.}}]{{end}}`: "[redis][7]", `{{upper .name | lower | printf "%-9s|"}}`: "redis:7  |",
		`{{eq .name "x" "redis:7"}} {{ne .name "x"}} {{lt 1 2}} {{ge .ratio 0.5}}`: "true true true true", `{{printf "%d %v %q" 3 .ok .name}}`: `3 true "redis:7"`,
		`{{define "a"}}({{.}}){{end}}{{template "a" .name}}`: "(redis:7)", `{{$x := 1}}{{range .tags}}{{$x = .}}{{end}}{{$x}}`: "c",
		`{{range .tags}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}}`: "ac", `{{range .tags}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}`: "a",
		`{{/* nothing */}}{{- " x " -}} `: " x ", `{{(index .layers 1).digest}}`: "sha256:2", `{{print .name 1}}{{println .ok}}`: "redis:71true\n", "": "", `{{$.name}}`: "redis:7",
	} {
		tm, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		var b strings.Builder
		if err := tm.Execute(&b, []byte(sample)); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v; want %q", in, b.String(), err, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, in := range []string{
		`{{.name.x}}`, `{{index .tags 3}}`, `{{range .name}}{{end}}`, `{{lt .tags 1}}`, `{{len .ok}}`, `{{len}}`, `{{join .name ","}}`,
		`{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`, `{{template "b"}}`, `{{printf "%99999999d" 1}}`, `{{printf "%*d" 99999999 1}}`, `{{.name "x"}}`, `{{printf 1}}`,
		`{{slice}}`, `{{slice .ok}}`, `{{slice .name 8}}`, `{{slice .name 3 2}}`, `{{slice .tags -1}}`, `{{slice .tags "x"}}`, `{{slice .tags 0 1 2}}`,
		`{{define "a"}}{{template "a"}}{{template "a"}}{{end}}{{template "a"}}`, `{{define "a"}}{{range $}}{{template "b" $}}{{end}}{{end}}{{define "b"}}{{range $}}{{template "a" $}}{{end}}{{end}}{{template "a" .tags}}`,
	} {
		tm, err := Parse(in)
		if err != nil {
			t.Errorf("%s does not parse: %v", in, err)
			continue
		}
		if err := tm.Execute(io.Discard, []byte(sample)); err == nil {
			t.Errorf("%s is no error", in)
		}
	}
	for _, in := range []string{`{{`, `{{nofunction}}`, `{{if}}{{end}}`, `{{.a`, `{{break}}`} {
		if _, err := Parse(in); err == nil {
			t.Errorf("%s parses", in)
		}
	}
}

// TestAsTextTemplate compares with the original where the two must agree.
func TestAsTextTemplate(t *testing.T) {
	var v any
	if err := json.Unmarshal([]byte(sample), &v); err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{
		`{{.name}} {{.ok}} {{.ratio}}`, `{{range $i, $t := .tags}}{{if $i}},{{end}}{{$t}}{{end}}`, `{{with .missing}}a{{else}}b{{end}}`, `{{with $x := .name}}{{$x}}{{.}}{{end}}`,
		`{{if or .off .none}}a{{else}}b{{end}}`, `{{range .labels}}{{.}};{{end}}`, `{{index .tags 1 | printf "%5s"}}`, `{{len .labels}}`, `{{not .ok}}`, `{{$x := .name}}{{if .ok}}{{$x := "in"}}{{$x}}{{end}}{{$x}}`,
		`{{and .ok .name}}`, `{{or .off .name}}`, `{{eq .name "a" "redis:7"}}`, `{{lt .name "z"}}`, `a {{- .name -}} b`, `{{block "x" .name}}{{.}}{{end}}`,
		`{{slice .name}} {{slice .name 2}} {{slice .name 1 3}} {{len (slice .tags 1)}} {{index (slice .tags 1 2) 0}}`, `{{html "<a>&'" .name}} {{js "a'<b\n"}} {{urlquery "a b&" .name}}`,
	} {
		var want, got strings.Builder
		if err := template.Must(template.New("").Parse(in)).Execute(&want, v); err != nil {
			t.Fatal(in, err)
		}
		tm, err := Parse(in)
		if err == nil {
			err = tm.Execute(&got, []byte(sample))
		}
		if err != nil || got.String() != want.String() {
			t.Errorf("%s: %q, %v; text/template: %q", in, got.String(), err, want.String())
		}
	}
}

// FuzzExecute: no template and no value makes it panic.
func FuzzExecute(f *testing.F) {
	for _, s := range []string{`{{range .tags}}{{.}}{{else}}{{end}}`, `{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`, `{{printf "%5.2f" .ratio}}`, `{{slice .name 1 3}}`, `{{$x := 1}}{{$x}}`, `{{(index .layers 1).digest}}`} {
		f.Add(s, []byte(sample))
	}
	f.Fuzz(func(t *testing.T, text string, value []byte) {
		tm, err := Parse(text)
		if err != nil {
			return
		}
		w := &bounded{left: 1 << 20}
		if err := tm.Execute(w, value); err != nil && err.Error() == "" {
			t.Error("an error without text")
		}
	})
}

type bounded struct{ left int }

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestCheck(t *testing.T) {
	type inner struct {
		Deep string `json:"deep"`
	}
	type record struct {
		inner
		Name   string            `json:"name"`
		Gone   int               `json:"gone,omitempty"`
		Hidden string            `json:"-"`
		Labels map[string]string `json:"labels"`
		Plain  bool
	}
	names := Fields(&record{})
	for in, ok := range map[string]bool{
		"{{.name}} {{.gone}} {{.deep}} {{.Plain}} {{.labels.any}}":               true,
		"{{range $k, $v := .labels}}{{$k}} {{.what}} {{$.name}}{{end}}":          true,
		"{{with .labels}}{{.x}}{{else}}{{.name}}{{end}}{{if .gone}}{{.}}{{end}}": true,
		"{{json .}} {{$.labels.x}} {{(index .labels \"a\").b}}":                  true,
		"{{.Name}}": false, "{{.Hidden}}": false, "{{$.id}}": false, "{{if .x}}{{end}}": false, "{{range .labels}}{{$.x}}{{end}}": false,
		"{{with .labels}}{{else}}{{.x}}{{end}}": false, "{{json .x | len}}": false, "{{(.x).y}}": false, "{{range .x}}{{end}}": false,
	} {
		tm, err := Parse(in)
		if err != nil {
			t.Fatal(in, err)
		}
		if err := tm.Check(names); (err == nil) != ok {
			t.Errorf("%s: %v", in, err)
		}
	}
	if tm, err := Parse("{{.x}}"); err != nil || tm.Check(Fields(map[string]any{})) != nil || tm.Check(Fields(nil)) != nil {
		t.Error("a map has any name")
	}
}
