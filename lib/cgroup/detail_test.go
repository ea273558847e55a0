// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
)

func TestParsePressure(t *testing.T) {
	p := parsePressure("some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.10 total=7\n")
	if p.Some != (Stall{1234000, 1.5, 0.25, 0}) || p.Full != (Stall{7000, 0, 0, 0.1}) {
		t.Errorf("%+v", p)
	}
}

func TestDevices(t *testing.T) {
	var v1, v2 Detail
	v1.addV1("8:0 Read 10\n8:0 Write 20\n8:16 Read 1\nTotal 31\nx Read 1\n", func(d *Device) (read, write *uint64) { return &d.ReadBytes, &d.WriteBytes })
	v1.addV1("8:0 Read 2\n8:0 Write 3\n", func(d *Device) (read, write *uint64) { return &d.Reads, &d.Writes })
	v2.addV2("8:0 rbytes=10 wbytes=20 rios=2 wios=3 dbytes=0\n8:16 rbytes=1 wbytes=0 rios=0\n")
	want := "[{8 0 10 20 2 3} {8 16 1 0 0 0}]"
	if fmt.Sprint(v1.Devices) != want || fmt.Sprint(v2.Devices) != want {
		t.Errorf("%v, %v, want %s", v1.Devices, v2.Devices, want)
	}
}

// What the kernel tells of a cgroup with a process can be read.
func TestMeasureDetail(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		path := newGroup(t, h)
		start(t, h, path, "sleep")
		var d, use, again Detail
		for first := true; first || !reflect.DeepEqual(d, again); first = false { // until the program sleeps
			var errs [3]error
			d, errs[0] = MeasureDetail(path)
			use, errs[1] = MeasureUse(path)
			again, errs[2] = MeasureDetail(path)
			if err := errors.Join(errs[:]...); err != nil {
				t.Fatal(err)
			}
		}
		if h.v1("memory", path) != "" && (d.PageFaults == 0 || d.RSS == 0 || d.Shares == 0 || d.Period == 0) {
			t.Errorf("%+v", d)
		}
		// A kubelet's part of it is the same.
		want := Detail{
			RSS: d.RSS, PageFaults: d.PageFaults, MajorFaults: d.MajorFaults, SwapLimit: d.SwapLimit, HasPressures: d.HasPressures,
			CPUPressure: d.CPUPressure, MemPressure: d.MemPressure, IOPressure: d.IOPressure,
		}
		want.CPU.Total, want.Memory = d.CPU.Total, d.Memory
		want.Memory.Max = 0
		if !reflect.DeepEqual(use, want) {
			t.Errorf("use %+v, want %+v", use, want)
		}
		if n, err := Processes(path); n != 1 || err != nil {
			t.Errorf("%d processes, %v", n, err)
		}
	})
}

func FuzzControlFiles(f *testing.F) {
	f.Add("some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n8:0 Read 10\n8:0 rbytes=10 wios=3")
	f.Fuzz(func(t *testing.T, text string) {
		p := parsePressure(text)
		for _, s := range []Stall{p.Some, p.Full} {
			if s.Avg10 < 0 || s.Avg60 < 0 || s.Avg300 < 0 {
				t.Errorf("%q: %+v", text, s)
			}
		}
		var d Detail
		d.addV1(text, func(d *Device) (read, write *uint64) { return &d.Reads, &d.Writes })
		d.addV2(text)
	})
}
