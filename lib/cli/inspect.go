// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Inspect gets each operand ("-" reads them from stdin) and prints it: as indented JSON, unless an option
// asks for another form.
func (t *Table[T]) Inspect(args []string, get func(name string) (T, error)) error {
	p, err := t.Printer(os.Stdout)
	if err != nil {
		return err
	}
	plain := len(t.columns) == 0 && !t.quiet && !t.json && t.format == ""
	err = Each(Operands(args, os.Stdin), func(name string) error {
		v, err := get(name)
		if err != nil {
			return err
		}
		if !plain {
			return p.Add(v)
		}
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Printf("%s\n", data)
		return err
	})
	return errors.Join(err, p.Flush())
}

// LabelText is labels as a column shows them: key=value, sorted, separated by commas.
func LabelText(labels map[string]string) string {
	var all []string
	for k, v := range labels {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// HasLabels tells whether labels fit every KEY (it is there) and KEY=VALUE of want.
func HasLabels(labels map[string]string, want []string) bool {
	for _, w := range want {
		key, value, exact := strings.Cut(w, "=")
		v, ok := labels[key]
		if !ok || exact && v != value {
			return false
		}
	}
	return true
}

// ParseLabels reads labels as options give them, KEY=VALUE each; a KEY alone has an empty value.
func ParseLabels(given []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, g := range given {
		key, value, _ := strings.Cut(g, "=")
		if key == "" {
			return nil, Usagef("label %q has no key: give KEY=VALUE", g)
		}
		labels[key] = value
	}
	return labels, nil
}
