// SPDX-License-Identifier: Apache-2.0

package port

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"80":                       "0:80/tcp",
		"8080:80":                  "8080:80/tcp",
		"8080:80/UDP":              "8080:80/udp",
		"127.0.0.1:8080:80":        "127.0.0.1:8080:80/tcp",
		"127.0.0.1::80":            "127.0.0.1:0:80/tcp",
		"[::1]:8080:80/sctp":       "[::1]:8080:80/sctp",
		"[::ffff:10.0.0.1]:1:2":    "10.0.0.1:1:2/tcp",
		"8000-8002:80-82":          "8000:80/tcp 8001:81/tcp 8002:82/tcp",
		"80-81":                    "0:80/tcp 0:81/tcp",
		"65535:65535":              "65535:65535/tcp",
		"0.0.0.0:1:1":              "0.0.0.0:1:1/tcp",
		":80":                      "0:80/tcp",
		"":                         "",
		"0":                        "",
		"65536":                    "",
		"+80":                      "",
		"80:":                      "",
		"8000-8001:80":             "",
		"82-80":                    "",
		"1-65535":                  "",
		"80/icmp":                  "",
		"host:80:80":               "",
		"::1:80:80":                "",
		"[::1]:80":                 "",
		"[::1%lo]:80:80":           "",
		"1:2:3:4":                  "",
		strings.Repeat("8", 1<<10): "",
		"\x00:80":                  "",
		"80/tcp/udp":               "",
		"127.0.0.1:8080:80 ":       "",
		"8080:80-81":               "",
		"[127.0.0.1]:8080:80":      "127.0.0.1:8080:80/tcp",
	} {
		all, err := Parse(text)
		var got []string
		for _, p := range all {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != want || (err == nil) != (want != "") || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.40q: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	tcp := Port{HostPort: 1, ContainerPort: 2, Protocol: "tcp"}
	local, other := tcp, tcp
	local.HostIP, other.HostIP = "127.0.0.1", "127.0.0.2"
	udp := tcp
	udp.Protocol = "udp"
	chosen := Port{ContainerPort: 2, Protocol: "tcp"}
	for _, good := range [][]Port{nil, {tcp, udp}, {local, other}, {chosen, chosen}} {
		if err := Check(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range [][]Port{{tcp, tcp}, {tcp, local}, {{HostPort: 1, Protocol: "tcp"}}, {{ContainerPort: 1}}, {{ContainerPort: 1, Protocol: "tcp", HostIP: "x"}}, make([]Port, Max+1)} {
		if err := Check(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d ports, %v: %v", len(bad), bad[:1], err)
		}
	}
}

// What is accepted is read again as the same, and within the bounds.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"80", "8080:80/udp", "127.0.0.1::80", "[::1]:8080-8081:80-81", "1:2:3:4", "[", "/", ":", "-"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Parse(text)
		if err != nil {
			return
		}
		if len(all) == 0 || len(all) > Max {
			t.Fatalf("%d ports", len(all))
		}
		for _, p := range all {
			same := p.String()
			if p.HostPort == 0 {
				same = strings.Replace(same, "0:", ":", 1)
				if p.HostIP != "" {
					continue
				}
			}
			again, err := Parse(same)
			if err != nil || len(again) != 1 || again[0] != p {
				t.Fatalf("%q gives %+v, again %+v, %v", text, p, again, err)
			}
		}
	})
}
