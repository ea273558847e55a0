// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// listField is the number of the field that has the list, in each answer of the CRI that has nothing else.
const listField = 1

// listed keeps the messages of what was listed, and their encoding, so that the next list makes only those anew that have changed. A message
// follows from what was listed alone, and that is another pointer when it has changed. The zero value is ready for use.
type listed[S any, M proto.Message] struct {
	mu    sync.Mutex
	list  []*S
	items []listedItem[M] // of list, in its order
	whole []byte          // the encoding of all
}

// listedItem is one message of a list. Several answers may be on their way with it: neither may be changed.
type listedItem[M proto.Message] struct {
	message M
	encoded []byte // as an element of the answer's list
}

// forget gives up what is kept.
func (l *listed[S, M]) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list, l.items, l.whole = nil, nil, nil
}

// messages gives the messages of a list that fit, and their encoding as an answer that has nothing but the list.
func (l *listed[S, M]) messages(list []*S, message func(*S) M, fits func(M) bool) (all []M, encoded []byte, err error) {
	items, whole, err := l.update(list, message)
	if err != nil {
		return nil, nil, err
	}
	all = make([]M, 0, len(items))
	for _, i := range items {
		if fits(i.message) {
			all = append(all, i.message)
		}
	}
	if len(all) == len(items) {
		return all, whole, nil
	}
	for _, i := range items {
		if fits(i.message) {
			encoded = append(encoded, i.encoded...)
		}
	}
	return all, encoded, nil
}

// update makes the messages of a list, and gives those of the last list again that are the same.
func (l *listed[S, M]) update(list []*S, message func(*S) M) ([]listedItem[M], []byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(list, l.list) {
		return l.items, l.whole, nil
	}
	was := make(map[*S]listedItem[M], len(l.list))
	for i, one := range l.list {
		was[one] = l.items[i]
	}
	items, whole := make([]listedItem[M], len(list)), make([]byte, 0, len(l.whole))
	for i, one := range list {
		item, ok := was[one]
		if !ok {
			item.message = message(one)
			b, err := proto.Marshal(item.message)
			if err != nil {
				return nil, nil, err
			}
			item.encoded = protowire.AppendBytes(protowire.AppendTag(nil, listField, protowire.BytesType), b)
		}
		items[i], whole = item, append(whole, item.encoded...)
	}
	l.list, l.items, l.whole = list, items, whole
	return items, whole, nil
}

// answered makes an answer of an encoded list: gRPC sends fields that a message does not know as they are.
func answered[A proto.Message](answer A, encoded []byte) A {
	answer.ProtoReflect().SetUnknown(encoded)
	return answer
}
