// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseRate(t *testing.T) {
	for text, want := range map[string]uint64{
		"10M": 10e6, "1.5G": 1.5e9, "1e6": 1e6, "1Ki": 1024, "1000": 1000, "1P": 1e15, "2000000m": 2000,
		"": 0, "M": 0, "10x": 0, "-1M": 0, "999": 0, "2P": 0, "1e": 0, "1e400": 0, "1.2.3M": 0, "0x10": 0, "NaN": 0,
	} {
		got, err := ParseRate(text)
		if got != want || (err == nil) != (want > 0) || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	b, err := ParseBandwidth(map[string]string{IngressAnnotation: "1M", EgressAnnotation: "2M", "other": "x"})
	if err != nil || b != (Bandwidth{IngressRate: 1e6, EgressRate: 2e6}) {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := ParseBandwidth(map[string]string{EgressAnnotation: "fast"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no rate: %v", err)
	}
}

func FuzzParseRate(f *testing.F) {
	for _, text := range []string{"10M", "1.5Gi", "1e6", "", ".", "1e-5", "99999999999999999999E"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseRate(text); err == nil && (n < minRate || n > maxRate) {
			t.Fatalf("%q is %d", text, n)
		}
	})
}

// A configuration that is accepted is the same when it is read back from a record.
func FuzzConf(f *testing.F) {
	for _, text := range []string{
		`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","capabilities":{"ips":true}},{"type":"portmap"}]}`,
		`{"cniVersion":"0.3.1","name":"n","type":"loopback"}`, `{"name":"n","plugins":null}`, `{"name":1}`, `[]`,
		`{"name":"a/b","plugins":[{"type":"x"}]}`, `{"name":"n","plugins":[{"type":"../x"}]}`, `{"cniVersions":["1.1.0","9"],"name":"n","plugins":[{"type":"x"}]}`,
	} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, listed bool) {
		list, err := parse(data, listed)
		if err != nil || len(list.Plugins) == 0 {
			return
		}
		n, err := describe(list)
		if err != nil {
			return
		}
		if checkID(n.Name) != nil {
			t.Fatalf("name %q", n.Name)
		}
		again, err := parse(list.Bytes, true)
		if err != nil || len(again.Plugins) != len(list.Plugins) || again.Name != list.Name || again.CNIVersion != list.CNIVersion {
			t.Fatalf("%s, read back: %v", list.Bytes, err)
		}
	})
}

// An answer of a plugin that is accepted gives addresses that can be printed.
func FuzzResult(f *testing.F) {
	for _, text := range []string{
		`{"cniVersion":"1.0.0","interfaces":[{"name":"veth"},{"name":"eth0","mac":"aa","sandbox":"/x"}],"ips":[{"interface":1,"address":"10.0.0.2/24","gateway":"10.0.0.1"}],"dns":{"nameservers":["1.1.1.1"],"domain":"d"}}`,
		`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}`, `{"cniVersion":"1.0.0","ips":[{"interface":7,"address":"::1/128"}]}`, `{}`, `null`, `{"cniVersion":"1.0.0","ips":[null],"interfaces":[null]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		i, _, err := readResult(answer, "eth0")
		if err != nil {
			return
		}
		for _, p := range i.Addresses {
			if !p.IsValid() {
				t.Fatalf("address %v", p)
			}
		}
	})
}

// The ready-made network keeps away from what has a route or a name server.
func TestFreeSubnet(t *testing.T) {
	one, err := freeSubnet("", nil)
	if err != nil || one != netip.MustParsePrefix("10.208.0.0/20") {
		t.Errorf("%v, %v", one, err)
	}
	used, ok := route4("eth0\t0010D00A\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0")
	if !ok || used != netip.MustParsePrefix("10.208.16.0/20") {
		t.Errorf("route %v, %v", used, ok)
	}
	server, ok := nameServer("nameserver 10.208.0.53")
	if !ok {
		t.Error("no name server")
	}
	if two, err := freeSubnet("", []netip.Prefix{used, server}); err != nil || two != netip.MustParsePrefix("10.208.32.0/20") {
		t.Errorf("%v, %v", two, err)
	}
	if _, err := freeSubnet("x", []netip.Prefix{ownBlock}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("none left: %v", err)
	}
	if p := localSubnet(); !p.Addr().IsPrivate() || p.Bits() != 64 {
		t.Errorf("%v", p)
	}
	if p, ok := route6("fd000000000000000000000000000000 40 00000000000000000000000000000000 00 0 0 0 0 0 eth0"); !ok || p != netip.MustParsePrefix("fd00::/64") {
		t.Errorf("%v, %v", p, ok)
	}
}
