// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"os"
	"strings"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/registry"
)

// PrintPlans prints the hosts that would be asked, in the order given: as a table, or as JSON lines.
func PrintPlans(plans []registry.Plan, asJSON bool) error {
	table := cli.Table[registry.Plan]{Columns: []cli.Column[registry.Plan]{
		{Name: "url", Value: func(p registry.Plan) string { return p.URL }},
		{Name: "capabilities", Value: func(p registry.Plan) string { return p.Capabilities }},
		{Name: "from", Value: func(p registry.Plan) string { return p.From }},
		{Name: "credentials", Value: func(p registry.Plan) string { return p.Credentials }},
		{Name: "tls", Value: trust},
		{Name: "proxy", Value: func(p registry.Plan) string { return orNone(p.Proxy) }},
	}}
	if !asJSON {
		return table.PrintAll(plans)
	}
	for _, p := range plans {
		if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
			return err
		}
	}
	return nil
}

// trust says in a few words whose certificates are accepted.
func trust(p registry.Plan) string {
	var words []string
	switch {
	case strings.HasPrefix(p.URL, "http:"):
		return "no TLS"
	case p.Insecure:
		words = append(words, "any certificate")
	default:
		words = append([]string{"system"}, p.CA...)
	}
	for _, c := range p.Client {
		words = append(words, "client "+c)
	}
	if p.Fallback {
		words = append(words, "or HTTP")
	}
	return strings.Join(words, ", ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
