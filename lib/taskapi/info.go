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

func (m *RuntimeInfo) fields(c *codec) {
	c.string(1, &m.Name)
	optional(c, 2, &m.Version)
	c.any(3, &m.Options)
	c.any(4, &m.Features)
	c.strmap(5, &m.Annotations)
}

func (m *RuntimeVersion) fields(c *codec) { c.process(&m.Version, &m.Revision) }

func (m *MountCapabilities) fields(c *codec) {
	c.strings(1, &m.Types)
	c.strings(2, &m.Transforms)
}
