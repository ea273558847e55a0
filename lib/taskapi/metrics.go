// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"errors"
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
)

// The type URLs that containerd's clients look for in StatsResponse.
const (
	metricsV1URL = "io.containerd.cgroups.v1.Metrics"
	metricsV2URL = "io.containerd.cgroups.v2.Metrics"
)

// Metrics is what a task's cgroup uses. Times are nanoseconds, amounts bytes;
// 0 is also "not known". A limit that is not set is math.MaxUint64.
type Metrics struct {
	Pids, PidsLimit uint64

	CPUUsage, CPUUser, CPUSystem uint64
	Periods, ThrottledPeriods    uint64 // enforcement intervals
	ThrottledTime                uint64

	MemoryUsage, MemoryLimit    uint64
	MemoryPeak                  uint64
	SwapUsage, SwapLimit        uint64 // swap alone, without memory
	Anon, File                  uint64 // anonymous memory, page cache
	InactiveFile                uint64
	PageFaults, MajorPageFaults uint64 // count
	OOMKills                    uint64 // count

	IO []IOMetrics
}

// IOMetrics is what a cgroup did on one block device.
type IOMetrics struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
}

// number is one numeric field: of the encoding, and of Metrics or IOMetrics.
type number struct {
	num protowire.Number
	p   *uint64
}

// numbers is a message of numeric fields; other ones go to rest, if set.
type numbers struct {
	fields []number
	rest   func(field) error
}

func (m numbers) append(b []byte) []byte {
	for _, n := range m.fields {
		b = putUint(b, n.num, *n.p)
	}
	return b
}

func (m numbers) set(f field) error {
	for _, n := range m.fields {
		if n.num == f.num {
			if err := f.uint64(n.p); err != nil {
				return err
			}
		}
	}
	if m.rest != nil {
		return m.rest(f)
	}
	return nil
}

// maxDevices bounds what a few bytes can make ParseMetrics allocate and search.
const maxDevices = 4096

// device is the entry of a block device, made when missing.
func (m *Metrics) device(major, minor uint64) (*IOMetrics, error) {
	for i := range m.IO {
		if d := &m.IO[i]; d.Major == major && d.Minor == minor {
			return d, nil
		}
	}
	if len(m.IO) == maxDevices {
		return nil, errors.New("too many block devices")
	}
	m.IO = append(m.IO, IOMetrics{Major: major, Minor: minor})
	return &m.IO[len(m.IO)-1], nil
}

// ParseMetrics reads either encoding, whoever made it; fields that Metrics does
// not have are dropped. Another type URL, or none, is errdefs.ErrNotImplemented.
func ParseMetrics(a *Any) (Metrics, error) {
	var m Metrics
	var err error
	switch {
	case a == nil:
		return m, fmt.Errorf("metrics of no type: %w", errdefs.ErrNotImplemented)
	case a.TypeURL == metricsV1URL:
		err = parseV1(a.Value, &m)
	case a.TypeURL == metricsV2URL:
		err = parseV2(a.Value, &m)
	default:
		return m, fmt.Errorf("metrics of type %q: %w", a.TypeURL, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return Metrics{}, fmt.Errorf("read %s: %w: %w", a.TypeURL, err, errdefs.ErrInternal)
	}
	return m, nil
}

// v2 are the messages of cgroup v2 that have numbers only. CPU times are
// microseconds in it.
type v2 struct{ pids, cpu, memory, events numbers }

func (m *Metrics) v2() v2 {
	return v2{
		pids: numbers{fields: []number{{1, &m.Pids}, {2, &m.PidsLimit}}},
		cpu: numbers{fields: []number{
			{1, &m.CPUUsage}, {2, &m.CPUUser}, {3, &m.CPUSystem},
			{4, &m.Periods}, {5, &m.ThrottledPeriods}, {6, &m.ThrottledTime},
		}},
		memory: numbers{fields: []number{
			{1, &m.Anon}, {2, &m.File}, {13, &m.InactiveFile}, {18, &m.PageFaults}, {19, &m.MajorPageFaults},
			{32, &m.MemoryUsage}, {33, &m.MemoryLimit}, {34, &m.SwapUsage}, {35, &m.SwapLimit}, {36, &m.MemoryPeak},
		}},
		events: numbers{fields: []number{{5, &m.OOMKills}}},
	}
}

func (d *IOMetrics) v2() numbers {
	return numbers{fields: []number{
		{1, &d.Major}, {2, &d.Minor}, {3, &d.ReadBytes}, {4, &d.WriteBytes}, {5, &d.ReadOps}, {6, &d.WriteOps},
	}}
}

// MetricsV2 encodes m as io.containerd.cgroups.v2.Metrics. CPU times lose what
// is less than a microsecond.
func MetricsV2(m Metrics) *Any {
	for _, t := range m.times() {
		*t /= 1000
	}
	v := m.v2()
	var io []byte
	for i := range m.IO {
		io = putMessage(io, 1, m.IO[i].v2())
	}
	b := putMessage(nil, 1, v.pids)
	b = putMessage(b, 2, v.cpu)
	b = putMessage(b, 4, v.memory)
	b = putBytes(b, 6, io)
	b = putMessage(b, 8, v.events)
	return &Any{TypeURL: metricsV2URL, Value: b}
}

func (m *Metrics) times() []*uint64 {
	return []*uint64{&m.CPUUsage, &m.CPUUser, &m.CPUSystem, &m.ThrottledTime}
}

func parseV2(b []byte, m *Metrics) error {
	v := m.v2()
	io := numbers{rest: func(f field) error {
		if f.num != 1 || f.typ != protowire.BytesType {
			return nil
		}
		if len(m.IO) == maxDevices {
			return errors.New("too many block devices")
		}
		m.IO = append(m.IO, IOMetrics{})
		return f.message(m.IO[len(m.IO)-1].v2())
	}}
	err := decode(b, numbers{rest: func(f field) error {
		switch f.num {
		case 1:
			return f.message(v.pids)
		case 2:
			return f.message(v.cpu)
		case 4:
			return f.message(v.memory)
		case 6:
			return f.message(io)
		case 8:
			return f.message(v.events)
		}
		return nil
	}})
	for _, t := range m.times() {
		*t = times(*t, 1000)
	}
	return err
}

// times is a*b, or the largest number when that is larger.
func times(a, b uint64) uint64 {
	if a > math.MaxUint64/b {
		return math.MaxUint64
	}
	return a * b
}
