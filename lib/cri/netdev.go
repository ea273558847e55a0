// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"os"
	"strconv"
	"strings"
)

// link is a network interface and its traffic.
type link struct {
	name   string
	rx, tx traffic
}

type traffic struct{ bytes, packets, errors, dropped uint64 }

// interfaces reads the interfaces of the network namespace at path, but the loopback one.
func interfaces(path string) (links []link, err error) {
	err = inNetwork(path, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		links = parseNetDev(string(text))
		return err
	})
	return links, err
}

// parseNetDev reads the table of proc_net(5), "net/dev": a name, a colon, eight figures of what was received and eight of
// what was sent.
func parseNetDev(text string) (links []link) {
	for line := range strings.Lines(text) {
		i := strings.LastIndexByte(line, ':')
		if i < 0 {
			continue // a heading
		}
		name, f := strings.TrimSpace(line[:i]), strings.Fields(line[i+1:])
		if len(f) < 16 || name == "" || name == "lo" {
			continue
		}
		var n [16]uint64
		for k := range n {
			n[k], _ = strconv.ParseUint(f[k], 10, 64)
		}
		links = append(links, link{name, traffic{n[0], n[1], n[2], n[3]}, traffic{n[8], n[9], n[10], n[11]}})
	}
	return links
}
