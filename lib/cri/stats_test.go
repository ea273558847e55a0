// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/netns"
)

func TestRates(t *testing.T) {
	var r rates
	now := time.Now()
	begun := now.Add(-2 * time.Second)
	for _, step := range []struct {
		begun time.Time
		after time.Duration
		used  uint64
		rate  uint64
		ok    bool
	}{
		{time.Time{}, 0, 1e9, 0, false},                           // nothing to compare with
		{begun, 500 * time.Millisecond, 2e9, 0, false},            // too early
		{begun, 2 * time.Second, 4e9, 15e8, true},                 // 3 s of processor time in 2 s
		{begun, 2500 * time.Millisecond, 5e9, 15e8, true},         // too early: as before
		{begun, 4 * time.Second, 4e9, 0, true},                    // idle
		{time.Time{}, 5 * time.Second, 1e9, 0, false},             // another cgroup of the same name
		{now.Add(5 * time.Second), 7 * time.Second, 1e9, 0, true}, // idle
		{begun, 8 * time.Second, 5e8, 5e7, true},                  // another one that has begun 10 s ago
		{begun, 5 * time.Minute, 302e8, 1e8, true},                // too late to compare: since it began
	} {
		rate, ok := r.of("a", step.begun, now.Add(step.after), step.used, time.Second, 2*time.Minute)
		if rate != step.rate || ok != step.ok {
			t.Errorf("after %s: %d, %v; want %d, %v", step.after, rate, ok, step.rate, step.ok)
		}
	}
	r.of("b", begun, now.Add(time.Hour), 1, time.Second, 2*time.Minute)
	if len(r.all) != 1 {
		t.Errorf("%v is kept", r.all)
	}
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 1234567     890    1    2    0     0          0         0     4321      56    3    4    0     0       0          0
net1:0:12 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
`

func TestParseNetDev(t *testing.T) {
	want := "[{eth0 {1234567 890 1 2} {4321 56 3 4}} {net1:0 {12 1 0 0} {7 1 0 0}}]"
	if got := fmt.Sprint(parseNetDev(netDev)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	links, err := interfaces("/proc/self/ns/net", 0)
	if err != nil {
		t.Fatal(err)
	}
	host, _ := net.Interfaces()
	if len(links) > len(host) {
		t.Errorf("%v, there are %v", links, host)
	}
}

// A namespace is read through a process only if that is in it.
func TestNetDevOf(t *testing.T) {
	const own = "/proc/self/ns/net"
	text, ok := netDevOf(os.Getpid(), own)
	if !ok || !strings.Contains(text, "lo:") {
		t.Errorf("ours: %q, %v", text, ok)
	}
	if err := netns.New(func() error {
		if text, ok := netDevOf(os.Getpid(), netns.Own()); ok {
			t.Errorf("of another namespace: %q", text)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{0, -1, 1 << 30} {
		if text, ok := netDevOf(pid, own); ok {
			t.Errorf("process %d: %q", pid, text)
		}
	}
}

func FuzzParseNetDev(f *testing.F) {
	f.Add(netDev)
	f.Fuzz(func(t *testing.T, text string) {
		for _, l := range parseNetDev(text) {
			if l.name == "" || strings.TrimSpace(l.name) != l.name {
				t.Errorf("%q: %+v", text, l)
			}
		}
	})
}

// Each metric has a help, and its values have all labels that its descriptor names.
func TestMetrics(t *testing.T) {
	r := runtimeService{}
	answer, err := r.ListMetricDescriptors(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]int{}
	for _, d := range answer.Descriptors {
		if labels[d.Name] != 0 || d.Help == "" {
			t.Errorf("%v", d)
		}
		labels[d.Name] = len(d.LabelKeys)
	}
	x := measurement{now: time.Now(), started: time.Now(), procs: countProcesses([]int{os.Getpid()}, os.Getpid()), device: deviceOf("/")}
	x.Quota, x.HasPressures = 20000, true
	x.HugePages, x.Devices = []cgroup.HugePages{{Size: "2MB"}}, []cgroup.Device{{Major: 8}}
	base := make([]string, len(baseLabels))
	all := append(messages(containerMetrics, x, base), messages(podMetrics, parseNetDev(netDev), base)...)
	seen := map[string]bool{}
	for _, m := range all {
		seen[m.Name] = true
		if len(m.LabelValues) != labels[m.Name] {
			t.Errorf("%v has %d labels, not %d", m, len(m.LabelValues), labels[m.Name])
		}
	}
	for name := range labels {
		if !seen[name] {
			t.Errorf("%s has no value", name)
		}
	}
	if x.procs.count != 1 || x.procs.files == 0 || x.procs.maxFiles == 0 {
		t.Errorf("%+v", x.procs)
	}
}

func TestChanges(t *testing.T) {
	w := newWorld(t, Options{})
	j := w.d.Journal()
	for _, p := range []event.Payload{
		event.ContainerCreate{ID: "c"}, event.TaskStart{ContainerID: "c"}, event.TaskExit{ContainerID: "c", ID: "exec"}, event.TaskExit{ContainerID: "c", ID: "c"},
		event.ContainerDelete{ID: "c"}, event.SandboxStart{SandboxID: "p"}, event.ImageCreate{Name: "x"},
	} {
		if err := j.Append(Namespace, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Append("default", event.ContainerCreate{ID: "other"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range j.Read(t.Context(), 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := changeOf(e); ok {
			got = append(got, fmt.Sprint(c.id, " ", runtimeapi.ContainerEventType_name[int32(c.kind)], " ", c.pod))
		}
	}
	want := "[c CONTAINER_CREATED_EVENT false c CONTAINER_STARTED_EVENT false c CONTAINER_STOPPED_EVENT false c CONTAINER_DELETED_EVENT false p CONTAINER_STARTED_EVENT true]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}
