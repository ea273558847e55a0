// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Detail is Stats and what else the monitoring of a node reports of a cgroup. A figure that the kernel does not give is 0.
type Detail struct {
	Stats
	RSS         uint64 // anonymous memory and swap cache, in bytes
	Cache       uint64 // page cache, in bytes
	Mapped      uint64 // mapped files, in bytes
	Kernel      uint64 // bytes
	PageFaults  uint64 // major ones included
	MajorFaults uint64
	LimitHits   uint64 // how often usage met the limit
	Reservation uint64 // memory that is reclaimed last, in bytes; 0 is none
	SwapLimit   uint64 // of swap alone, in bytes; 0 is none

	Shares       uint64 // weight of processor time, as v1 counts: 1024 is the usual one
	Quota        uint64 // microseconds of processor time in a period; 0 is no bound
	Period       uint64 // microseconds
	CPUPressure  Pressure
	MemPressure  Pressure
	IOPressure   Pressure
	Devices      []Device
	HugePages    []HugePages
	HasPressures bool // the kernel tells pressure
}

// Pressure is how long processes have waited for a resource: some of them, or all at once (Documentation/accounting/psi.rst).
type Pressure struct{ Some, Full Stall }

// Stall is a time and its share, in percent, over the last 10, 60 and 300 seconds.
type Stall struct {
	Total                uint64 // nanoseconds
	Avg10, Avg60, Avg300 float64
}

// Device is traffic with one block device.
type Device struct {
	Major, Minor          uint32
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64 // operations
}

// HugePages is use of huge pages of one size.
type HugePages struct {
	Size       string // as in the names of control files: "2MB", "1GB"
	Usage, Max uint64 // bytes
}

// MeasureDetail is [Measure] with the other figures.
func MeasureDetail(path string) (Detail, error) {
	return measureDetail(path, func(t tree, r *reader, d *Detail) {
		t.stats(r, path, &d.Stats)
		t.memoryUse(r, path, d)
		t.memoryDetail(r, path, d)
		t.cpuDetail(r, path, d)
		t.pressures(r, path, d)
		t.devices(r, path, d)
		t.hugePages(r, path, d)
	})
}

// MeasureUse measures what a kubelet asks for often, in a quarter of the files that [MeasureDetail] reads: CPU.Total, Memory without Max,
// RSS, PageFaults, MajorFaults, SwapLimit and the pressures. All else is 0.
func MeasureUse(path string) (Detail, error) {
	return measureDetail(path, func(t tree, r *reader, d *Detail) {
		d.CPU.Total = t.cpuTotal(r, path)
		t.memory(r, path, &d.Memory)
		t.memoryUse(r, path, d)
		t.pressures(r, path, d)
	})
}

func measureDetail(path string, fill func(tree, *reader, *Detail)) (d Detail, err error) {
	t, err := open(path)
	if err != nil {
		return Detail{}, err
	}
	if !t.exists(path) {
		return Detail{}, fmt.Errorf("measure cgroup %q: %w", path, errdefs.ErrNotFound)
	}
	r := &reader{v2: t.v2(path)}
	fill(t, r, &d)
	if len(r.errs) > 0 {
		return Detail{}, fmt.Errorf("measure cgroup %q: %w", path, errors.Join(r.errs...))
	}
	return d, nil
}

// bounded is 0 for what v1 says where there is no limit, the largest multiple of the page size.
func bounded(n uint64) uint64 {
	if n > math.MaxInt64>>1 {
		return 0
	}
	return n
}

// memoryUse fills in what MeasureUse has besides [Memory], whose limit is known.
func (t tree) memoryUse(r *reader, path string, d *Detail) {
	dir := t.v1("memory", path)
	if dir == "" {
		stat := r.text(r.v2, "memory.stat")
		d.RSS, d.PageFaults, d.MajorFaults = keyed(stat, "anon"), keyed(stat, "pgfault"), keyed(stat, "pgmajfault")
		d.SwapLimit = r.number(r.v2, "memory.swap.max")
		return
	}
	stat := r.text(dir, "memory.stat")
	d.RSS, d.PageFaults, d.MajorFaults = keyed(stat, "total_rss"), keyed(stat, "total_pgfault"), keyed(stat, "total_pgmajfault")
	if d.Memory.Limit == 0 {
		return
	}
	// v1 bounds memory and swap together.
	if both := bounded(r.number(dir, "memory.memsw.limit_in_bytes")); both > d.Memory.Limit {
		d.SwapLimit = both - d.Memory.Limit
	}
}

func (t tree) memoryDetail(r *reader, path string, d *Detail) {
	dir := t.v1("memory", path)
	if dir == "" {
		stat := r.text(r.v2, "memory.stat")
		d.Cache, d.Mapped, d.Kernel = keyed(stat, "file"), keyed(stat, "file_mapped"), keyed(stat, "kernel")
		d.LimitHits = keyed(r.text(r.v2, "memory.events"), "max")
		d.Reservation = r.number(r.v2, "memory.low")
		return
	}
	stat := r.text(dir, "memory.stat")
	d.Cache, d.Mapped = keyed(stat, "total_cache"), keyed(stat, "total_mapped_file")
	d.Kernel = r.number(dir, "memory.kmem.usage_in_bytes")
	d.LimitHits = r.number(dir, "memory.failcnt")
	d.Reservation = bounded(r.number(dir, "memory.soft_limit_in_bytes"))
}

