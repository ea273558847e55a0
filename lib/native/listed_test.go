// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
)

// lists gives what a server answers to List and ListStream, which are to be the same.
func lists(t *testing.T, s *served, ns string, filters ...string) []*containersapi.Container {
	t.Helper()
	c := containersapi.NewContainersClient(dial(t, s.path))
	r := &containersapi.ListContainersRequest{Filters: filters}
	all, err := c.List(in(t, ns), r)
	if err != nil {
		t.Fatal(err)
	}
	var streamed containersapi.ListContainersResponse
	l, err := c.ListStream(in(t, ns), r)
	for err == nil {
		var m *containersapi.ListContainerMessage
		if m, err = l.Recv(); err == nil {
			streamed.Containers = append(streamed.Containers, m.Container)
		}
	}
	if err != io.EOF || !proto.Equal(all, &streamed) {
		t.Fatalf("List and ListStream differ: %v", err)
	}
	return all.Containers
}

// A server that has listed before answers as one that has not, whatever other processes have changed meanwhile.
func TestListAgain(t *testing.T) {
	d := openPatient(t)
	warm := serve(t, Options{Dir: d})
	r := rand.New(rand.NewPCG(1, 2))
	spec := func() []byte { return fmt.Appendf(nil, `{"ociVersion":"1.%d.0"}`, r.IntN(9)) }
	for round := range 100 {
		ns, id := fmt.Sprintf("ns%d", r.IntN(2)), fmt.Sprintf("c%d", r.IntN(6))
		change := d.Update
		if r.IntN(2) == 0 {
			change = d.UpdateRun
		}
		err := change(context.Background(), nil, func(tx *state.Tx) error {
			old, err := container.Get(tx, ns, id)
			switch n := r.IntN(4); {
			case err != nil:
				_, err = container.CreateRaw(tx, ns, container.Container{ID: id, Runtime: container.Runtime{Name: "io.containerd.runc.v2"}}, spec())
				return err
			case n == 0:
				return container.Remove(tx, ns, id)
			case n == 1:
				_, err = container.Update(tx, ns, old, spec(), "spec")
				return err
			case n == 2: // which leaves the record as it is
				return container.PutSpec(tx, ns, id, &specs.Spec{Version: fmt.Sprint("2.", round)})
			default:
				old.Labels = map[string]string{"round": fmt.Sprint(round)}
				_, err = container.Update(tx, ns, old, nil, "labels")
				return err
			}
		})
		if err != nil && !strings.Contains(err.Error(), "not found") { // a record of the other database
			t.Fatal(err)
		}
		fresh := serve(t, Options{Dir: d})
		for _, filters := range [][]string{nil, {`labels.round!=""`}} {
			got, want := lists(t, warm, ns, filters...), lists(t, fresh, ns, filters...)
			if !proto.Equal(&containersapi.ListContainersResponse{Containers: got}, &containersapi.ListContainersResponse{Containers: want}) {
				t.Fatalf("round %d: listed again:\n%v\nanew:\n%v", round, got, want)
			}
		}
		checkListed(t, &warm.listed)
	}
	warm.Forget()
	if checkListed(t, &warm.listed) != 0 {
		t.Error("Forget keeps something")
	}
}

// checkListed checks the books of what is kept, and gives how many messages that are.
func checkListed(t *testing.T, l *listed) (n int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	bytes := 0
	for _, of := range l.of {
		for _, k := range of {
			bytes += k.bytes
			n++
		}
	}
	if bytes != l.bytes || bytes > maxListed {
		t.Errorf("%d bytes are kept, of at most %d, and it says %d", bytes, maxListed, l.bytes)
	}
	return n
}

// What is kept is bounded, and containers beyond the bound are listed all the same.
func TestListedBound(t *testing.T) {
	s := serve(t, Options{Dir: openPatient(t)})
	c := containersapi.NewContainersClient(dial(t, s.path))
	const many = 12
	for i := range many {
		if _, err := c.Create(in(t, "ns"), &containersapi.CreateContainerRequest{Container: &containersapi.Container{
			ID: fmt.Sprintf("c%d", i), Runtime: &containersapi.Container_Runtime{Name: "io.containerd.runc.v2"},
			Spec: &anypb.Any{TypeUrl: specType, Value: []byte(`{"a":"` + strings.Repeat("0", 1<<20) + `"}`)},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		l, err := c.ListStream(in(t, "ns"), &containersapi.ListContainersRequest{})
		n := 0
		for ; err == nil; n++ {
			_, err = l.Recv()
		}
		if err != io.EOF || n != many+1 {
			t.Fatal(n, err)
		}
		if kept := checkListed(t, &s.listed); kept == 0 || kept == many {
			t.Errorf("%d of %d containers of 2 MiB are kept in %d bytes", kept, many, maxListed)
		}
	}
}
