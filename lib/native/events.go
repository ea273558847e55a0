// SPDX-License-Identifier: Apache-2.0

package native

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	_ "github.com/containerd/containerd/api/events" // the messages that events carry
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/filter"
)

type eventService struct {
	eventsapi.UnimplementedEventsServer
	s *Server
}

// Publish appends an event of the call's namespace to the journal.
func (e eventService) Publish(ctx context.Context, r *eventsapi.PublishRequest) (*emptypb.Empty, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, e.append(&types.Envelope{Namespace: ns, Topic: r.Topic, Event: r.Event})
}

// Forward appends an event that happened elsewhere.
func (e eventService) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, e.append(r.Envelope)
}

func (e eventService) append(m *types.Envelope) error {
	if m.GetEvent() == nil || !strings.HasPrefix(m.Topic, "/") || m.Namespace == "" {
		return fmt.Errorf("an event has a namespace, a topic that begins with / and a message: %w", errdefs.ErrInvalidArgument)
	}
	if m.Timestamp != nil && !m.Timestamp.IsValid() { // the journal could not tell it, nor what is appended with it
		return fmt.Errorf("the event's time %s is none: %w", m.Timestamp, errdefs.ErrInvalidArgument)
	}
	data, err := eventData(m.Event)
	if err != nil {
		return err
	}
	if n := len(m.Namespace) + len(m.Topic) + len(m.Event.TypeUrl) + len(data); n > maxEvent {
		return fmt.Errorf("an event of %d bytes, more than %d: %w", n, maxEvent, errdefs.ErrResourceExhausted)
	}
	f := event.Foreign{ForeignTopic: m.Topic, ForeignType: typeName(m.Event.TypeUrl), Data: data}
	entry := event.Entry{Namespace: m.Namespace, Payload: f}
	if len(m.Event.Value) <= maxAsItCame {
		entry.Payload = fromClient{f, m.Event.Value}
	}
	if m.Timestamp != nil {
		entry.Time = m.Timestamp.AsTime()
	}
	return e.s.published.append(e.s.d.Journal(), entry)
}

// fromClient is an event of a client, with its message as it came, which a subscriber of this process is sent.
type fromClient struct {
	event.Foreign
	value []byte
}

// maxAsItCame bounds such a message, in bytes. A larger one is sent as the journal has it: most of it may be fields that are not known here, which
// maxEvent does not count.
const maxAsItCame = 4 << 10

// published are events that clients publish at the same time: they share turns of the journal, in the order in which they come.
type published struct {
	mu      sync.Mutex
	at      bool // somebody appends
	waiting []event.Entry
	told    []chan error // for each of them
}

// append adds an event, or has it added by the one that is at it.
func (p *published) append(j event.Journal, e event.Entry) error {
	p.mu.Lock()
	done := make(chan error, 1)
	p.waiting, p.told = append(p.waiting, e), append(p.told, done)
	if p.at {
		p.mu.Unlock()
		return <-done
	}
	p.at = true
	p.mu.Unlock()
	for p.turn(j) {
	}
	return <-done
}

// turn appends what waits, in one turn of the journal, and tells whether more has come meanwhile. A panic in it goes on in its
// caller, and is an error for those whose events it was to append: none of them waits for somebody who is no more.
func (p *published) turn(j event.Journal) (more bool) {
	var told []chan error
	err := errUntold
	defer func() {
		p.mu.Lock()
		if errors.Is(err, errUntold) {
			told, p.waiting, p.told = append(told, p.told...), nil, nil
		}
		more = len(p.waiting) > 0
		p.at = more
		p.mu.Unlock()
		for _, t := range told {
			t <- err
		}
	}()
	runtime.Gosched() // others come, who are about to
	turn := j.Turn()  // and more meanwhile
	p.mu.Lock()
	all := p.waiting
	told, p.waiting, p.told = p.told, nil, nil
	p.mu.Unlock()
	err = turn.Append(all...)
	return more
}

var errUntold = fmt.Errorf("event journal: a fault of ctrd, and nobody knows whether the event was appended: %w", errdefs.ErrInternal)

