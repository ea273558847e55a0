// SPDX-License-Identifier: Apache-2.0

package taskapi

import "google.golang.org/protobuf/encoding/protowire"

// processDetailsURL is the type of what a shim of a runc-like engine tells of a process (containerd/api,
// types/runc/options/oci.proto): the exec whose first process it is.
const processDetailsURL = "containerd.runc.v1.ProcessDetails"

// ExecID is the exec whose first process it is; empty for init, and for what a program has started.
func (p ProcessInfo) ExecID() string {
	if p.Info == nil || p.Info.TypeURL != processDetailsURL {
		return ""
	}
	num, typ, n := protowire.ConsumeTag(p.Info.Value)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return ""
	}
	id, n := protowire.ConsumeString(p.Info.Value[n:])
	if n < 0 {
		return ""
	}
	return id
}

// RuncOptionsURL is the type of [RuncOptions] in an Any.
const RuncOptionsURL = "containerd.runc.v1.Options"

// RuncOptions are what a shim of a runc-like engine takes with Create (containerd/api,
// types/runc/options/oci.proto).
type RuncOptions struct {
	BinaryName    string // name or path of the engine
	Root          string // the engine's state directory
	SystemdCgroup bool
}

// Any is the message as it is sent.
func (o RuncOptions) Any() *Any {
	var b []byte
	for num, text := range map[protowire.Number]string{6: o.BinaryName, 7: o.Root} {
		if text != "" {
			b = protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), text)
		}
	}
	if o.SystemdCgroup {
		b = protowire.AppendVarint(protowire.AppendTag(b, 9, protowire.VarintType), 1)
	}
	return &Any{TypeURL: RuncOptionsURL, Value: b}
}
