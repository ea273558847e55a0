// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Host is where pods are made.
type Host struct {
	Dir       *state.Dir
	Namespace string // of the state directory
	Shim      string // path of ctr-shim; empty: beside this program, else on PATH
	// Config is what pods are made by; nil: the default configuration.
	Config *config.Config
	// ReadyMade gives pods a bridge network of ctrd's own where no network is configured. A kubelet's host is given one
	// later, by whoever installs it.
	ReadyMade bool
	// Plugins are asked about what is done here; nil: there are none.
	Plugins Plugins
	// Lists, when set, makes lists faster that are asked for again and again. It belongs to Dir and Namespace.
	Lists *Lists
}

// Status is a pod and what it is doing.
type Status struct {
	Config
	ID      string
	Created time.Time
	Ready   bool
	Lost    bool     // it was ready, and is not because its supervisor or its pause process was killed: nobody stops it
	IPs     []string // the first is the one that the pod is known by; none with the host's network
	PID     int      // of the supervisor; 0: there is none
	Cgroup  string   // the parent of the containers' cgroups, below the hierarchies; empty: none
	Dir     string   // where it has its files in this boot
	// Paths are where the pod's namespaces are, by kind, as long as the supervisor lives.
	Paths map[string]string
}

// ready is what ready.json says.
type ready struct {
	At  time.Time `json:"at"`
	IPs []string  `json:"ips,omitempty"`
}

// Sandboxer is the name of this package in a record.
const Sandboxer = "podsandbox"

// newID makes a random id of a pod, as containerd's are.
func newID() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// configOf reads what a pod was made from. A record that somebody else has made is errdefs.ErrNotFound.
func configOf(s sandbox.Sandbox) (c Config, err error) {
	if len(s.Pod) == 0 {
		return c, fmt.Errorf("sandbox %q is no pod: %w", s.ID, errdefs.ErrNotFound)
	}
	if err := json.Unmarshal(s.Pod, &c); err != nil {
		return c, fmt.Errorf("pod %q: %w: %w", s.ID, err, errdefs.ErrDataLoss)
	}
	return c, nil
}

// lockKey takes the lock of the pod that a key means.
func (h Host) lockKey(ctx context.Context, key string) (*lock.Lock, error) {
	return h.Dir.Lock(ctx, nil, lock.Pod, h.Namespace+"/"+sandbox.LockName(key), lock.Exclusive)
}

// get reads the record of a pod by its id, or the beginning of it.
func (h Host) get(ctx context.Context, id string) (s sandbox.Sandbox, err error) {
	err = h.Dir.View(ctx, func(tx *state.Tx) error {
		s, err = sandbox.Find(tx, h.Namespace, id)
		return err
	})
	return s, err
}

// locked takes the lock of the pod with an id, and reads its record under it. A pod that is not there, also one that was
// removed while it was waited for, is errdefs.ErrNotFound.
func (h Host) locked(ctx context.Context, id string) (s sandbox.Sandbox, c Config, l *lock.Lock, err error) {
	if s, err = h.get(ctx, id); err != nil {
		return s, c, nil, err
	}
	if c, err = configOf(s); err != nil {
		return s, c, nil, err
	}
	if l, err = h.lockKey(ctx, c.key()); err != nil {
		return s, c, nil, fmt.Errorf("pod %q: %w", s.ID, err)
	}
	now, err := h.get(ctx, s.ID)
	if err == nil && now.UID != s.UID {
		err = fmt.Errorf("pod %q has been removed: %w", s.ID, errdefs.ErrNotFound)
	}
	if err != nil {
		return s, c, nil, errors.Join(err, l.Release())
	}
	return now, c, l, nil
}

// dir is where a pod has its files in this boot.
func (h Host) dir(s sandbox.Sandbox) string { return s.Dir(h.Dir, h.Namespace) }

// status looks at a pod.
func (h Host) status(s sandbox.Sandbox, c Config) (Status, error) {
	st := Status{Config: c, ID: s.ID, Created: s.Created, Dir: h.dir(s)}
	v, err := taskdir.LookPod(h.dir(s))
	if err != nil {
		return st, err
	}
	st.Ready, st.Paths, st.Cgroup = v.Ready, v.Pinned.Paths, v.Pod.Cgroup
	st.Lost = v.Whole && !v.Ready && !taskdir.IsStopping(h.dir(s))
	if v.Supervised {
		st.PID = v.Supervisor.PID
	}
	var r ready
	if _, err := taskdir.Read(h.dir(s), taskdir.PodReady, &r); err != nil {
		return st, err
	}
	if v.Ready {
		st.IPs = r.IPs
	}
	return st, nil
}

// Status tells of a pod, by its id or the beginning of it. It changes nothing and waits for nobody.
func (h Host) Status(ctx context.Context, id string) (Status, error) {
	s, err := h.get(ctx, id)
	if err != nil {
		return Status{}, err
	}
	c, err := configOf(s)
	if err != nil {
		return Status{}, err
	}
	return h.status(s, c)
}

// containersOf lists the records of a pod's containers.
func (h Host) containersOf(ctx context.Context, id string) (all []container.Container, err error) {
	err = h.Dir.View(ctx, func(tx *state.Tx) error {
		all = nil
		for c, err := range container.All(tx, h.Namespace) {
			if errdefs.IsDataLoss(err) {
				continue
			}
			if err != nil {
				return err
			}
			if c.Sandbox == id {
				all = append(all, c)
			}
		}
		return nil
	})
	return all, err
}
