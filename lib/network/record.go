// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Names in the directory of an attachment.
const (
	recordFile   = "record.json"
	nowFile      = "now.json" // the record with what has been done by now
	removingFile = "removing"
)

// record says what was, or may have been, attached.
type record struct {
	ID       string   `json:"id"`
	Boot     string   `json:"boot"`
	Host     string   `json:"host,omitempty"` // the network namespace that it was attached from, see thisNetns
	Owner    Owner    `json:"owner,omitzero"`
	Ports    []Port   `json:"ports,omitempty"`
	Networks []joined `json:"networks"`
}

// joined is one network of an attachment.
type joined struct {
	Name         string          `json:"name"`
	Interface    string          `json:"interface"`
	Config       json.RawMessage `json:"config"` // a list of plugins, as it was at ADD
	Args         [][2]string     `json:"args,omitempty"`
	Capabilities map[string]any  `json:"capabilities,omitempty"`
	Result       json.RawMessage `json:"result,omitempty"` // of the last plugin that has ended its ADD
	Added        bool            `json:"added,omitempty"`  // that was the last one of the network
	// Waits says that no plugin has been run for it in the boot of the record. After another boot it says nothing.
	Waits bool `json:"waits,omitempty"`
}

// whole tells whether all networks of the record were attached.
func (r record) whole() bool {
	for _, j := range r.Networks {
		if !j.Added {
			return false
		}
	}
	return true
}

// touched tells whether a plugin may have been run for the record.
func (h Host) touched(r record) bool {
	return r.Boot != h.Boot || slices.ContainsFunc(r.Networks, func(j joined) bool { return !j.Waits })
}

// read gives the record of an id; it reports false when there is none. One that cannot be read is errdefs.ErrDataLoss.
func (h Host) read(id string) (r record, ok bool, err error) {
	return readRecord(h.kept(id))
}

// readRecord reads what was synced, and in its place what was written since: that is not synced, and a power cut may have left it empty.
func readRecord(dir string) (r record, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, os.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if err := json.Unmarshal(data, &r); err != nil || r.ID != filepath.Base(dir) {
		return r, false, fmt.Errorf("record of attachment %s: %w: %w", dir, errors.Join(err), errdefs.ErrDataLoss)
	}
	var now record
	data, err = os.ReadFile(filepath.Join(dir, nowFile))
	if err == nil && json.Unmarshal(data, &now) == nil && now.ID == r.ID && now.Boot == r.Boot && len(now.Networks) == len(r.Networks) {
		return now, true, nil
	}
	return r, true, nil
}

// writeFirst writes down, durably, what is going to be done.
func (h Host) writeFirst(r record) error { return h.write(r, recordFile, true) }

// writeNow writes down what has been done. It is not synced: so it has a file of its own, since after a power cut a file that
// replaced another one may be empty.
func (h Host) writeNow(r record) error { return h.write(r, nowFile, false) }

// write puts a record in place in one step. The directory must be there: one that a teardown has removed is not made again.
func (h Host) write(r record, name string, sync bool) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replace(filepath.Join(h.kept(r.ID), name), data, sync)
}

// replace puts a file in place in one step.
func replace(path string, data []byte, sync bool) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if sync && err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil || !sync {
		return err
	}
	return errors.Join(syncDir(filepath.Dir(path)), syncDir(filepath.Dir(filepath.Dir(path))))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// isRemoving tells whether a teardown of the id has begun, or has ended.
func (h Host) isRemoving(id string) bool {
	_, err := os.Lstat(filepath.Join(h.kept(id), removingFile))
	if err == nil {
		return true
	}
	_, err = os.Lstat(filepath.Join(h.kept(id), recordFile))
	return err != nil
}

// markRemoving says that a teardown of the id has begun. Where there is no room for the mark, the teardown goes on without.
func (h Host) markRemoving(id string) {
	f, err := os.OpenFile(filepath.Join(h.kept(id), removingFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		f.Close()
	}
}

// forget removes what is kept of an attachment: the record last, so that a removal that is cut short is gone on with.
func (h Host) forget(id string) error {
	dir := h.kept(id)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == recordFile || e.Name() == removingFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	for _, name := range []string{recordFile, removingFile, "."} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Attachment is one that is there, or is being made or taken off.
type Attachment struct {
	ID     string
	Owner  Owner
	Boot   string // in which it was made
	Whole  bool   // all its networks were attached
	Result Result
}

// All lists the attachments of the group by id. A record that cannot be read is left out and is in errs.
func (h Host) All() (all []Attachment, errs []error) {
	ids, err := h.ids(h.Group)
	if err != nil {
		errs = append(errs, err)
	}
	for _, id := range ids {
		r, ok, err := h.read(id)
		if err != nil {
			errs = append(errs, err)
		}
		if ok {
			all = append(all, h.attachment(r))
		}
	}
	return all, errs
}

// Get gives the attachment of an id. One that is not there is errdefs.ErrNotFound.
func (h Host) Get(id string) (Attachment, error) {
	if err := checkID(id); err != nil {
		return Attachment{}, err
	}
	r, ok, err := h.read(id)
	if err == nil && !ok {
		err = fmt.Errorf("network attachment %q: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return Attachment{}, err
	}
	return h.attachment(r), nil
}

func (h Host) attachment(r record) Attachment {
	a := Attachment{ID: r.ID, Owner: r.Owner, Boot: r.Boot, Whole: r.whole()}
	a.Result, _ = r.result() // a plugin's answer was parsed when it came
	return a
}

// ids lists the attachments of a group.
func (h Host) ids(group string) (all []string, err error) {
	entries, err := os.ReadDir(filepath.Join(h.Kept, group))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if e.IsDir() && checkID(e.Name()) == nil {
			all = append(all, e.Name())
		}
	}
	return all, err
}

// Of lists the ids of attachments that begin with a prefix, without reading them.
func (h Host) Of(prefix string) (all []string, err error) {
	ids, err := h.ids(h.Group)
	for _, id := range ids {
		if strings.HasPrefix(id, prefix) {
			all = append(all, id)
		}
	}
	return all, err
}
