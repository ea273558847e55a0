// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Addresses are what networks have given a container.
type Addresses struct {
	IPs []netip.Addr
	// Servers, Search and Options are for resolv.conf; those of Etc come before them.
	Servers, Search, Options []string
}

// WriteAddresses writes what networks have given into the files of a bundle that [WriteFiles] has written, when Options.Networked
// was set. The container has them mounted already: they are changed in place.
func WriteAddresses(bundle string, s *specs.Spec, e Etc, a Addresses) error {
	if len(e.Servers) == 0 {
		e.Servers = a.Servers
	}
	if len(e.Search) == 0 {
		e.Search = a.Search
	}
	if len(e.Options) == 0 {
		e.Options = a.Options
	}
	files, err := contents(s, e)
	if err != nil {
		return err
	}
	for name, text := range files {
		switch name {
		case hostsFile:
			for _, ip := range a.IPs {
				text += ip.String() + "\t" + allNames(s, hostname(s)) + "\n"
			}
		case resolvFile:
		default:
			continue
		}
		if err := rewrite(filepath.Join(bundle, name), text); err != nil {
			return err
		}
	}
	return nil
}

// rewrite gives a file that is there another text, and nothing else.
func rewrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// resolvedResolv is where systemd-resolved says which servers it asks itself.
const resolvedResolv = "/run/systemd/resolve/resolv.conf"

// hostServers is the host's resolv.conf. A container with networks of its own does not reach name servers on the host's
// loopback: where there are no others, those of systemd-resolved are taken.
func hostServers(networked bool) (string, error) {
	text, err := hostFile(hostResolv)
	if err != nil || !networked {
		return text, err
	}
	kept, servers := withoutLoopback(text)
	if servers > 0 {
		return kept, nil
	}
	other, err := hostFile(resolvedResolv)
	if err != nil {
		return "", err
	}
	if better, n := withoutLoopback(other); n > 0 {
		return better, nil
	}
	return kept, nil
}

// withoutLoopback drops the name servers on loopback, and counts the others.
func withoutLoopback(text string) (kept string, servers int) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			addr, err := netip.ParseAddr(f[1])
			if err == nil && addr.IsLoopback() {
				continue
			}
			servers++
		}
		b.WriteString(line)
	}
	return b.String(), servers
}
