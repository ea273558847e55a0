// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/pod"
)

// An answer of what is kept is the one that the messages themselves would make, whatever comes and goes between two lists.
func TestListed(t *testing.T) {
	var l listed[pod.Status, *runtimeapi.PodSandbox]
	made := 0
	status := func(id string, ready bool) *pod.Status {
		return &pod.Status{ID: id, Ready: ready, Config: pod.Config{Name: "n" + id, Labels: map[string]string{"k": id}}}
	}
	check := func(list []*pod.Status, fits func(*runtimeapi.PodSandbox) bool, makes int) {
		t.Helper()
		made = 0
		all, encoded, err := l.messages(list, func(st *pod.Status) *runtimeapi.PodSandbox { made++; return podMessage(st) }, fits)
		if err != nil {
			t.Fatal(err)
		}
		want := &runtimeapi.ListPodSandboxResponse{}
		for _, st := range list {
			if m := podMessage(st); fits(m) {
				want.Items = append(want.Items, m)
			}
		}
		wire, err := proto.Marshal(answered(&runtimeapi.ListPodSandboxResponse{}, encoded))
		if err != nil {
			t.Fatal(err)
		}
		got := &runtimeapi.ListPodSandboxResponse{}
		if err := proto.Unmarshal(wire, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
		if !proto.Equal(&runtimeapi.ListPodSandboxResponse{Items: all}, want) || made != makes {
			t.Errorf("%v of %d new messages; want %v of %d", all, made, want, makes)
		}
	}
	every := func(*runtimeapi.PodSandbox) bool { return true }
	a, b, c := status("a", true), status("b", true), status("c", false)
	check(nil, every, 0)
	check([]*pod.Status{a, c}, every, 2)
	check([]*pod.Status{a, c}, every, 0)
	check([]*pod.Status{a, b, c}, every, 1)
	check([]*pod.Status{a, b, c}, func(m *runtimeapi.PodSandbox) bool { return m.State == runtimeapi.PodSandboxState_SANDBOX_READY }, 0)
	check([]*pod.Status{c, status("a", false)}, every, 1)
	check(nil, every, 0)
	check([]*pod.Status{a}, every, 1)
	l.forget()
	check([]*pod.Status{a}, every, 1)
}
