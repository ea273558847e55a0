// SPDX-License-Identifier: Apache-2.0

package native

import (
	"sync"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"google.golang.org/protobuf/proto"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/state"
)

// maxListed bounds what is kept of containers that were listed, in bytes.
const maxListed = 16 << 20

// listed keeps the messages of containers that were listed, so that the next list makes only those anew whose records have
// changed. A message follows from the bytes of a record and a spec alone, and each list reads all bytes anew and compares them: it
// tells nothing that a list without this would not.
type listed struct {
	mu    sync.Mutex
	of    map[string]map[string]*known // by namespace and id
	bytes int
}

// known is a message and what it was made of.
type known struct {
	record  container.Packed
	spec    container.PackedSpec
	message *containersapi.Container // several lists may be sending it: it must not be changed
	bytes   int
}

// find gives what is known of the containers of a namespace, in the order of rows: nil where that is nothing, or of another record.
// It forgets what is not there any more.
func (l *listed) find(ns string, rows []container.Packed) []*known {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, found := l.of[ns], make([]*known, len(rows))
	left := map[string]*known{}
	for i, row := range rows {
		if k := was[row.ID()]; k != nil && k.record.Equal(row) {
			found[i], left[row.ID()] = k, k
		}
	}
	if len(left) < len(was) {
		for id, k := range was {
			if left[id] == nil {
				l.bytes -= k.bytes
			}
		}
		l.of[ns] = left
	}
	return found
}

// keep keeps a message, if there is room.
func (l *listed) keep(k *known) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ns, id := k.record.Namespace(), k.record.ID()
	k.bytes = k.record.Size() + k.spec.Size() + 2*proto.Size(k.message)
	more := k.bytes
	if old := l.of[ns][id]; old != nil {
		more -= old.bytes
	}
	if l.bytes+more > maxListed {
		return
	}
	if l.of == nil {
		l.of = map[string]map[string]*known{}
	}
	if l.of[ns] == nil {
		l.of[ns] = map[string]*known{}
	}
	k.record = k.record.Clone()
	l.of[ns][id] = k
	l.bytes += more
}

// Forget gives up what the server keeps in memory only to be faster the next time.
func (s *Server) Forget() { s.listed.clear() }

func (l *listed) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of, l.bytes = nil, 0
}

// listing is one container of a list.
type listing struct {
	row   container.Packed
	spec  container.PackedSpec
	known *known               // of this record; of this spec too, if that is equal
	one   *container.Container // the record, once it was needed
}

// fields gives what filters look at.
func (l *listing) fields() (filter.Fields, error) {
	if l.known != nil {
		m := l.known.message
		return filter.Container(m.ID, m.Image, m.GetRuntime().GetName(), m.Labels), nil
	}
	one, err := l.record()
	if err != nil {
		return nil, err
	}
	return filter.Container(one.ID, one.Image, one.Runtime.Name, one.Labels), nil
}

// record gives the record.
func (l *listing) record() (*container.Container, error) {
	if l.one == nil {
		one, err := l.row.Unpack()
		if err != nil {
			return nil, err
		}
		l.one = &one
	}
	return l.one, nil
}

// message gives the message.
func (l *listing) message(s *listed) (*containersapi.Container, error) {
	if l.known != nil && l.known.spec.Equal(l.spec) {
		return l.known.message, nil
	}
	one, err := l.record()
	if err != nil {
		return nil, err
	}
	m, err := withSpec(*one, l.spec)
	if err != nil {
		return nil, err
	}
	s.keep(&known{record: l.row, spec: l.spec, message: m})
	return m, nil
}

// list reads the containers of a namespace that fit, all as they are at one moment. It decodes only what fits needs.
func (s *listed) list(tx *state.Tx, ns string, fits func(*listing) (bool, error)) ([]listing, error) {
	rows, err := container.AllPacked(tx, ns)
	if err != nil {
		return nil, err
	}
	var all []listing
	var ids []string
	for i, k := range s.find(ns, rows) {
		one := listing{row: rows[i], known: k}
		if ok, err := fits(&one); err != nil {
			return nil, err
		} else if ok {
			all, ids = append(all, one), append(ids, rows[i].ID())
		}
	}
	specs, err := container.PackedSpecs(tx, ns, ids)
	for i, spec := range specs {
		all[i].spec = spec
	}
	return all, err
}
