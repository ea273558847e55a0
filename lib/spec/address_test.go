// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The files that the container has mounted are changed in place.
func TestWriteAddresses(t *testing.T) {
	dir := t.TempDir()
	s := &specs.Spec{Hostname: "c", Domainname: "d.example", Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}},
		Mounts: []specs.Mount{{Source: hostsFile}, {Source: resolvFile}, {Source: hostnameFile}}}
	e := Etc{Networked: true, Hosts: []string{"192.0.2.1\tx"}}
	if err := WriteFiles(dir, s, e, ""); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(filepath.Join(dir, hostsFile))
	if err != nil {
		t.Fatal(err)
	}
	a := Addresses{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}, Servers: []string{"10.0.0.1"}, Search: []string{"cluster"}}
	if err := WriteAddresses(dir, s, e, a); err != nil {
		t.Fatal(err)
	}
	hosts, err := os.ReadFile(filepath.Join(dir, hostsFile))
	if want := "192.0.2.1\tx\n10.0.0.2\tc.d.example c\nfd00::2\tc.d.example c\n"; err != nil || !strings.HasSuffix(string(hosts), want) || strings.Contains(string(hosts), "127.0.0.1\tc") {
		t.Errorf("hosts %q, %v", hosts, err)
	}
	resolv, err := os.ReadFile(filepath.Join(dir, resolvFile))
	if err != nil || !strings.Contains(string(resolv), "nameserver 10.0.0.1\n") || !strings.Contains(string(resolv), "search cluster\n") {
		t.Errorf("resolv.conf %q, %v", resolv, err)
	}
	if after, err := os.Stat(filepath.Join(dir, hostsFile)); err != nil || !os.SameFile(before, after) {
		t.Errorf("another file: %v", err)
	}
}

func TestWithoutLoopback(t *testing.T) {
	kept, n := withoutLoopback("nameserver 127.0.0.53\nnameserver ::1\noptions edns0\nnameserver 192.0.2.53\n")
	if n != 1 || kept != "options edns0\nnameserver 192.0.2.53\n" {
		t.Errorf("%q, %d", kept, n)
	}
}