// Subscribe sends what happens from now on in all namespaces, as far as a filter fits.
func (e eventService) Subscribe(r *eventsapi.SubscribeRequest, stream eventsapi.Events_SubscribeServer) error {
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return err
	}
	journal := e.s.d.Journal()
	since, err := journal.Last()
	if err != nil {
		return err
	}
	// The client takes the header for the answer that it is subscribed.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for one, err := range journal.Read(stream.Context(), since, true) {
		if err != nil {
			return err
		}
		if !f.Match(filter.Event(one.Namespace, one.Topic, one.Data)) {
			continue
		}
		m, err := envelope(one)
		if err != nil {
			e.s.log.Warn("an event of the journal cannot be sent", "seq", one.Seq, "error", err)
			continue
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return stream.Context().Err()
}

func envelope(e event.Event) (*types.Envelope, error) {
	c, ok := e.Payload.(fromClient)
	if !ok {
		var err error
		if c.value, err = eventValue(e.Type, e.Data); err != nil {
			return nil, err
		}
	}
	return &types.Envelope{
		Timestamp: timestamppb.New(e.Time.Round(time.Nanosecond)), Namespace: e.Namespace, Topic: e.Topic,
		Event: &anypb.Any{TypeUrl: e.Type, Value: c.value},
	}, nil
}

// opaque is the JSON of a message whose type, or that of a message in it, is not known here.
type opaque struct {
	Value []byte `json:"@value"`
}

func opaqueData(value []byte) (json.RawMessage, error) {
	return json.Marshal(opaque{append([]byte{}, value...)}) // an empty message is not null
}

// eventData is the JSON of a message, as the journal has it.
func eventData(m *anypb.Any) (json.RawMessage, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(bareName(m.TypeUrl)))
	if err != nil {
		return opaqueData(m.Value)
	}
	one := kind.New().Interface()
	if err := proto.Unmarshal(m.Value, one); err != nil {
		return nil, fmt.Errorf("event %.200q: %w: %w", m.TypeUrl, err, errdefs.ErrInvalidArgument)
	}
	known := &fewTypes{Types: protoregistry.GlobalTypes, left: maxInner}
	if data, err := (protojson.MarshalOptions{UseProtoNames: true, Resolver: known}).Marshal(one); err == nil && !deeper(data, maxDepth) && !isOpaque(data) {
		return data, nil
	}
	return opaqueData(m.Value)
}

// maxEvent bounds an event, in bytes as the journal has it: each subscriber is sent it in one message, and whoever reads the journal has it
// in memory whole.
const maxEvent = maxMessage / 2

// Bounds on what is told of an event by its fields; beyond them the journal has it as it came. A message in a message in a message
// is decoded anew at each step, which takes minutes for one that a client can send, and a reader of JSON has a bound on its depth,
// beyond which the whole journal could not be read.
const (
	maxInner = 64  // messages of any type in it
	maxDepth = 100 // of arrays and objects
)

// fewTypes finds the types of a few messages that are in a message, and of no more.
type fewTypes struct {
	*protoregistry.Types
	left int
}

// FindMessageByURL implements protoregistry.MessageTypeResolver.
func (f *fewTypes) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if f.left--; f.left < 0 {
		return nil, protoregistry.NotFound
	}
	return f.Types.FindMessageByURL(url)
}

// deeper tells whether arrays and objects are nested deeper than that.
func deeper(data []byte, most int) bool {
	depth, inText := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			if depth++; depth > most {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// isOpaque tells whether the JSON of a message looks like that of opaqueData, as that of a Struct can.
func isOpaque(data json.RawMessage) bool {
	_, ok := opaqueValue(data)
	return ok
}

func opaqueValue(data json.RawMessage) (value []byte, ok bool) {
	var o opaque
	if bytes.Contains(data, []byte(`"@value"`)) && json.Unmarshal(data, &o) == nil && o.Value != nil {
		return o.Value, true
	}
	return nil, false
}

// eventValue encodes a message of the journal.
func eventValue(name string, data json.RawMessage) ([]byte, error) {
	if value, ok := opaqueValue(data); ok {
		return value, nil
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return nil, fmt.Errorf("event of type %q: %w: %w", name, err, errdefs.ErrNotImplemented)
	}
	one := kind.New().Interface()
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, one); err != nil {
		return nil, fmt.Errorf("event of type %q: %w: %w", name, err, errdefs.ErrDataLoss)
	}
	return proto.Marshal(one)
}

// typeName is how the journal names a type: by its protobuf name where that is known here, else by the whole type URL.
func typeName(url string) string {
	if _, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(bareName(url))); err == nil {
		return bareName(url)
	}
	return url
}

// bareName is a type URL without what stands before its last slash.
func bareName(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }
