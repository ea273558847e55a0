// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"strings"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/pull/remote"
	"ctrd.dev/ctrd/lib/registry"
)

// explain prints the hosts that would be asked for each image, in order.
func explain(o options, args []string) error {
	table := cli.Table[registry.Plan]{Columns: []cli.Column[registry.Plan]{
		{Name: "url", Value: func(p registry.Plan) string { return p.URL }},
		{Name: "capabilities", Value: func(p registry.Plan) string { return p.Capabilities }},
		{Name: "from", Value: func(p registry.Plan) string { return p.From }},
		{Name: "credentials", Value: func(p registry.Plan) string { return p.Credentials }},
		{Name: "tls", Value: trust},
		{Name: "proxy", Value: func(p registry.Plan) string { return orNone(p.Proxy) }},
	}}
	return cli.Each(cli.Operands(args, os.Stdin), func(name string) error {
		plans, err := remote.Explain(name, o.registry, o.pull.Warn)
		if err != nil {
			return err
		}
		if !o.json {
			return table.PrintAll(plans)
		}
		for _, p := range plans {
			if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
				return err
			}
		}
		return nil
	})
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
