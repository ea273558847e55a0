// SPDX-License-Identifier: Apache-2.0

// Package container keeps the records of containers. A container is what could run: an image, a spec, a
// snapshot, a runtime. What runs is a task (lib/task).
//
// # On disk
//
// Bucket containers / namespace / id: the record. Bucket container-specs / namespace / id: the OCI spec,
// deflated. A container made by `run --rm` is transient: its records are in run.db and end with the
// boot. <root>/containers/<namespace>/<uid>/: the output log,
// and volumes/N, its anonymous volumes.
//
// # Locks
//
// Creating, starting and removing take the lock container <namespace>/<id>. It is also what keeps one id
// from being in both databases.
//
// # After a crash
//
// Record and spec are written in one commit. A transient record whose creator and supervisor are both
// gone is removed by the next command that meets it (lib/task). A log directory without a record is
// garbage.
package container

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/flate"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
)

// Container is one record.
type Container struct {
	ID string `json:"id"`
	// UID tells this container from an earlier or a later one of the same id. It is random, and empty in
	// records of before there were any.
	UID         string            `json:"uid,omitempty"`
	Image       string            `json:"image,omitempty"` // name of the image record; the image may be gone
	Labels      map[string]string `json:"labels,omitempty"`
	Runtime     Runtime           `json:"runtime"`
	Snapshotter string            `json:"snapshotter,omitempty"`
	SnapshotKey string            `json:"snapshot_key,omitempty"`
	// DefaultSeccomp says that the default profile is added to the spec when a task starts.
	DefaultSeccomp bool `json:"default_seccomp,omitempty"`
	// UserNS maps the container's users, so that no other is given the same ones.
	UserNS spec.UserNS `json:"userns,omitzero"`
	// Join names the containers whose namespaces are shared, by "net", "pid", "ipc" and "uts"; see spec.Join.
	Join map[string]Ref `json:"join,omitempty"`
	// Network is what it is attached to when a task starts; nil: to nothing.
	Network *Network `json:"network,omitempty"`
	// Etc is what the files in /etc say that are made at each start.
	Etc        spec.Etc `json:"etc,omitzero"`
	StopSignal string   `json:"stop_signal,omitempty"`
	// CgroupParent is below which its cgroup is made; for the systemd driver a slice.
	CgroupParent string `json:"cgroup_parent,omitempty"`
	// CgroupDriver is who makes its cgroup: "systemd", or "" for cgroupfs.
	CgroupDriver string `json:"cgroup_driver,omitempty"`
	// StopTimeout is how many seconds a stop waits before it kills: nil is the default, -1 no bound.
	StopTimeout *int  `json:"stop_timeout,omitempty"`
	Stdin       bool  `json:"stdin,omitempty"`         // stdin is kept open for clients
	StdinOnce   bool  `json:"stdin_once,omitempty"`    // stdin ends with the input of the first client of the CRI
	LogMaxSize  int64 `json:"log_max_size,omitempty"`  // bytes; 0: the log is never rotated
	LogMaxFiles int   `json:"log_max_files,omitempty"` // log files that are kept, the one that is written included
	LogMaxLine  int   `json:"log_max_line,omitempty"`  // bytes of output in one record; 0: stdio.DefaultLine
	// LogPath is where a client wants the log, which it rotates and removes itself; empty: the container's own place.
	LogPath   string `json:"log_path,omitempty"`
	Transient bool   `json:"transient,omitempty"` // removed when its task ends, or with the boot
	// SpecType is the type URL of the spec where it is not the JSON of an OCI spec.
	SpecType string `json:"spec_type,omitempty"`
	// Extensions are what clients of the API keep with a container.
	Extensions map[string]Any `json:"extensions,omitempty"`
	Sandbox    string         `json:"sandbox,omitempty"` // id of the sandbox that it belongs to
	// JoinSandbox lists the kinds of namespaces that are the sandbox's, as /proc/PID/ns calls them.
	JoinSandbox []string `json:"join_sandbox,omitempty"`
	// Pod is what lib/pod has made the container from, as it wrote it.
	Pod     json.RawMessage `json:"pod,omitempty"`
	Created time.Time       `json:"created"`
	Updated time.Time       `json:"updated"`
}

// Any is a message of a client's, kept as it came.
type Any struct {
	Type  string `json:"type"` // type URL
	Value []byte `json:"value,omitempty"`
}

// Ref names another container of the namespace, and no later one of its name.
type Ref struct {
	ID  string `json:"id"`
	UID string `json:"uid,omitempty"`
}

