// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Stats is what a cgroup and all below it use. A figure whose controller is not mounted is 0.
type Stats struct {
	CPU    CPU     `json:"cpu"`
	Memory Memory  `json:"memory"`
	Pids   PidsUse `json:"pids"`
	Block  Block   `json:"block"`
}

// CPU is processor time since the cgroup was made.
type CPU struct {
	Total  uint64 `json:"total"`  // nanoseconds
	User   uint64 `json:"user"`   // nanoseconds, to 10 ms on v1
	System uint64 `json:"system"` // nanoseconds, to 10 ms on v1

	Periods          uint64 `json:"periods"`           // enforcement periods of the quota that passed
	ThrottledPeriods uint64 `json:"throttled_periods"` // those in which the quota was used up
	Throttled        uint64 `json:"throttled"`         // nanoseconds spent throttled
}

// Memory is in bytes.
type Memory struct {
	Usage        uint64 `json:"usage"`         // page cache included
	Limit        uint64 `json:"limit"`         // of this cgroup itself; 0 is none
	Max          uint64 `json:"max"`           // highest usage so far; 0 where the kernel does not say (v2 before 5.19)
	InactiveFile uint64 `json:"inactive_file"` // page cache that would be given up first
	Swap         uint64 `json:"swap"`
}

// Working is usage without the page cache that would be given up first, as docker shows it.
func (m Memory) Working() uint64 {
	if m.InactiveFile > m.Usage {
		return m.Usage
	}
	return m.Usage - m.InactiveFile
}

// PidsUse counts processes and threads.
type PidsUse struct {
	Current uint64 `json:"current"`
	Limit   uint64 `json:"limit"` // of this cgroup itself; 0 is none
}

// Block is traffic with block devices, in bytes.
type Block struct {
	Read  uint64 `json:"read"`
	Write uint64 `json:"write"`
}

// Measure measures the cgroup. A cgroup that exists in no hierarchy is errdefs.ErrNotFound. The
// figures are read one after the other and so are not of exactly one moment.
func Measure(path string) (Stats, error) {
	t, err := open(path)
	if err != nil {
		return Stats{}, err
	}
	if !t.exists(path) {
		return Stats{}, fmt.Errorf("measure cgroup %q: %w", path, errdefs.ErrNotFound)
	}
	s, err := t.measure(path)
	if err != nil {
		return Stats{}, fmt.Errorf("measure cgroup %q: %w", path, err)
	}
	return s, nil
}

func (t tree) measure(path string) (s Stats, err error) {
	r := &reader{v2: t.v2(path)}
	t.stats(r, path, &s)
	return s, errors.Join(r.errs...)
}

func (t tree) stats(r *reader, path string, s *Stats) {
	t.cpu(r, path, &s.CPU)
	t.memory(r, path, &s.Memory)
	if dir := t.v1("memory", path); dir != "" {
		s.Memory.Max = r.number(dir, "memory.max_usage_in_bytes")
	} else {
		s.Memory.Max = r.number(r.v2, "memory.peak")
	}
	pids := r.v2
	if dir := t.v1("pids", path); dir != "" {
		pids = dir
	}
	s.Pids = PidsUse{Current: r.number(pids, "pids.current"), Limit: r.number(pids, "pids.max")}
	t.block(r, path, &s.Block)
}

// tick is the length of USER_HZ in nanoseconds: 100 a second on every architecture that Go runs on.
const tick = 10_000_000

func (t tree) cpu(r *reader, path string, c *CPU) {
	c.Total = t.cpuTotal(r, path)
	if dir := t.v1("cpuacct", path); dir != "" {
		stat := r.text(dir, "cpuacct.stat")
		c.User, c.System = keyed(stat, "user")*tick, keyed(stat, "system")*tick
	} else {
		stat := r.text(r.v2, "cpu.stat")
		c.User, c.System = keyed(stat, "user_usec")*1000, keyed(stat, "system_usec")*1000
	}
	stat := ""
	if dir := t.v1("cpu", path); dir != "" {
		stat = r.text(dir, "cpu.stat")
		c.Throttled = keyed(stat, "throttled_time")
	} else {
		stat = r.text(r.v2, "cpu.stat")
		c.Throttled = keyed(stat, "throttled_usec") * 1000
	}
	c.Periods, c.ThrottledPeriods = keyed(stat, "nr_periods"), keyed(stat, "nr_throttled")
}

func (t tree) cpuTotal(r *reader, path string) uint64 {
	if dir := t.v1("cpuacct", path); dir != "" {
		return r.number(dir, "cpuacct.usage")
	}
	return keyed(r.text(r.v2, "cpu.stat"), "usage_usec") * 1000
}

// memory fills in all but Max.
func (t tree) memory(r *reader, path string, m *Memory) {
	if dir := t.v1("memory", path); dir != "" {
		stat := r.text(dir, "memory.stat")
		*m = Memory{
			Usage:        r.number(dir, "memory.usage_in_bytes"),
			Limit:        r.number(dir, "memory.limit_in_bytes"),
			InactiveFile: keyed(stat, "total_inactive_file"),
			Swap:         keyed(stat, "total_swap"),
		}
		// v1 says "none" with the largest multiple of the page size.
		if m.Limit > math.MaxInt64>>1 {
			m.Limit = 0
		}
		return
	}
	*m = Memory{
		Usage:        r.number(r.v2, "memory.current"),
		Limit:        r.number(r.v2, "memory.max"),
		InactiveFile: keyed(r.text(r.v2, "memory.stat"), "inactive_file"),
		Swap:         r.number(r.v2, "memory.swap.current"),
	}
}

func (t tree) block(r *reader, path string, b *Block) {
	dir := t.v1("blkio", path)
	if dir == "" {
		b.addV2(r.text(r.v2, "io.stat"))
		return
	}
	// Each scheduler counts in its own file, and only devices that use it; the throttling layer sees
	// all of them but is empty on some old kernels.
	for _, name := range []string{"blkio.throttle.io_service_bytes_recursive", "blkio.bfq.io_service_bytes_recursive", "blkio.io_service_bytes_recursive"} {
		b.addV1(r.text(dir, name))
		if b.Read > 0 || b.Write > 0 {
			return
		}
	}
}

// addV1 sums lines of the form "8:0 Read 4096".
func (b *Block) addV1(text string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 64)
		if err != nil {
			continue
		}
		switch f[1] {
		case "Read":
			b.Read += n
		case "Write":
			b.Write += n
		}
	}
}

// addV2 sums lines of the form "8:0 rbytes=4096 wbytes=0 rios=1 ...".
func (b *Block) addV2(text string) {
	for field := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(field, "=")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "rbytes":
			b.Read += n
		case "wbytes":
			b.Write += n
		}
	}
}

// reader reads control files, each once, and keeps the errors for later. A missing file reads as "".
type reader struct {
	v2    string
	errs  []error
	texts map[[2]string]string // of directory and name
}

func (r *reader) text(dir, name string) string {
	key := [2]string{dir, name}
	if s, ok := r.texts[key]; ok {
		return s
	}
	s, err := read(dir, name)
	if err != nil {
		r.errs = append(r.errs, err)
	}
	if r.texts == nil {
		r.texts = map[[2]string]string{}
	}
	r.texts[key] = s
	return s
}

// number reads a file that holds one number, or "max", which is 0.
func (r *reader) number(dir, name string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(r.text(dir, name)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// keyed finds a number in a file of "key number" lines; 0 when it is not there.
func keyed(text, key string) uint64 {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key); ok && len(value) > 0 && value[0] == ' ' {
			n, _ := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}
