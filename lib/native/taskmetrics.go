// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
)

const (
	// measureFor is how long a task may take to be measured.
	measureFor = 2 * time.Second
	// measureAtOnce is how many tasks are measured at once.
	measureAtOnce = 8
)

// tasks measures the tasks of all namespaces that run.
func tasks(ctx context.Context, p *page, d *state.Dir) error {
	var spaces []string
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		spaces, err = container.Namespaces(tx)
		return err
	})
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	var mu sync.Mutex // of p
	turn := make(chan struct{}, measureAtOnce)
	for _, ns := range spaces {
		states, err := task.States(ctx, d, ns, func(string) bool { return true })
		if err != nil {
			return err
		}
		for _, one := range states {
			if one.Status == taskapi.StatusStopped {
				continue
			}
			turn <- struct{}{}
			all.Go(func() {
				defer func() { <-turn }()
				if stats := measure(ctx, d, ns, one.ContainerID); stats != nil {
					mu.Lock()
					defer mu.Unlock()
					p.task(stats, "container_id", one.ContainerID, "namespace", ns)
				}
			})
		}
	}
	all.Wait()
	return nil
}

// measure gives what a task uses; nil if it cannot be told.
func measure(ctx context.Context, d *state.Dir, ns, id string) *taskapi.Any {
	ctx, cancel := context.WithTimeout(ctx, measureFor)
	defer cancel()
	t, err := task.OpenTask(ctx, d, ns, id)
	if err != nil {
		return nil
	}
	defer t.Close()
	stats, err := t.Stats(ctx)
	if err != nil {
		return nil
	}
	return stats
}

// task adds what a task uses. Any other message than those of cgroups says nothing.
func (p *page) task(stats *taskapi.Any, labels ...string) {
	g := gauges{p, labels}
	switch bareName(stats.TypeURL) {
	case "io.containerd.cgroups.v1.Metrics":
		var m stats1.Metrics
		if proto.Unmarshal(stats.Value, &m) == nil {
			g.v1(&m)
		}
	case "io.containerd.cgroups.v2.Metrics":
		var m stats2.Metrics
		if proto.Unmarshal(stats.Value, &m) == nil {
			g.v2(&m)
		}
	}
}

// gauges are the values of one task.
type gauges struct {
	p      *page
	labels []string
}

func (g gauges) add(name string, value uint64, more ...string) {
	g.p.add("container_"+name, "gauge", float64(value), append(append([]string{}, g.labels...), more...)...)
}

// fields adds the numbers of a message, each under its name in the message, or the one that containerd has for it.
func (g gauges) fields(m protoreflect.Message, name func(field string) string, more ...string) {
	if !m.IsValid() {
		return
	}
	all := m.Descriptor().Fields()
	for i := range all.Len() {
		if f := all.Get(i); f.Kind() == protoreflect.Uint64Kind && !f.IsList() {
			g.add(name(string(f.Name())), m.Get(f).Uint(), more...)
		}
	}
}

// oldNames are fields that containerd's metrics name otherwise.
var oldNames = strings.NewReplacer("pg_pg_", "pgpg", "pg_fault", "pgfault", "pg_maj_fault", "pgmajfault", "hierarchical_swap_limit", "hierarchical_memsw_limit")

func memoryName(field string) string { return "memory_" + oldNames.Replace(field) + "_bytes" }

func (g gauges) v1(m *stats1.Metrics) {
	g.fields(m.GetMemory().ProtoReflect(), memoryName)
	for name, e := range map[string]*stats1.MemoryEntry{
		"usage": m.GetMemory().GetUsage(), "swap": m.GetMemory().GetSwap(), "kernel": m.GetMemory().GetKernel(), "kerneltcp": m.GetMemory().GetKernelTCP(),
	} {
		g.fields(e.ProtoReflect(), func(field string) string { return "memory_" + name + "_" + field + unit(field) })
	}
	g.fields(m.GetPids().ProtoReflect(), func(field string) string { return "pids_" + field })
	if c := m.GetCPU(); c != nil {
		g.add("cpu_total_nanoseconds", c.GetUsage().GetTotal())
		g.add("cpu_kernel_nanoseconds", c.GetUsage().GetKernel())
		g.add("cpu_user_nanoseconds", c.GetUsage().GetUser())
		for i, v := range c.GetUsage().GetPerCPU() {
			g.add("per_cpu_nanoseconds", v, "cpu", strconv.Itoa(i))
		}
		g.add("cpu_throttle_periods_total", c.GetThrottling().GetPeriods())
		g.add("cpu_throttled_periods_total", c.GetThrottling().GetThrottledPeriods())
		g.add("cpu_throttled_time_nanoseconds", c.GetThrottling().GetThrottledTime())
	}
	for _, h := range m.GetHugetlb() {
		g.fields(h.ProtoReflect(), func(field string) string { return "hugetlb_" + field + unit(field) }, "page", h.GetPagesize())
	}
	b := m.GetBlkio()
	for name, entries := range map[string][]*stats1.BlkIOEntry{
		"io_merged_recursive_total": b.GetIoMergedRecursive(), "io_queued_recursive_total": b.GetIoQueuedRecursive(),
		"io_service_bytes_recursive_bytes": b.GetIoServiceBytesRecursive(), "io_service_time_recursive_total": b.GetIoServiceTimeRecursive(),
		"io_serviced_recursive_total": b.GetIoServicedRecursive(), "io_time_recursive_total": b.GetIoTimeRecursive(), "sectors_recursive_total": b.GetSectorsRecursive(),
	} {
		for _, e := range entries {
			g.add("blkio_"+name, e.GetValue(), "op", e.GetOp(), "device", e.GetDevice(), "major", number(e.GetMajor()), "minor", number(e.GetMinor()))
		}
	}
}

func (g gauges) v2(m *stats2.Metrics) {
	g.fields(m.GetMemory().ProtoReflect(), memoryName)
	g.fields(m.GetPids().ProtoReflect(), func(field string) string { return "pids_" + field })
	g.fields(m.GetCPU().ProtoReflect(), func(field string) string {
		if strings.HasSuffix(field, "_usec") {
			return "cpu_" + field + "_microseconds"
		}
		return "cpu_" + field + "_total"
	})
	if m.MemoryEvents != nil {
		g.add("memory_oom_total", m.MemoryEvents.Oom)
	}
	for _, e := range m.GetIo().GetUsage() {
		device := []string{"major", number(e.GetMajor()), "minor", number(e.GetMinor())}
		g.add("io_rbytes_bytes", e.GetRbytes(), device...)
		g.add("io_wbytes_bytes", e.GetWbytes(), device...)
		g.add("io_rios_total", e.GetRios(), device...)
		g.add("io_wios_total", e.GetWios(), device...)
	}
}

// unit is what containerd puts behind a name.
func unit(field string) string {
	if field == "failcnt" {
		return "_total"
	}
	return "_bytes"
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