// Runtime names what runs the container.
type Runtime struct {
	Name    string `json:"name"`
	Options *Any   `json:"options,omitempty"` // for the shim; nil: none
}

// DefaultRuntime is ctr-shim with the engine that it embeds.
const DefaultRuntime = "io.containerd.ctr.v1"

var (
	records = state.Table[Container]{Name: "containers"}
	specTab = state.Table[[]byte]{Name: "container-specs"}
)

// maxID is containerd's bound on identifiers.
const maxID = 76

// CheckID refuses what containerd refuses as an id of a container or a namespace.
func CheckID(id string) error {
	if !validID(id) {
		return fmt.Errorf("%.100q is no identifier: letters and digits, joined by single '.', '_' or '-', at most %d characters: %w", id, maxID, errdefs.ErrInvalidArgument)
	}
	return nil
}

// validID is the pattern [A-Za-z0-9]+([._-][A-Za-z0-9]+)*, written out because every command would pay
// for compiling it.
func validID(id string) bool {
	joint := true // a joining character may not come next
	for _, r := range []byte(id) {
		switch {
		case '0' <= r && r <= '9', 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z':
			joint = false
		case (r == '.' || r == '_' || r == '-') && !joint:
			joint = true
		default:
			return false
		}
	}
	return !joint && len(id) <= maxID
}

// Get reads one record.
func Get(tx *state.Tx, ns, id string) (Container, error) { return records.Get(tx, ns, id) }

// Spec reads a container's OCI spec.
func Spec(tx *state.Tx, ns, id string) (*specs.Spec, error) {
	data, err := RawSpec(tx, ns, id)
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("spec of container %q: %w: %w", id, err, errdefs.ErrDataLoss)
	}
	return &s, nil
}

// maxSpec bounds a spec, in bytes.
const maxSpec = 16 << 20

// RawSpec reads a container's spec as it was given.
func RawSpec(tx *state.Tx, ns, id string) ([]byte, error) {
	packed, err := specTab.Get(tx, ns, id)
	if err != nil {
		return nil, err
	}
	return PackedSpec{id, packed}.Unpack()
}

// PackedSpec is a container's spec as its record has it. The zero value is none.
type PackedSpec struct {
	id   string
	data []byte
}

// PackedSpecs reads the specs of several containers at once, in the order of ids; of one that has no spec it is none.
func PackedSpecs(tx *state.Tx, ns string, ids []string) ([]PackedSpec, error) {
	found, err := specTab.Some(tx, ns, ids)
	if err != nil {
		return nil, err
	}
	specs := make([]PackedSpec, len(ids))
	for i, data := range found {
		if data != nil {
			specs[i] = PackedSpec{ids[i], *data}
		}
	}
	return specs, nil
}

// Equal tells whether two are of containers of one id, and have the same bytes.
func (p PackedSpec) Equal(o PackedSpec) bool { return p.id == o.id && bytes.Equal(p.data, o.data) }

// Size is how many bytes it has.
func (p PackedSpec) Size() int { return len(p.data) }

// Unpack gives the spec as it was given, and nil where there is none.
func (p PackedSpec) Unpack() ([]byte, error) {
	if p.id == "" {
		return nil, nil
	}
	data, err := unpack(p.data)
	if err != nil {
		return nil, fmt.Errorf("spec of container %q: %w: %w", p.id, err, errdefs.ErrDataLoss)
	}
	return data, nil
}

// inflater has what inflating a spec needs beside the spec, all of it larger than most specs, to be used again.
type inflater struct {
	in    bytes.Reader
	flate io.ReadCloser
	out   bytes.Buffer
}

var inflaters = sync.Pool{New: func() any { return &inflater{flate: flate.NewReader(nil)} }}

// maxKept bounds the buffer of an inflater that is used again, in bytes.
const maxKept = 64 << 10

// unpack is the reverse of pack.
func unpack(packed []byte) ([]byte, error) {
	f := inflaters.Get().(*inflater)
	defer func() {
		f.in.Reset(nil)
		if f.out.Cap() <= maxKept {
			inflaters.Put(f)
		}
	}()
	f.in.Reset(packed)
	f.out.Reset()
	if err := f.flate.(flate.Resetter).Reset(&f.in, nil); err != nil {
		return nil, err
	}
	n, err := f.out.ReadFrom(io.LimitReader(f.flate, maxSpec+1))
	if err == nil && n > maxSpec {
		err = fmt.Errorf("more than %d bytes", maxSpec)
	}
	return append([]byte{}, f.out.Bytes()...), err
}

