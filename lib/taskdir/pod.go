// SPDX-License-Identifier: Apache-2.0

package taskdir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/lock"
)

// Names in the directory of a pod, <state>/pods/<namespace>/<uid>/. It also has StartLock, SpawnLock, ShimLock, Shim
// and ShimLog, with the meaning that they have in the directory of a task.
const (
	PodRecord   = "pod.json"    // Pod; the first file of the directory
	PodPinned   = "pinned.json" // Pinned; the supervisor has the namespaces
	PodReady    = "ready.json"  // what the pod was given, written by its maker: the pod is whole
	PodPause    = "pause.json"  // Process: the first process of the pause image's container
	PodShm      = "shm"         // a tmpfs: /dev/shm of the containers
	PodHostname = "hostname"    // /etc/hostname of the containers
	PodHosts    = "hosts"       // /etc/hosts
	PodResolv   = "resolv.conf" // /etc/resolv.conf
)

// Kinds of namespaces, as /proc/PID/ns calls them.
const (
	NetNS  = "net"
	IPCNS  = "ipc"
	UTSNS  = "uts"
	PIDNS  = "pid"
	UserNS = "user"
)

// NamespaceType is what OCI specs call a kind of namespaces.
func NamespaceType(kind string) specs.LinuxNamespaceType {
	if kind == NetNS {
		return specs.NetworkNamespace
	}
	return specs.LinuxNamespaceType(kind)
}

// Pod is what pod.json says: what the maker of a pod tells its supervisor.
type Pod struct {
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	UID       string `json:"uid"`
	// Namespaces are the kinds that the supervisor makes and keeps; of the others the containers share the host's or have
	// their own. With PIDNS it starts a first process, which reaps what the containers leave.
	Namespaces []string               `json:"namespaces,omitempty"`
	UIDs       []specs.LinuxIDMapping `json:"uids,omitempty"` // of UserNS
	GIDs       []specs.LinuxIDMapping `json:"gids,omitempty"`
	Hostname   string                 `json:"hostname,omitempty"` // of UTSNS
	Sysctls    map[string]string      `json:"sysctls,omitempty"`  // set in the namespaces
	Cgroup     string                 `json:"cgroup,omitempty"`   // the parent of the containers' cgroups, below the hierarchies
	Pause      bool                   `json:"pause,omitempty"`    // the program of a pause image runs in it, as long as the pod is ready
	Created    time.Time              `json:"created"`
}

// Has tells whether the supervisor keeps a namespace of the kind.
func (p Pod) Has(kind string) bool { return slices.Contains(p.Namespaces, kind) }

// Pinned is what pinned.json says: where the namespaces are, as long as the supervisor lives.
type Pinned struct {
	Supervisor Process           `json:"supervisor"`
	Paths      map[string]string `json:"paths"` // by kind, below /proc
	// Init is the first process of PIDNS. It ends with the supervisor, and all processes of the namespace with it.
	Init int `json:"init,omitempty"`
}

// PodView is what the files of a pod said at one moment.
type PodView struct {
	Pod        Pod
	Known      bool // it has a directory in this boot
	Starting   bool // its maker is at it
	Supervised bool
	Supervisor Supervisor // zero before it listens
	Pinned     Pinned     // zero before the namespaces are there
	Whole      bool       // it was ready, whatever came after
	Ready      bool       // it is whole, and its supervisor lives, and the process of its pause image, where it has one
}

// Broken tells whether the pod was never whole, and nobody is at it.
func (v PodView) Broken() bool { return v.Known && !v.Whole && !v.Starting && !v.Supervised }

// LookPod reads what the pod in a directory is doing. It takes no lock, waits for nobody and changes nothing.
func LookPod(dir string) (v PodView, err error) {
	if v.Known, err = Read(dir, PodRecord, &v.Pod); err != nil || !v.Known {
		return v, err
	}
	if v.Starting, err = lock.IsHeld(filepath.Join(dir, StartLock)); err != nil {
		return v, err
	}
	if v.Supervised, err = Supervised(dir); err != nil {
		return v, err
	}
	if _, err := Read(dir, Shim, &v.Supervisor); err != nil {
		return v, err
	}
	if _, err := Read(dir, PodPinned, &v.Pinned); err != nil {
		return v, err
	}
	_, err = os.Lstat(filepath.Join(dir, PodReady))
	v.Whole = err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return v, fmt.Errorf("pod: %w", err)
	}
	if v.Ready = v.Whole && v.Supervised; v.Ready && v.Pod.Pause {
		var first Process
		_, err = Read(dir, PodPause, &first)
		v.Ready = first.Alive()
		return v, err
	}
	return v, nil
}
