// SPDX-License-Identifier: Apache-2.0

package taskapi

// RuntimeInfo is containerd.types.RuntimeInfo, what a shim prints for -info.
// The shim reads the options, an Any or nothing, from its stdin.
type RuntimeInfo struct {
	Name        string // of the runtime, as io.containerd.runc.v2
	Version     *RuntimeVersion
	Options     *Any // as they were read
	Features    *Any // see OCIFeatures
	Annotations map[string]string
}

// RuntimeVersion is the version of a shim, and the revision of its source.
type RuntimeVersion struct{ Version, Revision string }

// OCIFeatures is the type URL of RuntimeInfo.Features when the value is the
// JSON of the OCI runtime specification's features.
const OCIFeatures = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// MountCapabilities is containerd.types.MountCapabilities, an extension of
// Bootstrap: what containerd 2.4 leaves to the shim.
type MountCapabilities struct {
	Types      []string // of mounts, as erofs
	Transforms []string // of mounts, as mkdir; last in the chain
}

func (*MountCapabilities) typeName() string { return "containerd.types.MountCapabilities" }

func (m *RuntimeInfo) append(b []byte) []byte {
	b = putString(b, 1, m.Name)
	if m.Version != nil {
		b = putMessage(b, 2, m.Version)
	}
	b = putAny(b, 3, m.Options)
	b = putAny(b, 4, m.Features)
	return putMap(b, 5, m.Annotations)
}

func (m *RuntimeInfo) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.Name)
	case 2:
		return sub(f, &m.Version)
	case 3:
		return f.any(&m.Options)
	case 4:
		return f.any(&m.Features)
	case 5:
		return f.strmap(&m.Annotations)
	}
	return nil
}

func (m *RuntimeVersion) append(b []byte) []byte { return putProcess(b, m.Version, m.Revision) }

func (m *RuntimeVersion) set(f field) error { return f.process(&m.Version, &m.Revision) }

func (m *MountCapabilities) append(b []byte) []byte {
	return putStrings(putStrings(b, 1, m.Types), 2, m.Transforms)
}

func (m *MountCapabilities) set(f field) error {
	switch f.num {
	case 1:
		return f.strings(&m.Types)
	case 2:
		return f.strings(&m.Transforms)
	}
	return nil
}