// Create records a new container with its spec, and gives the record, which has an identity of its own now. The caller
// holds the container's lock; an id that is taken is errdefs.ErrAlreadyExists.
func Create(tx *state.Tx, ns string, c Container, s *specs.Spec) (Container, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return c, fmt.Errorf("spec of container %q: %w", c.ID, err)
	}
	return CreateRaw(tx, ns, c, data)
}

// CreateRaw is Create with a spec that is kept as it is. Of nil, there is none.
func CreateRaw(tx *state.Tx, ns string, c Container, spec []byte) (Container, error) {
	if err := CheckID(c.ID); err != nil {
		return c, err
	}
	if _, err := records.Get(tx, ns, c.ID); err == nil {
		return c, fmt.Errorf("container %q in namespace %q: %w", c.ID, ns, errdefs.ErrAlreadyExists)
	} else if !errdefs.IsNotFound(err) {
		return c, err
	}
	c.UID = cmp.Or(c.UID, rand.Text())
	c.Transient = !tx.Durable()
	c.Created = time.Now().UTC()
	c.Updated = c.Created
	if err := records.Put(tx, ns, c.ID, c); err != nil {
		return c, err
	}
	if err := putRaw(tx, ns, c.ID, spec); err != nil {
		return c, err
	}
	tx.Emit(ns, event.ContainerCreate{ID: c.ID, Image: c.Image, Runtime: &event.ContainerRuntime{Name: c.Runtime.Name}})
	return c, nil
}

// Put rewrites an existing record and stamps the time of the change. One that the database which tx
// writes does not have is errdefs.ErrNotFound.
func Put(tx *state.Tx, ns string, c Container) error {
	if ok, err := records.Has(tx, tx.Durable(), ns, c.ID); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("container %q in namespace %q: %w", c.ID, ns, errdefs.ErrNotFound)
	}
	c.Updated = time.Now().UTC()
	if err := records.Put(tx, ns, c.ID, c); err != nil {
		return err
	}
	tx.Emit(ns, event.ContainerUpdate{ID: c.ID, Image: c.Image, Labels: c.Labels, SnapshotKey: c.SnapshotKey})
	return nil
}

