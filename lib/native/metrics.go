// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"ctrd.dev/ctrd/lib/state"
)

// Metrics counts the calls of servers, and writes them with what tasks and the process use, for Prometheus. Names are those of
// containerd (go-grpc-prometheus; containerd's core/metrics/cgroups).
type Metrics struct {
	// Histogram has the time that calls take counted in buckets.
	Histogram bool

	mu      sync.Mutex
	started map[method]uint64
	handled map[outcome]uint64
	took    map[method]*times
}

// method is a method of a service, /SERVICE/METHOD, and the kind of its calls.
type method struct{ kind, name string }

type outcome struct {
	method
	code codes.Code
}

// buckets are the usual upper bounds of Prometheus, in seconds.
var buckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

type times struct {
	below [11]uint64 // by buckets
	all   uint64
	sum   float64 // seconds
}

// NewMetrics makes a count of nothing.
func NewMetrics() *Metrics {
	return &Metrics{started: map[method]uint64{}, handled: map[outcome]uint64{}, took: map[method]*times{}}
}

// begin counts a call; the function that it gives counts its end. A nil Metrics counts nothing.
func (m *Metrics) begin(kind, name string) (end func(codes.Code)) {
	if m == nil {
		return func(codes.Code) {}
	}
	of, began := method{kind, name}, time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started[of]++
	return func(code codes.Code) {
		seconds := time.Since(began).Seconds()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.handled[outcome{of, code}]++
		if !m.Histogram {
			return
		}
		t := m.took[of]
		if t == nil {
			t = &times{}
			m.took[of] = t
		}
		t.all++
		t.sum += seconds
		for i, bound := range buckets {
			if seconds <= bound {
				t.below[i]++
			}
		}
	}
}

func (m *Metrics) calls(p *page) {
	m.mu.Lock()
	defer m.mu.Unlock()
	labels := func(of method, more ...string) []string {
		service, name, _ := strings.Cut(strings.TrimPrefix(of.name, "/"), "/")
		return append([]string{"grpc_method", name, "grpc_service", service, "grpc_type", of.kind}, more...)
	}
	for of, n := range m.started {
		p.add("grpc_server_started_total", "counter", float64(n), labels(of)...)
	}
	for of, n := range m.handled {
		p.add("grpc_server_handled_total", "counter", float64(n), labels(of.method, "grpc_code", of.code.String())...)
	}
	const name = "grpc_server_handling_seconds"
	for of, t := range m.took {
		for i, bound := range buckets {
			p.line(name, "histogram", name+"_bucket", float64(t.below[i]), labels(of, "le", strconv.FormatFloat(bound, 'g', -1, 64))...)
		}
		p.line(name, "histogram", name+"_bucket", float64(t.all), labels(of, "le", "+Inf")...)
		p.line(name, "histogram", name+"_sum", t.sum, labels(of)...)
		p.line(name, "histogram", name+"_count", float64(t.all), labels(of)...)
	}
}

// Write writes all metrics in Prometheus' text format, version 0.0.4. A task that cannot be measured within two seconds is left
// out.
func (m *Metrics) Write(ctx context.Context, w io.Writer, d *state.Dir, version string) error {
	p := &page{kinds: map[string]string{}, lines: map[string][]string{}}
	p.add("ctrd_build_info", "gauge", 1, "version", version, "go", runtime.Version())
	m.calls(p)
	process(p)
	if err := tasks(ctx, p, d); err != nil {
		return err
	}
	return p.write(w)
}

// process says what this process uses.
func process(p *page) {
	var use syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &use) == nil {
		seconds := time.Duration(use.Utime.Nano() + use.Stime.Nano()).Seconds()
		p.add("process_cpu_seconds_total", "counter", seconds)
	}
	var size, resident float64
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		fmt.Sscan(string(text), &size, &resident)
		p.add("process_virtual_memory_bytes", "gauge", size*float64(os.Getpagesize()))
		p.add("process_resident_memory_bytes", "gauge", resident*float64(os.Getpagesize()))
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.add("process_open_fds", "gauge", float64(len(open)))
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		p.add("process_max_fds", "gauge", float64(limit.Cur))
	}
	p.add("process_start_time_seconds", "gauge", float64(began.UnixMilli())/1000)
	p.add("go_goroutines", "gauge", float64(runtime.NumGoroutine()))
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	p.add("go_memstats_heap_alloc_bytes", "gauge", float64(mem.HeapAlloc))
	p.add("go_memstats_sys_bytes", "gauge", float64(mem.Sys))
	p.add("go_memstats_mallocs_total", "counter", float64(mem.Mallocs))
	p.add("go_gc_cycles_total", "counter", float64(mem.NumGC))
}

var began = time.Now()

// page is metrics by their names.
type page struct {
	kinds map[string]string // of each name: counter, gauge or histogram
	lines map[string][]string
}

// add adds a value; labels are names and values in turn.
func (p *page) add(name, kind string, value float64, labels ...string) {
	p.line(name, kind, name, value, labels...)
}

// line adds a line of a metric, which a histogram has under several names.
func (p *page) line(name, kind, as string, value float64, labels ...string) {
	var b strings.Builder
	b.WriteString(as)
	for i := 0; i+1 < len(labels); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(labels[i] + `="` + escape.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
	p.kinds[name] = kind
	p.lines[name] = append(p.lines[name], b.String())
}

// escape writes a value of a label, as the format has it.
var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func (p *page) write(w io.Writer) error {
	names := make([]string, 0, len(p.lines))
	for name := range p.lines {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		lines := p.lines[name]
		if p.kinds[name] != "histogram" { // whose buckets are in order
			slices.Sort(lines)
		}
		if _, err := io.WriteString(w, "# TYPE "+name+" "+p.kinds[name]+"\n"+strings.Join(lines, "")); err != nil {
			return err
		}
	}
	return nil
}
