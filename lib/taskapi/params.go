// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
)

// BootstrapParams is containerd.runtime.bootstrap.v1.BootstrapParams: what
// containerd 2.3 and later writes to the stdin of a shim's start. Shims that
// are built with that package refuse to start without it; see
// [BootstrapParams.Old] for older ones.
type BootstrapParams struct {
	ID                string // of the container or the sandbox
	Namespace         string
	LogLevel          int32 // 0 is info, -4 debug, 4 warn, 8 error
	ContainerdVersion string
	TTRPCAddress      string // where events go
	GRPCAddress       string
	ContainerdBinary  string
	Extensions        []Any  // options of the runtime among them
	SocketDir         string // where the socket is to be; empty: the shim's choice
}

// ParseStart reads what a shim finds on the stdin of start, as the shim of
// container id in a namespace. From containerd 2.3 and later that is
// BootstrapParams, and message is true: the answer is to be
// [Bootstrap.Message]. From earlier ones it is the options of the runtime, an
// Any, or nothing: then only ID, Namespace and Extensions are set.
// Bytes that are neither, or are for another container, are
// errdefs.ErrInvalidArgument.
func ParseStart(stdin []byte, id, namespace string) (p BootstrapParams, message bool, err error) {
	// Both messages begin with two fields of bytes: only the identity tells
	// them apart.
	var options Any
	if err := Unmarshal(stdin, &options); err != nil {
		return p, false, fmt.Errorf("bootstrap parameters: %w", err)
	}
	if options.TypeURL == id && string(options.Value) == namespace {
		if err := Unmarshal(stdin, &p); err != nil {
			return BootstrapParams{}, false, fmt.Errorf("bootstrap parameters: %w", err)
		}
		return p, true, nil
	}
	old := BootstrapParams{ID: id, Namespace: namespace}
	switch {
	case len(stdin) == 0:
		return old, false, nil
	case options.TypeURL == "" || len(stdin) != len(Marshal(&options)):
		return BootstrapParams{}, false, fmt.Errorf("bootstrap parameters are those of %.100q in %.100q: %w", options.TypeURL, options.Value, errdefs.ErrInvalidArgument)
	}
	old.Extensions = []Any{options}
	return old, false, nil
}

// Old gives what containerd 2.2 and earlier write to the stdin of a shim's
// start: the options of the runtime, which are the first extension, or nothing.
// The shims of containerd 1.6 and earlier fail on any other message: "type with
// url ID: not found".
func (p *BootstrapParams) Old() []byte {
	if len(p.Extensions) == 0 {
		return nil
	}
	return Marshal(&p.Extensions[0])
}

// Extension decodes the first extension of m's type into m, a pointer to a
// zero message, and tells whether there is one. One that is malformed is
// errdefs.ErrInvalidArgument.
func (p *BootstrapParams) Extension(m typed) (bool, error) {
	return extension(p.Extensions, m)
}

// Extension is BootstrapParams.Extension for what a shim says.
func (s *Bootstrap) Extension(m typed) (bool, error) {
	return extension(s.Extensions, m)
}

func extension(all []Any, m typed) (bool, error) {
	for i := range all {
		if all[i].Is(m.typeName()) {
			return true, all[i].To(m)
		}
	}
	return false, nil
}

func (m *BootstrapParams) append(b []byte) []byte {
	b = putString(b, 1, m.ID)
	b = putString(b, 2, m.Namespace)
	b = putUint(b, 3, uint64(int64(m.LogLevel)))
	b = putString(b, 4, m.ContainerdVersion)
	b = putString(b, 5, m.TTRPCAddress)
	b = putString(b, 6, m.GRPCAddress)
	b = putString(b, 7, m.ContainerdBinary)
	b = putExtensions(b, 8, m.Extensions)
	return putString(b, 9, m.SocketDir)
}

func (m *BootstrapParams) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.ID)
	case 2:
		return f.string(&m.Namespace)
	case 3:
		return f.int32(&m.LogLevel)
	case 4:
		return f.string(&m.ContainerdVersion)
	case 5:
		return f.string(&m.TTRPCAddress)
	case 6:
		return f.string(&m.GRPCAddress)
	case 7:
		return f.string(&m.ContainerdBinary)
	case 8:
		return f.extension(&m.Extensions)
	case 9:
		return f.string(&m.SocketDir)
	}
	return nil
}

// extensionMessage is containerd.runtime.bootstrap.v1.Extension.
type extensionMessage struct{ Value *Any }

func (m *extensionMessage) append(b []byte) []byte { return putAny(b, 1, m.Value) }

func (m *extensionMessage) set(f field) error {
	if f.num == 1 {
		return f.any(&m.Value)
	}
	return nil
}

// maxExtensions bounds what a message of a few bytes an extension can make us
// allocate.
const maxExtensions = 256

// extension adds an extension; one without a value says nothing.
func (f field) extension(p *[]Any) error {
	if f.typ != protowire.BytesType {
		return nil
	}
	var e extensionMessage
	if err := f.message(&e); err != nil || e.Value == nil {
		return err
	}
	if len(*p) == maxExtensions {
		return fmt.Errorf("more than %d extensions", maxExtensions)
	}
	*p = append(*p, *e.Value)
	return nil
}

func putExtensions(b []byte, num protowire.Number, all []Any) []byte {
	for i := range all {
		b = putMessage(b, num, &extensionMessage{&all[i]})
	}
	return b
}