// Remove removes a record and its spec from the database that tx writes.
func Remove(tx *state.Tx, ns, id string) error {
	if err := records.Delete(tx, ns, id); err != nil {
		return err
	}
	if err := specTab.Delete(tx, ns, id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	tx.Emit(ns, event.ContainerDelete{ID: id})
	return nil
}

// All yields the containers of a namespace by id.
func All(tx *state.Tx, ns string) iter.Seq2[Container, error] {
	return func(yield func(Container, error) bool) {
		for row, err := range records.All(tx, ns) {
			row.Value.ID = row.Key
			if !yield(row.Value, err) {
				return
			}
		}
	}
}

// Memory keeps the containers of a namespace for [Recall].
type Memory = state.Memory[Container]

// NewMemory makes one that is empty.
func NewMemory() *Memory {
	return &Memory{Name: func(c *Container, id string) { c.ID = id }}
}

// Recall gives the containers of a namespace by id in a [state.Dir.View], each that has not changed as it was given before.
func Recall(tx *state.Tx, ns string, m *Memory) ([]state.Recalled[Container], error) {
	return records.Recall(tx, ns, m)
}

// Packed is a container's record as the database has it. Two that are Equal are the record of one container in one state.
type Packed struct {
	ns, id string
	data   []byte
}

// AllPacked reads the containers of a namespace, in the order of their ids, and decodes none.
func AllPacked(tx *state.Tx, ns string) ([]Packed, error) {
	rows, err := records.Raw(tx, ns)
	if err != nil {
		return nil, err
	}
	all := make([]Packed, len(rows))
	for i, row := range rows {
		all[i] = Packed{ns, row.Key, row.Value}
	}
	return all, nil
}

// Namespace gives the container's namespace.
func (p Packed) Namespace() string { return p.ns }

// ID gives the container's id.
func (p Packed) ID() string { return p.id }

// Equal tells whether two are of one namespace and id, and have the same bytes.
func (p Packed) Equal(o Packed) bool {
	return p.ns == o.ns && p.id == o.id && bytes.Equal(p.data, o.data)
}

// Clone gives a copy that keeps nothing else in memory, as one does that was read with others.
func (p Packed) Clone() Packed { return Packed{p.ns, p.id, bytes.Clone(p.data)} }

// Size is how many bytes it has.
func (p Packed) Size() int { return len(p.data) }

// Unpack decodes the record.
func (p Packed) Unpack() (Container, error) {
	var c Container
	err := p.UnpackTo(&c)
	return c, err
}

// UnpackTo is Unpack to a place that is there.
func (p Packed) UnpackTo(c *Container) error {
	err := records.DecodeTo(c, p.ns, p.id, p.data)
	c.ID = p.id
	return err
}

// Files names the directory of a container's files below its namespace's. It is not the id: an id can be given
// to another container.
func (c Container) Files() string { return cmp.Or(c.UID, c.ID) }

// Namespaces lists the namespaces that have containers.
func Namespaces(tx *state.Tx) ([]string, error) { return records.Namespaces(tx) }

// IsRandomID tells whether an id looks like those of containers that were given none: 12 hexadecimal digits,
// of which the first is a letter.
func IsRandomID(id string) bool {
	return len(id) == 12 && strings.Trim(id, "0123456789abcdef") == "" && id[0] >= 'a'
}

// Find gives the container whose id is query, or the only one whose random id begins with it. A name that a
// person gave is a name: what begins like another is not meant by it.
func Find(tx *state.Tx, ns, query string) (Container, error) {
	if query == "" {
		return Container{}, fmt.Errorf("container without a name: %w", errdefs.ErrInvalidArgument)
	}
	c, err := records.Get(tx, ns, query)
	if err == nil || !errdefs.IsNotFound(err) {
		return c, err
	}
	var found []Container
	for c, err := range All(tx, ns) {
		if err == nil && IsRandomID(c.ID) && strings.HasPrefix(c.ID, query) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return Container{}, err
	case 1:
		return found[0], nil
	}
	return Container{}, fmt.Errorf("container %q in namespace %q: %d ids begin with it, %s and %s among them: %w",
		query, ns, len(found), found[0].ID, found[1].ID, errdefs.ErrInvalidArgument)
}

// Complete gives the only id that begins with text, whoever has given it. None is errdefs.ErrNotFound, several are
// errdefs.ErrInvalidArgument.
func Complete(tx *state.Tx, ns, text string) (string, error) {
	var found []string
	for c := range All(tx, ns) {
		if text != "" && strings.HasPrefix(c.ID, text) {
			found = append(found, c.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("container %q in namespace %q: %w", text, ns, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("container %q in namespace %q: %d ids begin with it: %w", text, ns, len(found), errdefs.ErrInvalidArgument)
}

// PutSpec rewrites a container's spec.
func PutSpec(tx *state.Tx, ns, id string, s *specs.Spec) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("spec of container %q: %w", id, err)
	}
	return putRaw(tx, ns, id, data)
}

// putRaw rewrites a container's spec; nil removes it.
func putRaw(tx *state.Tx, ns, id string, data []byte) error {
	if data == nil {
		if err := specTab.Delete(tx, ns, id); !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	}
	if len(data) > maxSpec {
		return fmt.Errorf("spec of container %q: more than %d bytes: %w", id, maxSpec, errdefs.ErrInvalidArgument)
	}
	packed, err := pack(data)
	if err != nil {
		return fmt.Errorf("spec of container %q: %w", id, err)
	}
	return specTab.Put(tx, ns, id, packed)
}

// Rename gives a container another id, and its record and spec what fn makes of them. An id that is taken is
// errdefs.ErrAlreadyExists.
func Rename(tx *state.Tx, ns, from, to string, fn func(*Container, *specs.Spec)) (Container, error) {
	c, err := records.Get(tx, ns, from)
	if err != nil {
		return c, err
	}
	s, err := Spec(tx, ns, from)
	if err != nil {
		return c, err
	}
	c.ID, c.Updated = to, time.Now().UTC()
	fn(&c, s)
	if err := records.Move(tx, ns, from, to, c); err != nil {
		return c, err
	}
	if err := PutSpec(tx, ns, to, s); err != nil {
		return c, err
	}
	if err := specTab.Delete(tx, ns, from); err != nil {
		return c, err
	}
	tx.Emit(ns, event.ContainerCreate{ID: to, Image: c.Image, Runtime: &event.ContainerRuntime{Name: c.Runtime.Name}})
	tx.Emit(ns, event.ContainerDelete{ID: from})
	return c, nil
}

// pack deflates a spec.
func pack(data []byte) ([]byte, error) {
	var packed bytes.Buffer
	err := flate.StatelessDeflate(&packed, data, true, nil)
	return packed.Bytes(), err
}
