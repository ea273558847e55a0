// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"

	"ctrd.dev/ctrd/lib/lock"
)

// Host says where things are. Its methods keep nothing in memory and may be called by any number of processes at once.
type Host struct {
	// Conf is the directory of network configurations; empty: DefaultConf. It is read anew in each call.
	Conf string
	// Bin lists the directories of plugins, searched in turn; empty: DefaultBin.
	Bin []string
	// Group is whose attachments these are, such as "tasks" or "pods": a name for a directory. One group never
	// removes what another has attached.
	Group string
	// Kept is a durable directory, shared by all groups.
	Kept string
	// Pins and IPAM are directories of this boot, shared by all groups.
	Pins, IPAM string
	// Locks are where networks are locked.
	Locks lock.Dir
	// Boot is the id of this boot.
	Boot string
	// ReadyMade adds a bridge network, OwnName, where no configuration has that name. It is the default
	// network where there is no configuration at all.
	ReadyMade bool
	// Mark tells the bridge of the ready-made network from that of another Host with other directories on this
	// machine; empty for the usual ones.
	Mark string
	// Warn, when set, hears of what is put off to a later GC.
	Warn func(error)
}

// DefaultConf is where CNI configurations are, by convention.
const DefaultConf = "/etc/cni/net.d"

// DefaultBin is where distributions and Kubernetes' installers put CNI plugins.
var DefaultBin = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}

func (h Host) conf() string {
	if h.Conf == "" {
		return DefaultConf
	}
	return h.Conf
}

func (h Host) bin() []string {
	if len(h.Bin) == 0 {
		return DefaultBin
	}
	return h.Bin
}

func (h Host) warn(err error) {
	if h.Warn != nil && err != nil {
		h.Warn(err)
	}
}

// lock takes the lock of a network, or of another name of this package.
func (h Host) lock(ctx context.Context, outer *lock.Lock, name string) (*lock.Lock, error) {
	return h.Locks.Acquire(ctx, outer, lock.Network, name, lock.Exclusive)
}

// cni is libcni. It insists on keeping results, too: of this boot, in the directory results beside the pins; the record has what lasts.
func (h Host) cni(p plugins) *libcni.CNIConfig {
	p.bin = h.bin()
	return libcni.NewCNIConfigWithCacheDir(h.bin(), h.Pins, &p)
}

// kept is the directory of an attachment.
func (h Host) kept(id string) string { return filepath.Join(h.Kept, h.Group, id) }

// Netns is the path at which the namespace of an attachment is pinned.
func (h Host) Netns(id string) string { return filepath.Join(h.Pins, h.Group, id) }

// maxID leaves room for the names that plugins make of an id.
const maxID = 128

// checkID refuses what is no name of a file, or what the CNI specification refuses as a container id.
func checkID(id string) error {
	ok := id != "" && len(id) <= maxID
	for i, r := range []byte(id) {
		alnum := '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
		ok = ok && (alnum || i > 0 && strings.IndexByte("-_.", r) >= 0)
	}
	if !ok {
		return fmt.Errorf("attachment %.100q: want letters, digits, '-', '_' and '.', at most %d: %w", id, maxID, errdefs.ErrInvalidArgument)
	}
	return nil
}

// makeDirs makes the directories that an attachment needs.
func (h Host) makeDirs(id string) error {
	if err := os.MkdirAll(h.kept(id), 0o700); err != nil {
		return err
	}
	return os.MkdirAll(filepath.Dir(h.Netns(id)), 0o711)
}
