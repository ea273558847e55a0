// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// File is where the configuration is read from when no other file is named, and EnvFile the environment variable that names
// another one.
const (
	File    = "/etc/ctrd/config.toml"
	EnvFile = "CTRD_CONFIG"
)

// Config is the whole configuration. [Default] has every field set; the zero Config is not valid.
type Config struct {
	// LogLevel is the least level that is logged: debug (each call of a client), info, warn or error.
	LogLevel string `toml:"log_level"`
	// IdleTimeout is how long there has been no call when a server that systemd activated ends; 0: it stays.
	IdleTimeout Duration `toml:"idle_timeout"`
	// Snapshotter is the driver for what names no other: a driver of ctrd or a key of ProxyPlugins.
	Snapshotter string `toml:"snapshotter"`
	// CgroupDriver is who makes the cgroups of pods: cgroupfs or systemd; empty: systemd where it runs the machine.
	CgroupDriver string `toml:"cgroup_driver"`
	// DefaultRuntime is the key in Runtimes of what runs a container or pod that names no runtime.
	DefaultRuntime string `toml:"default_runtime"`

	Cgroup  Cgroup  `toml:"cgroup"`
	Sockets Sockets `toml:"sockets"`
	Metrics Metrics `toml:"metrics"`
	GC      GC      `toml:"gc"`
	// Runtimes are by name; a pod names one by its RuntimeClass's handler.
	Runtimes map[string]Runtime `toml:"runtimes"`
	// ProxyPlugins are snapshotters that other processes serve, by name.
	ProxyPlugins map[string]ProxyPlugin `toml:"proxy_plugins,omitempty"`
	CRI          CRI                    `toml:"cri"`
}

// Cgroup is where a server runs.
type Cgroup struct {
	// Path is a cgroup, from the root of each hierarchy, into which a server moves itself when it starts; empty: it stays where it is.
	Path string `toml:"path"`
}

// Sockets are those that ctrd makes itself. Where systemd gives a socket, its unit says all of this.
type Sockets struct {
	Native Socket `toml:"native"` // containerd's gRPC API
	CRI    Socket `toml:"cri"`    // the Kubernetes CRI
	TTRPC  Socket `toml:"ttrpc"`  // events from shims
}

// Socket is where a server listens, and who may connect: root, the owner of the socket's file, the server's own user, and the
// group that owns it if Mode lets that write.
type Socket struct {
	// Address is the path; empty: the usual one in the state directory.
	Address string `toml:"address"`
	// Mode has the permissions of the file.
	Mode Mode `toml:"mode"`
	// Group is the name or number of the group that owns the file. One that does not exist is root's.
	Group string `toml:"group"`
	// UID is the user that owns the file.
	UID int `toml:"uid"`
}

// Metrics are where Prometheus finds its metrics.
type Metrics struct {
	// Socket is the path of a unix socket; empty: metrics.sock in the state directory; none: there is none.
	Socket string `toml:"socket"`
	// Address is HOST:PORT to listen on by TCP, where everybody who reaches it may read them; empty: no port is opened.
	Address string `toml:"address"`
	// GRPCHistogram has the time that calls take in a histogram for each method.
	GRPCHistogram bool `toml:"grpc_histogram"`
}

// GC says when ctrd collects garbage without being asked. A removal by a client of the API is always followed by a collection.
type GC struct {
	// ScheduleDelay is how long after a removal its collection begins, so that many removals share one.
	ScheduleDelay Duration `toml:"schedule_delay"`
	// Interval is the time between two collections of a server that stays; 0: there are none without a removal.
	Interval Duration `toml:"interval"`
}

// Runtime is what runs containers. Type and Path name a shim; without both it is ctrd's own supervisor.
type Runtime struct {
	// Type is the name of a shim, such as io.containerd.runc.v2; empty: ctrd's own.
	Type string `toml:"runtime_type"`
	// Path is the program of the shim, absolute; empty: it is found by Type.
	Path string `toml:"runtime_path"`
	// Engine is the name or the absolute path of an OCI engine that ctrd's own supervisor drives; empty: the one it embeds.
	Engine string `toml:"engine"`
	// Options are the shim's, by the names that containerd's config.toml has for them, such as BinaryName.
	Options map[string]any `toml:"options,omitempty"`
	// Snapshotter is the driver for images of this runtime; empty: Config.Snapshotter.
	Snapshotter string `toml:"snapshotter"`
	// CNIConfDir has the network configuration of pods of this runtime; empty: CNI.ConfDir.
	CNIConfDir string `toml:"cni_conf_dir"`
	// CNIMaxConfNum is CNI.MaxConfNum for pods of this runtime; 0: that.
	CNIMaxConfNum int `toml:"cni_max_conf_num"`
	// PodAnnotations are the annotations of pods, as patterns with *, that become annotations of the OCI specs of a pod.
	PodAnnotations []string `toml:"pod_annotations,omitempty"`
	// ContainerAnnotations are those of containers, likewise.
	ContainerAnnotations []string `toml:"container_annotations,omitempty"`
	// PrivilegedWithoutHostDevices keeps the host's devices out of privileged containers.
	PrivilegedWithoutHostDevices bool `toml:"privileged_without_host_devices"`
	// PrivilegedWithoutHostDevicesAllDevicesAllowed lets such a container use every device that it makes.
	PrivilegedWithoutHostDevicesAllDevicesAllowed bool `toml:"privileged_without_host_devices_all_devices_allowed"`
	// BaseRuntimeSpec is a file with the OCI spec, in JSON, that containers begin with: what it says counts where neither the image
	// nor the client says anything. It is read for each container. Empty: ctrd's own.
	BaseRuntimeSpec string `toml:"base_runtime_spec"`
	// CgroupWritable has the cgroup mounted writable in containers that are not privileged; cgroup v2 alone.
	CgroupWritable bool `toml:"cgroup_writable"`
}

// DecodeOptions reads Options into a struct by the names of its fields. A name that it has not, and a value of another type, are
// errdefs.ErrInvalidArgument.
func (r Runtime) DecodeOptions(to any) error {
	text, err := r.OptionsText()
	if err != nil {
		return err
	}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(to); err != nil {
		return fmt.Errorf("options of a runtime: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// OptionsText gives Options in TOML.
func (r Runtime) OptionsText() ([]byte, error) {
	text, err := toml.Marshal(r.Options)
	if err != nil {
		return nil, fmt.Errorf("options of a runtime: %w", err)
	}
	return text, nil
}

// ProxyPlugin is a snapshotter that another process serves by containerd's snapshots API.
type ProxyPlugin struct {
	// Type is snapshot.
	Type string `toml:"type"`
	// Address is the path of its unix socket.
	Address string `toml:"address"`
	// Snapshotter is what the server calls it; empty: the name of the table.
	Snapshotter string `toml:"snapshotter,omitempty"`
	// Platform is what it serves, such as linux/amd64; empty: this machine's.
	Platform string `toml:"platform"`
	// Exports is told to clients with the plugin. root is the directory that its snapshots are in;
	// enable_remote_snapshot_annotations = "true" has a pull tell it of images and layers.
	Exports map[string]string `toml:"exports,omitempty"`
	// Capabilities are told to clients and kept to. remap-ids: the owners in its mounts may be mapped.
	Capabilities []string `toml:"capabilities,omitempty"`
}
