// SPDX-License-Identifier: Apache-2.0

package native

import (
	"strings"
	"testing"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"ctrd.dev/ctrd/lib/taskapi"
)

func newPage() *page { return &page{kinds: map[string]string{}, lines: map[string][]string{}} }

func text(t *testing.T, p *page) string {
	t.Helper()
	var b strings.Builder
	if err := p.write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCallMetrics(t *testing.T) {
	m := NewMetrics()
	m.Histogram = true
	for _, code := range []codes.Code{codes.OK, codes.OK, codes.NotFound} {
		m.begin("unary", "/a.v1.B/C")(code)
	}
	m.begin("bidi_stream", "/a.v1.B/D")
	p := newPage()
	m.calls(p)
	got := text(t, p)
	for _, want := range []string{
		"# TYPE grpc_server_handled_total counter\n",
		`grpc_server_handled_total{grpc_method="C",grpc_service="a.v1.B",grpc_type="unary",grpc_code="OK"} 2` + "\n",
		`grpc_server_handled_total{grpc_method="C",grpc_service="a.v1.B",grpc_type="unary",grpc_code="NotFound"} 1` + "\n",
		`grpc_server_started_total{grpc_method="D",grpc_service="a.v1.B",grpc_type="bidi_stream"} 1` + "\n",
		"# TYPE grpc_server_handling_seconds histogram\n",
		`grpc_server_handling_seconds_bucket{grpc_method="C",grpc_service="a.v1.B",grpc_type="unary",le="+Inf"} 3` + "\n",
		`grpc_server_handling_seconds_count{grpc_method="C",grpc_service="a.v1.B",grpc_type="unary"} 3` + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	(*Metrics)(nil).begin("unary", "/a/b")(codes.OK)
}

func TestEscape(t *testing.T) {
	p := newPage()
	p.add("a", "gauge", 1.5, "b", "x\"y\\z\n")
	if got, want := text(t, p), "# TYPE a gauge\na{b=\"x\\\"y\\\\z\\n\"} 1.5\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// The names that containerd 2.4's core/metrics/cgroups gives to what a task uses.
const (
	namesV1 = `cpu_total_nanoseconds cpu_kernel_nanoseconds cpu_user_nanoseconds per_cpu_nanoseconds cpu_throttle_periods_total
		cpu_throttled_periods_total cpu_throttled_time_nanoseconds hugetlb_usage_bytes hugetlb_failcnt_total hugetlb_max_bytes
		blkio_io_service_bytes_recursive_bytes blkio_io_serviced_recursive_total memory_cache_bytes memory_rss_bytes memory_rss_huge_bytes
		memory_mapped_file_bytes memory_dirty_bytes memory_writeback_bytes memory_pgpgin_bytes memory_pgpgout_bytes memory_pgfault_bytes
		memory_pgmajfault_bytes memory_inactive_anon_bytes memory_unevictable_bytes memory_hierarchical_memory_limit_bytes
		memory_hierarchical_memsw_limit_bytes memory_total_cache_bytes memory_total_pgpgin_bytes memory_total_pgmajfault_bytes
		memory_total_unevictable_bytes memory_usage_failcnt_total memory_usage_limit_bytes memory_usage_max_bytes memory_usage_usage_bytes
		memory_swap_usage_bytes memory_kernel_max_bytes memory_kerneltcp_failcnt_total pids_limit pids_current`
	namesV2 = `cpu_usage_usec_microseconds cpu_user_usec_microseconds cpu_system_usec_microseconds cpu_nr_periods_total cpu_nr_throttled_total
		cpu_throttled_usec_microseconds io_rbytes_bytes io_wbytes_bytes io_rios_total io_wios_total memory_usage_bytes
		memory_usage_limit_bytes memory_swap_usage_bytes memory_swap_limit_bytes memory_file_mapped_bytes memory_pgactivate_bytes
		memory_pgfault_bytes memory_pgmajfault_bytes memory_pglazyfree_bytes memory_inactive_anon_bytes memory_kernel_stack_bytes
		memory_anon_thp_bytes memory_slab_reclaimable_bytes memory_workingset_nodereclaim_bytes memory_thp_collapse_alloc_bytes
		memory_oom_total pids_limit pids_current`
)

func TestTaskMetrics(t *testing.T) {
	one := []*stats1.BlkIOEntry{{Op: "Read", Device: "/dev/x", Major: 8, Minor: 1, Value: 7}}
	for names, c := range map[string]struct {
		m   proto.Message
		url string
	}{
		namesV1: {&stats1.Metrics{
			Hugetlb: []*stats1.HugetlbStat{{Pagesize: "2MB"}}, Pids: &stats1.PidsStat{Current: 3}, CPU: &stats1.CPUStat{Usage: &stats1.CPUUsage{PerCPU: []uint64{1}}},
			Memory: &stats1.MemoryStat{Usage: &stats1.MemoryEntry{}, Swap: &stats1.MemoryEntry{}, Kernel: &stats1.MemoryEntry{}, KernelTCP: &stats1.MemoryEntry{}},
			Blkio:  &stats1.BlkIOStat{IoServiceBytesRecursive: one, IoServicedRecursive: one},
		}, "io.containerd.cgroups.v1.Metrics"},
		namesV2: {&stats2.Metrics{
			Pids: &stats2.PidsStat{Current: 3}, CPU: &stats2.CPUStat{}, Memory: &stats2.MemoryStat{}, MemoryEvents: &stats2.MemoryEvents{},
			Io: &stats2.IOStat{Usage: []*stats2.IOEntry{{Major: 8}}},
		}, "io.containerd.cgroups.v2.Metrics"},
	} {
		value, err := proto.Marshal(c.m)
		if err != nil {
			t.Fatal(err)
		}
		p := newPage()
		p.task(&taskapi.Any{TypeURL: c.url, Value: value}, "container_id", "c", "namespace", "n")
		for _, name := range strings.Fields(names) {
			if p.kinds["container_"+name] != "gauge" {
				t.Errorf("%s: no container_%s", c.url, name)
			}
		}
		if want := `container_pids_current{container_id="c",namespace="n"} 3` + "\n"; !strings.Contains(text(t, p), want) {
			t.Errorf("%s: no %q", c.url, want)
		}
	}
	p := newPage()
	p.task(&taskapi.Any{TypeURL: "io.containerd.cgroups.v2.Metrics", Value: []byte("\xff")})
	p.task(&taskapi.Any{TypeURL: "other"})
	if got := text(t, p); got != "" {
		t.Errorf("of what is no metrics: %s", got)
	}
}
