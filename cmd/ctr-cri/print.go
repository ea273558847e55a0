// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/cli/format"
)

// The forms that crictl's option -o names.
const (
	asTable    = "table"
	asJSON     = "json"
	asYAML     = "yaml"
	asTemplate = "go-template"
)

// output are the options about the form of what is printed.
type output struct {
	form, template string
	forms          []string
	parsed         *format.Template
}

// add adds -o with the forms that the verb knows, the first being the default, and --template where it is one of them.
func (o *output) add(cmd *cobra.Command, forms ...string) {
	o.forms = forms
	cmd.Flags().StringVarP(&o.form, "output", "o", forms[0], "print in this `FORM`: "+strings.Join(forms, ", "))
	cli.CompleteOption(cmd, "output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
	if slices.Contains(forms, asTemplate) {
		cmd.Flags().StringVar(&o.template, "template", "", "with -o go-template, print what the Go `TEMPLATE` makes of the JSON value")
		cli.CompleteOption(cmd, "template", cobra.NoFileCompletions)
	}
}

// check says what is wrong with the options; it comes before any request.
func (o *output) check() error {
	if err := cli.OneOf("--output", []string{o.form}, o.forms); err != nil {
		return err
	}
	switch {
	case o.form != asTemplate && o.template != "":
		return cli.Usagef("--template is for -o go-template")
	case o.form == asTemplate && o.template == "":
		return cli.Usagef("-o go-template: no --template is given")
	case o.form == asTemplate:
		var err error
		if o.parsed, err = format.Parse(o.template); err != nil {
			return cli.Usagef("--template: %w", err)
		}
	}
	return nil
}

// message prints a message of the protocol. Its fields have their JSON names, also those that are not set, and numbers
// of 64 bits are strings, as protobuf's JSON mapping says.
func (o *output) message(w io.Writer, m proto.Message) error {
	data, err := messageJSON(m)
	if err != nil {
		return err
	}
	return o.value(w, data)
}

// value prints a JSON value.
func (o *output) value(w io.Writer, data []byte) (err error) {
	var text []byte
	switch o.form {
	case asYAML:
		text, err = yaml.JSONToYAML(data)
	case asTemplate:
		if err = o.parsed.Execute(w, data); err == nil {
			text = []byte("\n")
		}
	default:
		var b bytes.Buffer
		err = json.Indent(&b, data, "", "  ")
		text = append(b.Bytes(), '\n')
	}
	if err != nil {
		return fmt.Errorf("print the answer as %s: %w", o.form, err)
	}
	_, err = w.Write(text)
	return err
}

func messageJSON(m proto.Message) ([]byte, error) {
	data, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("the answer as JSON: %w", err)
	}
	return data, nil
}

// table prints rows in aligned columns below their names, as crictl does, also where stdout is no terminal.
type table struct{ w *tabwriter.Writer }

func newTable(columns ...string) *table {
	t := &table{tabwriter.NewWriter(os.Stdout, 20, 1, 3, ' ', 0)}
	t.row(columns...)
	return t
}

func (t *table) row(fields ...string) { fmt.Fprintln(t.w, strings.Join(fields, "\t")) }

func (t *table) flush() error { return t.w.Flush() }

// shortID is the part of an id that tables show.
func shortID(id string, whole bool) string {
	const digits = 13
	id = strings.TrimPrefix(id, "sha256:")
	if whole || len(id) <= digits {
		return id
	}
	return id[:digits]
}

// ago says how long ago a time in nanoseconds since 1970 was.
func ago(nanoseconds int64) string {
	return units.HumanDuration(time.Since(time.Unix(0, nanoseconds))) + " ago"
}

// details prints what is known of a thing, a fact a line.
type details struct{ w io.Writer }

func (d details) fact(name string, value any) {
	if s := fmt.Sprint(value); s != "" {
		fmt.Fprintf(d.w, "%s: %s\n", name, s)
	}
}

func (d details) pairs(name string, pairs map[string]string) {
	if len(pairs) == 0 {
		return
	}
	fmt.Fprintf(d.w, "%s:\n", name)
	for _, k := range slices.Sorted(maps.Keys(pairs)) {
		fmt.Fprintf(d.w, "\t%s -> %s\n", k, pairs[k])
	}
}
