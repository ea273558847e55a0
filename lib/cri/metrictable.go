// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cgroup"
)

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// seconds makes whole seconds of nanoseconds: a value of the CRI is a whole number.
func seconds(nanoseconds uint64) []point { return one(nanoseconds / uint64(time.Second)) }

// containerMetrics are those of containers, under the names and with the labels of cadvisor.
var containerMetrics = []metric[measurement]{
	{"container_last_seen", "Last time a container was seen, in seconds since 1970", gauge, nil, func(m measurement) []point { return one(uint64(m.now.Unix())) }},
	{"container_start_time_seconds", "Start time of the container, in seconds since 1970", gauge, nil, func(m measurement) []point { return one(uint64(max(0, m.started.Unix()))) }},

	{"container_cpu_usage_seconds_total", "Processor time consumed", counter, []string{"cpu"}, func(m measurement) []point {
		return []point{{m.CPU.Total / uint64(time.Second), []string{"total"}}}
	}},
	{"container_cpu_user_seconds_total", "Processor time consumed in user mode", counter, nil, func(m measurement) []point { return seconds(m.CPU.User) }},
	{"container_cpu_system_seconds_total", "Processor time consumed in the kernel", counter, nil, func(m measurement) []point { return seconds(m.CPU.System) }},
	{"container_cpu_cfs_periods_total", "Enforcement periods that have passed", counter, nil, func(m measurement) []point { return one(m.CPU.Periods) }},
	{"container_cpu_cfs_throttled_periods_total", "Enforcement periods in which the quota was used up", counter, nil, func(m measurement) []point { return one(m.CPU.ThrottledPeriods) }},
	{"container_cpu_cfs_throttled_seconds_total", "Time for which the container was throttled", counter, nil, func(m measurement) []point { return seconds(m.CPU.Throttled) }},
	{"container_spec_cpu_period", "Enforcement period, in microseconds", gauge, nil, func(m measurement) []point { return one(m.Period) }},
	{"container_spec_cpu_quota", "Processor time in a period, in microseconds", gauge, nil, func(m measurement) []point {
		if m.Quota == 0 {
			return nil
		}
		return one(m.Quota)
	}},
	{"container_spec_cpu_shares", "Weight of processor time", gauge, nil, func(m measurement) []point { return one(m.Shares) }},

	{"container_memory_usage_bytes", "Memory in use, with the page cache", gauge, nil, func(m measurement) []point { return one(m.Memory.Usage) }},
	{"container_memory_max_usage_bytes", "Largest use of memory so far", gauge, nil, func(m measurement) []point { return one(m.Memory.Max) }},
	{"container_memory_working_set_bytes", "Memory in use without the page cache that would be given up first", gauge, nil, func(m measurement) []point { return one(m.Memory.Working()) }},
	{"container_memory_rss", "Anonymous memory and swap cache, in bytes", gauge, nil, func(m measurement) []point { return one(m.RSS) }},
	{"container_memory_cache", "Page cache, in bytes", gauge, nil, func(m measurement) []point { return one(m.Cache) }},
	{"container_memory_mapped_file", "Files mapped into memory, in bytes", gauge, nil, func(m measurement) []point { return one(m.Mapped) }},
	{"container_memory_kernel_usage", "Memory of the kernel, in bytes", gauge, nil, func(m measurement) []point { return one(m.Kernel) }},
	{"container_memory_swap", "Swap in use, in bytes", gauge, nil, func(m measurement) []point { return one(m.Memory.Swap) }},
	{"container_memory_failcnt", "How often memory in use met the limit", counter, nil, func(m measurement) []point { return one(m.LimitHits) }},
	{"container_memory_failures_total", "Page faults", counter, []string{"failure_type", "scope"}, func(m measurement) []point {
		return []point{{m.PageFaults, []string{"pgfault", "hierarchy"}}, {m.MajorFaults, []string{"pgmajfault", "hierarchy"}}}
	}},
	{"container_oom_events_total", "Processes that the kernel has killed for want of memory", counter, nil, func(m measurement) []point { return one(m.oom) }},
	{"container_spec_memory_limit_bytes", "Bound of memory; 0 is none", gauge, nil, func(m measurement) []point { return one(m.Memory.Limit) }},
	{"container_spec_memory_reservation_limit_bytes", "Memory that is reclaimed last; 0 is none", gauge, nil, func(m measurement) []point { return one(m.Reservation) }},
	{"container_spec_memory_swap_limit_bytes", "Bound of swap; 0 is none", gauge, nil, func(m measurement) []point { return one(m.SwapLimit) }},
	{"container_hugetlb_usage_bytes", "Huge pages in use", gauge, []string{"pagesize"}, func(m measurement) (all []point) {
		for _, h := range m.HugePages {
			all = append(all, point{h.Usage, []string{h.Size}})
		}
		return all
	}},
	{"container_hugetlb_max_usage_bytes", "Largest use of huge pages so far", gauge, []string{"pagesize"}, func(m measurement) (all []point) {
		for _, h := range m.HugePages {
			all = append(all, point{h.Max, []string{h.Size}})
		}
		return all
	}},

	{"container_processes", "Processes in the container", gauge, nil, func(m measurement) []point { return one(m.procs.count) }},
	{"container_threads", "Threads in the container", gauge, nil, func(m measurement) []point { return one(m.Pids.Current) }},
	{"container_threads_max", "Bound of threads; 0 is none", gauge, nil, func(m measurement) []point { return one(m.Pids.Limit) }},
	{"container_file_descriptors", "Open file descriptors of the container's processes", gauge, nil, func(m measurement) []point { return one(m.procs.files) }},
	{"container_sockets", "Open sockets of the container's processes", gauge, nil, func(m measurement) []point { return one(m.procs.sockets) }},
	{"container_ulimits_soft", "Soft limits of the container's first process", gauge, []string{"ulimit"}, func(m measurement) []point {
		return []point{{m.procs.maxFiles, []string{"max_open_files"}}}
	}},

	{"container_fs_usage_bytes", "Size of the writable layer", gauge, []string{"device"}, func(m measurement) []point { return m.onDevice(uint64(m.layer.size)) }},
	{"container_fs_limit_bytes", "Size of the file system of the writable layer", gauge, []string{"device"}, func(m measurement) []point {
		return m.onDevice(m.fs.Blocks * uint64(m.fs.Bsize))
	}},
	{"container_fs_inodes_total", "Inodes of the file system of the writable layer", gauge, []string{"device"}, func(m measurement) []point { return m.onDevice(m.fs.Files) }},
	{"container_fs_inodes_free", "Free inodes of the file system of the writable layer", gauge, []string{"device"}, func(m measurement) []point { return m.onDevice(m.fs.Ffree) }},
	{"container_fs_reads_bytes_total", "Bytes read from devices", counter, []string{"device"}, func(m measurement) []point { return m.perDevice(func(d cgroup.Device) uint64 { return d.ReadBytes }) }},
	{"container_fs_reads_total", "Reads of devices", counter, []string{"device"}, func(m measurement) []point { return m.perDevice(func(d cgroup.Device) uint64 { return d.Reads }) }},
	{"container_fs_writes_bytes_total", "Bytes written to devices", counter, []string{"device"}, func(m measurement) []point { return m.perDevice(func(d cgroup.Device) uint64 { return d.WriteBytes }) }},
	{"container_fs_writes_total", "Writes to devices", counter, []string{"device"}, func(m measurement) []point { return m.perDevice(func(d cgroup.Device) uint64 { return d.Writes }) }},
	{"container_blkio_device_usage_total", "Bytes of traffic with devices", counter, []string{"device", "major", "minor", "operation"}, func(m measurement) (all []point) {
		for _, d := range m.Devices {
			major, minor := strconv.FormatUint(uint64(d.Major), 10), strconv.FormatUint(uint64(d.Minor), 10)
			name := deviceName(d.Major, d.Minor)
			all = append(all, point{d.ReadBytes, []string{name, major, minor, "Read"}}, point{d.WriteBytes, []string{name, major, minor, "Write"}})
		}
		return all
	}},

	stalled("container_pressure_cpu_waiting_seconds_total", "Time for which some processes have waited for a processor", func(m measurement) cgroup.Stall { return m.CPUPressure.Some }),
	stalled("container_pressure_cpu_stalled_seconds_total", "Time for which all processes have waited for a processor", func(m measurement) cgroup.Stall { return m.CPUPressure.Full }),
	stalled("container_pressure_memory_waiting_seconds_total", "Time for which some processes have waited for memory", func(m measurement) cgroup.Stall { return m.MemPressure.Some }),
	stalled("container_pressure_memory_stalled_seconds_total", "Time for which all processes have waited for memory", func(m measurement) cgroup.Stall { return m.MemPressure.Full }),
	stalled("container_pressure_io_waiting_seconds_total", "Time for which some processes have waited for devices", func(m measurement) cgroup.Stall { return m.IOPressure.Some }),
	stalled("container_pressure_io_stalled_seconds_total", "Time for which all processes have waited for devices", func(m measurement) cgroup.Stall { return m.IOPressure.Full }),
}

