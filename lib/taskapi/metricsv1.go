// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// v1 are the messages of cgroup v1 that have numbers only.
type v1 struct{ pids, cpu, throttle, stat, memory, swap, oom numbers }

// v1 has swap apart, because its numbers are memory and swap together.
func (m *Metrics) v1(swapUsage, swapLimit *uint64) v1 {
	return v1{
		pids:     numbers{fields: []number{{1, &m.Pids}, {2, &m.PidsLimit}}},
		cpu:      numbers{fields: []number{{1, &m.CPUUsage}, {2, &m.CPUSystem}, {3, &m.CPUUser}}},
		throttle: numbers{fields: []number{{1, &m.Periods}, {2, &m.ThrottledPeriods}, {3, &m.ThrottledTime}}},
		// Each number twice, as the cgroup's own and with its descendants; the
		// latter is what callers read, and what counts when both came.
		stat: numbers{fields: []number{
			{1, &m.File}, {2, &m.Anon}, {9, &m.PageFaults}, {10, &m.MajorPageFaults}, {13, &m.InactiveFile},
			{18, &m.File}, {19, &m.Anon}, {26, &m.PageFaults}, {27, &m.MajorPageFaults}, {30, &m.InactiveFile},
		}},
		memory: numbers{fields: []number{{1, &m.MemoryLimit}, {2, &m.MemoryUsage}, {3, &m.MemoryPeak}}},
		swap:   numbers{fields: []number{{1, swapLimit}, {2, swapUsage}}},
		oom:    numbers{fields: []number{{3, &m.OOMKills}}},
	}
}

// MetricsV1 encodes m as io.containerd.cgroups.v1.Metrics, in which a missing
// limit of pids is 0.
func MetricsV1(m Metrics) *Any {
	if m.PidsLimit == math.MaxUint64 {
		m.PidsLimit = 0
	}
	swapUsage, swapLimit := m.SwapUsage, m.SwapLimit
	if swapUsage > 0 || swapLimit > 0 {
		swapUsage = plus(swapUsage, m.MemoryUsage)
	}
	if swapLimit > 0 {
		swapLimit = plus(swapLimit, m.MemoryLimit)
	}
	v := m.v1(&swapUsage, &swapLimit)

	b := putMessage(nil, 2, v.pids)
	cpu := putMessage(nil, 1, v.cpu)
	b = putBytes(b, 3, putMessage(cpu, 2, v.throttle))
	memory := putMessage(v.stat.append(nil), 33, v.memory)
	if swapUsage > 0 || swapLimit > 0 {
		memory = putMessage(memory, 34, v.swap)
	}
	b = putBytes(b, 4, memory)
	var io []byte
	for i := range m.IO {
		d := &m.IO[i]
		io = d.putV1(io, 1, "Read", d.ReadBytes)
		io = d.putV1(io, 1, "Write", d.WriteBytes)
		io = d.putV1(io, 2, "Read", d.ReadOps)
		io = d.putV1(io, 2, "Write", d.WriteOps)
	}
	b = putBytes(b, 5, io)
	b = putMessage(b, 9, v.oom)
	return &Any{TypeURL: metricsV1URL, Value: b}
}

func (d *IOMetrics) putV1(b []byte, num protowire.Number, op string, value uint64) []byte {
	return putMessage(b, num, &ioV1{op: op, major: d.Major, minor: d.Minor, value: value})
}

func parseV1(b []byte, m *Metrics) error {
	var swapUsage, swapLimit uint64
	v := m.v1(&swapUsage, &swapLimit)
	cpu := numbers{rest: func(f field) error {
		switch f.num {
		case 1:
			return f.message(v.cpu)
		case 2:
			return f.message(v.throttle)
		}
		return nil
	}}
	memory := numbers{fields: v.stat.fields, rest: func(f field) error {
		switch f.num {
		case 33:
			return f.message(v.memory)
		case 34:
			return f.message(v.swap)
		}
		return nil
	}}
	io := numbers{rest: m.setIOV1}
	err := decode(b, numbers{rest: func(f field) error {
		switch f.num {
		case 2:
			return f.message(v.pids)
		case 3:
			return f.message(cpu)
		case 4:
			return f.message(memory)
		case 5:
			return f.message(io)
		case 9:
			return f.message(v.oom)
		}
		return nil
	}})
	m.SwapUsage, m.SwapLimit = minus(swapUsage, m.MemoryUsage), minus(swapLimit, m.MemoryLimit)
	if swapLimit == math.MaxUint64 {
		m.SwapLimit = swapLimit
	}
	return err
}

// setIOV1 takes one entry of a BlkIOStat; other operations than these are sums
// of them, or of no interest here.
func (m *Metrics) setIOV1(f field) error {
	if f.typ != protowire.BytesType || f.num != 1 && f.num != 2 {
		return nil
	}
	var e ioV1
	if err := decode(f.b, &e); err != nil {
		return err
	}
	if e.op != "Read" && e.op != "Write" {
		return nil
	}
	d, err := m.device(e.major, e.minor)
	if err != nil {
		return err
	}
	switch {
	case f.num == 1 && e.op == "Read":
		d.ReadBytes = e.value
	case f.num == 1:
		d.WriteBytes = e.value
	case e.op == "Read":
		d.ReadOps = e.value
	default:
		d.WriteOps = e.value
	}
	return nil
}

// ioV1 is BlkIOEntry without the device's name.
type ioV1 struct {
	op                  string
	major, minor, value uint64
}

func (m *ioV1) append(b []byte) []byte {
	b = putString(b, 1, m.op)
	b = putUint(b, 3, m.major)
	b = putUint(b, 4, m.minor)
	return putUint(b, 5, m.value)
}

func (m *ioV1) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.op)
	case 3:
		return f.uint64(&m.major)
	case 4:
		return f.uint64(&m.minor)
	case 5:
		return f.uint64(&m.value)
	}
	return nil
}

// plus is a+b, or the largest number when that is larger.
func plus(a, b uint64) uint64 {
	if a+b < a {
		return math.MaxUint64
	}
	return a + b
}

// minus is a-b, or 0 when that is less.
func minus(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}
