// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"errors"
	"math"
	"reflect"
	"testing"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

var fullMetrics = Metrics{
	Pids: 1, PidsLimit: 2,
	CPUUsage: 3000, CPUUser: 4000, CPUSystem: 5000,
	Periods: 6, ThrottledPeriods: 7, ThrottledTime: 8000,
	MemoryUsage: 9, MemoryLimit: 10, MemoryPeak: 11, SwapUsage: 12, SwapLimit: 13,
	Anon: 14, File: 15, InactiveFile: 16, PageFaults: 17, MajorPageFaults: 18, OOMKills: 19,
	IO: []IOMetrics{{20, 21, 22, 23, 24, 25}, {26, 27, 28, 29, 30, 31}},
}

func TestFullMetricsAreFull(t *testing.T) {
	v := reflect.ValueOf(fullMetrics)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is not set", v.Type().Field(i).Name)
		}
	}
}

func TestMetricsV2(t *testing.T) {
	want := &stats2.Metrics{
		Pids: &stats2.PidsStat{Current: 1, Limit: 2},
		CPU:  &stats2.CPUStat{UsageUsec: 3, UserUsec: 4, SystemUsec: 5, NrPeriods: 6, NrThrottled: 7, ThrottledUsec: 8},
		Memory: &stats2.MemoryStat{Usage: 9, UsageLimit: 10, MaxUsage: 11, SwapUsage: 12, SwapLimit: 13,
			Anon: 14, File: 15, InactiveFile: 16, Pgfault: 17, Pgmajfault: 18},
		MemoryEvents: &stats2.MemoryEvents{OomKill: 19},
		Io: &stats2.IOStat{Usage: []*stats2.IOEntry{
			{Major: 20, Minor: 21, Rbytes: 22, Wbytes: 23, Rios: 24, Wios: 25},
			{Major: 26, Minor: 27, Rbytes: 28, Wbytes: 29, Rios: 30, Wios: 31},
		}},
	}
	checkMetrics(t, MetricsV2(fullMetrics), "io.containerd.cgroups.v2.Metrics", new(stats2.Metrics), want)
}

func TestMetricsV1(t *testing.T) {
	entry := func(major, minor uint64, op string, value uint64) *stats1.BlkIOEntry {
		return &stats1.BlkIOEntry{Major: major, Minor: minor, Op: op, Value: value}
	}
	want := &stats1.Metrics{
		Pids: &stats1.PidsStat{Current: 1, Limit: 2},
		CPU: &stats1.CPUStat{
			Usage:      &stats1.CPUUsage{Total: 3000, User: 4000, Kernel: 5000},
			Throttling: &stats1.Throttle{Periods: 6, ThrottledPeriods: 7, ThrottledTime: 8000},
		},
		Memory: &stats1.MemoryStat{
			Usage: &stats1.MemoryEntry{Usage: 9, Limit: 10, Max: 11},
			Swap:  &stats1.MemoryEntry{Usage: 21, Limit: 23},
			RSS:   14, Cache: 15, InactiveFile: 16, PgFault: 17, PgMajFault: 18,
			TotalRSS: 14, TotalCache: 15, TotalInactiveFile: 16, TotalPgFault: 17, TotalPgMajFault: 18,
		},
		MemoryOomControl: &stats1.MemoryOomControl{OomKill: 19},
		Blkio: &stats1.BlkIOStat{
			IoServiceBytesRecursive: []*stats1.BlkIOEntry{
				entry(20, 21, "Read", 22), entry(20, 21, "Write", 23), entry(26, 27, "Read", 28), entry(26, 27, "Write", 29)},
			IoServicedRecursive: []*stats1.BlkIOEntry{
				entry(20, 21, "Read", 24), entry(20, 21, "Write", 25), entry(26, 27, "Read", 30), entry(26, 27, "Write", 31)},
		},
	}
	checkMetrics(t, MetricsV1(fullMetrics), "io.containerd.cgroups.v1.Metrics", new(stats1.Metrics), want)
}

func checkMetrics(t *testing.T, a *Any, url string, got, want proto.Message) {
	t.Helper()
	if a.TypeURL != url {
		t.Errorf("type is %q", a.TypeURL)
	}
	if err := proto.Unmarshal(a.Value, got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("encoded\n%v\nwant\n%v", got, want)
	}
	b, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseMetrics(&Any{TypeURL: url, Value: b})
	if err != nil || !reflect.DeepEqual(back, fullMetrics) {
		t.Errorf("parsed\n%+v, %v\nwant\n%+v", back, err, fullMetrics)
	}
}

func TestMetricsWithoutLimits(t *testing.T) {
	m := Metrics{Pids: 1, PidsLimit: math.MaxUint64, MemoryUsage: 5, MemoryLimit: math.MaxUint64, SwapUsage: 3, SwapLimit: math.MaxUint64}
	back, err := ParseMetrics(MetricsV2(m))
	if err != nil || !reflect.DeepEqual(back, m) {
		t.Errorf("v2: %+v, %v", back, err)
	}
	back, err = ParseMetrics(MetricsV1(m))
	m.PidsLimit = 0
	if err != nil || !reflect.DeepEqual(back, m) {
		t.Errorf("v1: %+v, %v", back, err)
	}
}

// TestMetricsOfNoDevice: what clients read of devices is there, if there are none.
func TestMetricsOfNoDevice(t *testing.T) {
	var one stats1.Metrics
	var two stats2.Metrics
	if err := proto.Unmarshal(MetricsV1(Metrics{}).Value, &one); err != nil || one.Blkio == nil {
		t.Errorf("v1: %v, %v", &one, err)
	}
	if err := proto.Unmarshal(MetricsV2(Metrics{}).Value, &two); err != nil || two.Io == nil {
		t.Errorf("v2: %v, %v", &two, err)
	}
}

func TestParseMetricsOfOtherTypes(t *testing.T) {
	for _, a := range []*Any{nil, {}, {TypeURL: "io.containerd.runhcs.v1.Metrics"}} {
		if _, err := ParseMetrics(a); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%v: %v", a, err)
		}
	}
}

func FuzzParseMetrics(f *testing.F) {
	f.Add(true, MetricsV1(fullMetrics).Value)
	f.Add(false, MetricsV2(fullMetrics).Value)
	f.Fuzz(func(t *testing.T, one bool, b []byte) {
		url, theirs, encode := metricsV2URL, proto.Message(new(stats2.Metrics)), MetricsV2
		if one {
			url, theirs, encode = metricsV1URL, new(stats1.Metrics), MetricsV1
		}
		m, err := ParseMetrics(&Any{TypeURL: url, Value: b})
		if err != nil {
			if proto.Unmarshal(b, theirs) == nil && len(b) < maxDevices {
				t.Errorf("%v, but the generated type reads it", err)
			}
			return
		}
		if err := proto.Unmarshal(encode(m).Value, theirs); err != nil {
			t.Error(err)
		}
	})
}
