// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"strings"
	"time"

	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/lease"
)

// node is a record of a namespace: what a lease can hold, or a container.
type node = lease.Resource

const containerType = "containers"

// references is what the labels of a record say to a collection.
type references struct {
	root   bool        // it is kept
	refs   []node      // it keeps these
	back   []node      // each of these keeps it
	conds  []condition // as back, while a condition holds
	usedAt []time.Time // the record's own value for conditions
}

// condition is a snapshot that keeps a record while it was used less, or more, than a span of time ago.
type condition struct {
	snapshot node
	less     bool
	age      time.Duration
}

// holds tells whether a value that the snapshot has fits.
func (c condition) holds(now, used time.Time) bool {
	if c.less {
		return now.Sub(used) < c.age
	}
	return now.Sub(used) > c.age
}

// Prefixes of labels with containerd's meaning. Behind one that is not of a snapshot, a label may have a name of its own,
// after "." or "/"; of a snapshot, the driver comes first, and a name after "/".
const (
	labelExpire       = lease.LabelExpire
	labelRef          = "containerd.io/gc.ref."
	labelBackRef      = "containerd.io/gc.bref."
	labelCondSnapshot = "containerd.io/gc.cond.snapshot"
	labelUsedAt       = "containerd.io/gc.cond.value-usedat"
)

// parseLabels reads the labels of a record. Labels that it does not understand say nothing.
func parseLabels(labels map[string]string) (r references) {
	for key, value := range labels {
		if !strings.HasPrefix(key, "containerd.io/gc.") {
			continue
		}
		if strings.HasPrefix(key, label.Root) {
			r.root = true
		} else if rest, ok := strings.CutPrefix(key, labelRef); ok {
			if n, ok := target(rest, value); ok && n.Type != containerType {
				r.refs = append(r.refs, n)
			}
		} else if rest, ok := strings.CutPrefix(key, labelBackRef); ok {
			if n, ok := target(rest, value); ok {
				r.back = append(r.back, n)
			}
		} else if rest, ok := strings.CutPrefix(key, labelCondSnapshot); ok {
			r.conds = append(r.conds, conditions(rest, value)...)
		} else if strings.HasPrefix(key, labelUsedAt) {
			if t, err := time.Parse(time.RFC3339, value); err == nil {
				r.usedAt = append(r.usedAt, t)
			}
		}
	}
	return r
}

// target gives what a reference is to: kind is the key of a label behind ref or bref.
func target(kind, value string) (node, bool) {
	if driver, ok := strings.CutPrefix(kind, "snapshot."); ok {
		driver, _, _ = strings.Cut(driver, "/")
		return node{Type: lease.SnapshotType(driver), ID: value}, true
	}
	for name, typ := range map[string]string{"content": lease.ContentType, "image": lease.ImageType, "container": containerType} {
		if rest, ok := strings.CutPrefix(kind, name); ok && (rest == "" || rest[0] == '.' || rest[0] == '/') {
			return node{Type: typ, ID: value}, true
		}
	}
	return node{}, false
}

// conditions reads a label that is CONDITION[,CONDITION...]|KEY of a snapshot of the driver that rest begins with. A
// CONDITION is usedat<DURATION or usedat>DURATION; one of them must hold.
func conditions(rest, value string) (all []condition) {
	driver, _, _ := strings.Cut(strings.TrimLeft(rest, "./"), "/")
	list, key, ok := strings.Cut(value, "|")
	if !ok {
		return nil
	}
	for c := range strings.SplitSeq(list, ",") {
		text, ok := strings.CutPrefix(c, "usedat")
		if !ok || text == "" || text[0] != '<' && text[0] != '>' {
			continue
		}
		age, err := time.ParseDuration(text[1:])
		if err != nil {
			continue
		}
		all = append(all, condition{node{Type: lease.SnapshotType(driver), ID: key}, text[0] == '<', age})
	}
	return all
}
