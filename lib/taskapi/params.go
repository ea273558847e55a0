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

func (m *BootstrapParams) fields(c *codec) {
	c.string(1, &m.ID)
	c.string(2, &m.Namespace)
	c.int32(3, &m.LogLevel)
	c.string(4, &m.ContainerdVersion)
	c.string(5, &m.TTRPCAddress)
	c.string(6, &m.GRPCAddress)
	c.string(7, &m.ContainerdBinary)
	c.extensions(8, &m.Extensions)
	c.string(9, &m.SocketDir)
}

// extensionMessage is containerd.runtime.bootstrap.v1.Extension.
type extensionMessage struct{ Value *Any }

func (m *extensionMessage) fields(c *codec) { c.any(1, &m.Value) }

// maxExtensions bounds what a message of a few bytes an extension can make us
// allocate.
const maxExtensions = 256

// extensions is a list of them; one without a value says nothing.
func (c *codec) extensions(num protowire.Number, p *[]Any) {
	if c.in == nil {
		for i := range *p {
			c.message(num, &extensionMessage{&(*p)[i]})
		}
	} else if c.is(num, protowire.BytesType) {
		var e extensionMessage
		switch c.message(num, &e); {
		case c.err != nil || e.Value == nil:
		case len(*p) == maxExtensions:
			c.fail(fmt.Errorf("more than %d extensions", maxExtensions))
		default:
			*p = append(*p, *e.Value)
		}
	}
}