// stalled is a metric of pressure, which is left out where the kernel tells none.
func stalled(name, help string, of func(measurement) cgroup.Stall) metric[measurement] {
	return metric[measurement]{name, help, counter, nil, func(m measurement) []point {
		if !m.HasPressures {
			return nil
		}
		return seconds(of(m).Total)
	}}
}

func (m measurement) onDevice(n uint64) []point { return []point{{n, []string{m.device}}} }

func (m measurement) perDevice(of func(cgroup.Device) uint64) (all []point) {
	for _, d := range m.Devices {
		all = append(all, point{of(d), []string{deviceName(d.Major, d.Minor)}})
	}
	return all
}

// podMetrics are those of pods.
var podMetrics = []metric[[]link]{
	network("container_network_receive_bytes_total", "Bytes received", func(l link) uint64 { return l.rx.bytes }),
	network("container_network_receive_packets_total", "Packets received", func(l link) uint64 { return l.rx.packets }),
	network("container_network_receive_packets_dropped_total", "Packets dropped while receiving", func(l link) uint64 { return l.rx.dropped }),
	network("container_network_receive_errors_total", "Errors while receiving", func(l link) uint64 { return l.rx.errors }),
	network("container_network_transmit_bytes_total", "Bytes sent", func(l link) uint64 { return l.tx.bytes }),
	network("container_network_transmit_packets_total", "Packets sent", func(l link) uint64 { return l.tx.packets }),
	network("container_network_transmit_packets_dropped_total", "Packets dropped while sending", func(l link) uint64 { return l.tx.dropped }),
	network("container_network_transmit_errors_total", "Errors while sending", func(l link) uint64 { return l.tx.errors }),
}

func network(name, help string, of func(link) uint64) metric[[]link] {
	return metric[[]link]{name, help, counter, []string{"interface"}, func(links []link) (all []point) {
		for _, l := range links {
			all = append(all, point{of(l), []string{l.name}})
		}
		return all
	}}
}