func (t tree) cpuDetail(r *reader, path string, d *Detail) {
	if dir := t.v1("cpu", path); dir != "" {
		d.Shares, d.Period = r.number(dir, "cpu.shares"), r.number(dir, "cpu.cfs_period_us")
		d.Quota = r.number(dir, "cpu.cfs_quota_us") // -1 is no number here
		return
	}
	if w := r.number(r.v2, "cpu.weight"); w > 0 {
		d.Shares = 2 + (w-1)*262142/9999 // as OCI runtimes convert it
	}
	quota, period, _ := strings.Cut(strings.TrimSpace(r.text(r.v2, "cpu.max")), " ")
	d.Quota, _ = strconv.ParseUint(quota, 10, 64)
	d.Period, _ = strconv.ParseUint(period, 10, 64)
}

func (t tree) pressures(r *reader, path string, d *Detail) {
	for _, one := range []struct {
		name string
		to   *Pressure
	}{{"cpu.pressure", &d.CPUPressure}, {"memory.pressure", &d.MemPressure}, {"io.pressure", &d.IOPressure}} {
		// It cannot be read where the kernel was booted without.
		text, err := read(r.v2, one.name)
		if err != nil || text == "" {
			return
		}
		*one.to = parsePressure(text)
		d.HasPressures = true
	}
}

// parsePressure reads lines of the form "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", the total in microseconds.
func parsePressure(text string) (p Pressure) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var s Stall
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			x, err := strconv.ParseFloat(value, 64)
			if err != nil || !(x >= 0 && x < 1e15) {
				continue
			}
			switch key {
			case "avg10":
				s.Avg10 = x
			case "avg60":
				s.Avg60 = x
			case "avg300":
				s.Avg300 = x
			case "total":
				s.Total = uint64(x) * 1000
			}
		}
		switch f[0] {
		case "some":
			p.Some = s
		case "full":
			p.Full = s
		}
	}
	return p
}

func (t tree) devices(r *reader, path string, d *Detail) {
	dir := t.v1("blkio", path)
	if dir == "" {
		d.addV2(r.text(r.v2, "io.stat"))
		return
	}
	for _, prefix := range []string{"blkio.throttle.", "blkio.bfq.", "blkio."} {
		d.addV1(r.text(dir, prefix+"io_service_bytes_recursive"), func(one *Device) (read, write *uint64) { return &one.ReadBytes, &one.WriteBytes })
		d.addV1(r.text(dir, prefix+"io_serviced_recursive"), func(one *Device) (read, write *uint64) { return &one.Reads, &one.Writes })
		if len(d.Devices) > 0 {
			return
		}
	}
}

// device finds or adds the device of a name "MAJOR:MINOR", or gives nil.
func (d *Detail) device(name string) *Device {
	a, b, _ := strings.Cut(name, ":")
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	is := func(one Device) bool { return one.Major == uint32(major) && one.Minor == uint32(minor) }
	i := slices.IndexFunc(d.Devices, is)
	if i < 0 {
		i = len(d.Devices)
		d.Devices = append(d.Devices, Device{Major: uint32(major), Minor: uint32(minor)})
	}
	return &d.Devices[i]
}

// addV1 adds lines of the form "8:0 Read 4096".
func (d *Detail) addV1(text string, at func(*Device) (read, write *uint64)) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[1] != "Read" && f[1] != "Write" {
			continue
		}
		one := d.device(f[0])
		n, err := strconv.ParseUint(f[2], 10, 64)
		if err != nil || one == nil {
			continue
		}
		read, write := at(one)
		if f[1] == "Read" {
			*read += n
		} else {
			*write += n
		}
	}
}

// addV2 adds lines of the form "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 ...".
func (d *Detail) addV2(text string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		one := d.device(f[0])
		if one == nil {
			continue
		}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			n, _ := strconv.ParseUint(value, 10, 64)
			switch key {
			case "rbytes":
				one.ReadBytes += n
			case "wbytes":
				one.WriteBytes += n
			case "rios":
				one.Reads += n
			case "wios":
				one.Writes += n
			}
		}
	}
}

func (t tree) hugePages(r *reader, path string, d *Detail) {
	dir, usage, most := t.v1("hugetlb", path), ".usage_in_bytes", ".max_usage_in_bytes"
	if dir == "" {
		dir, usage, most = r.v2, ".current", ""
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		size, ok := strings.CutPrefix(e.Name(), "hugetlb.")
		if size, ok2 := strings.CutSuffix(size, usage); ok && ok2 && !strings.Contains(size, ".") {
			h := HugePages{Size: size, Usage: r.number(dir, e.Name())}
			if most != "" {
				h.Max = r.number(dir, "hugetlb."+size+most)
			}
			d.HugePages = append(d.HugePages, h)
		}
	}
}
