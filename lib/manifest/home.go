// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Home is the directory of a pod that was made from a manifest; its last element is the pod's UID.
type Home string

// The files of a home.
const (
	fileManifest = "manifest.json"
	fileLock     = "lock"
	fileEnding   = "ending" // the pod is being ended: nobody starts anything in it
	dirVolumes   = "volumes"
	dirParts     = "parts" // where parts of volumes are bound to
	dirLogs      = "logs"
)

// fileMaking, beside the homes, is held while the home of a name is looked for and made, so that a name has one.
const fileMaking = ".making"

// holdMaking waits for fileMaking.
func holdMaking(ctx context.Context, dir string) (*lock.Held, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	for {
		held, err := lock.Hold(filepath.Join(dir, fileMaking))
		if !errdefs.IsAborted(err) {
			return held, err
		}
		if e := sleep(ctx, lookEvery/50); e != nil {
			return nil, errors.Join(e, err)
		}
	}
}

// UID is the pod's.
func (h Home) UID() string { return filepath.Base(string(h)) }

func (h Home) volume(name string) string { return filepath.Join(string(h), dirVolumes, name) }

func (h Home) logs() string { return filepath.Join(string(h), dirLogs) }

// Hold takes the lock of a home. Another holder is errdefs.ErrAborted.
func (h Home) Hold() (*lock.Held, error) { return lock.Hold(filepath.Join(string(h), fileLock)) }

// Make makes the home of a new pod in dir, and holds it.
func Make(dir string, p *Pod) (h Home, held *lock.Held, err error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", nil, err
	}
	for held == nil {
		h = Home(filepath.Join(dir, state.NewUUID()))
		if err := os.Mkdir(string(h), 0o711); err != nil {
			return "", nil, err
		}
		held, err = h.Hold()
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errdefs.IsAborted(err) { // those are a sweep's, which was quicker
			return "", nil, err
		}
	}
	crash.Point("manifest.home")
	err = errors.Join(os.Mkdir(filepath.Join(string(h), dirVolumes), 0o711), os.Mkdir(h.logs(), 0o711))
	if err == nil {
		var data []byte
		if data, err = json.Marshal(p); err == nil {
			err = writePrivate(filepath.Join(string(h), fileManifest), data)
		}
	}
	if err == nil {
		err = errors.Join(state.SyncDir(string(h)), state.SyncDir(dir))
	}
	if err != nil {
		return "", nil, errors.Join(err, h.remove(), held.Release())
	}
	crash.Point("manifest.recorded")
	return h, held, nil
}

// writePrivate writes what only root may read: it has secrets.
func writePrivate(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Load reads the manifest that a pod was made from.
func (h Home) Load() (*Pod, error) {
	data, err := os.ReadFile(filepath.Join(string(h), fileManifest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pod %s was not made from a manifest: %w", h.UID(), errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	p := &Pod{}
	if err := json.Unmarshal(data, p); err != nil || p.Pod == nil {
		return nil, fmt.Errorf("manifest of pod %s: %w: %w", h.UID(), err, errdefs.ErrDataLoss)
	}
	return p, nil
}

// setEnding says that the pod is being ended.
func (h Home) setEnding() error {
	err := state.WriteFile(filepath.Join(string(h), fileEnding), nil, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended
	}
	return err
}

func (h Home) isEnding() bool {
	_, err := os.Lstat(filepath.Join(string(h), fileEnding))
	return err == nil
}

// remove unmounts what was mounted in a home and removes it.
func (h Home) remove() error {
	for _, pattern := range []string{dirVolumes + "/*", dirParts + "/*/*"} {
		places, err := fs.Glob(os.DirFS(string(h)), pattern) // the home's own path is no pattern
		if err != nil {
			return err
		}
		for _, at := range places {
			if err := mount.Unmount(filepath.Join(string(h), at), unix.MNT_DETACH); err != nil {
				return err
			}
		}
	}
	// Last the lock: whoever finds the directory without its manifest finds nothing to keep.
	all, err := os.ReadDir(string(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Name() != fileLock {
			if err := os.RemoveAll(filepath.Join(string(h), e.Name())); err != nil {
				return err
			}
		}
	}
	crash.Point("manifest.emptied")
	return os.RemoveAll(string(h))
}

// Sweep removes the homes in dir that nobody holds and that no pod of the runtime has.
func Sweep(ctx context.Context, r Runtime, dir string) error {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(all) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range all {
		if e.Name() == fileMaking {
			if held, err := lock.Hold(filepath.Join(dir, fileMaking)); err == nil {
				errs = append(errs, held.Remove()) // of a killed one
			}
			continue
		}
		h := Home(filepath.Join(dir, e.Name()))
		held, err := h.Hold()
		if errors.Is(err, fs.ErrNotExist) || errdefs.IsAborted(err) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		pods, err := sandboxes(ctx, r, map[string]string{LabelPodUID: h.UID()})
		if err == nil && len(pods) == 0 {
			err = h.remove()
		}
		errs = append(errs, err, held.Release())
	}
	return errors.Join(errs...)
}

func sandboxes(ctx context.Context, r Runtime, labels map[string]string) ([]*runtimeapi.PodSandbox, error) {
	answer, err := r.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return answer.Items, nil
}

// Find gives the homes in dir of the pods of a name, NAMESPACE/NAME.
func Find(dir, key string) (homes []Home, err error) {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if e.Name() == fileMaking {
			continue
		}
		h := Home(filepath.Join(dir, e.Name()))
		p, err := h.Load()
		if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
			continue // of another pod, for all that can be known: it is in nobody's way
		}
		if err != nil {
			return nil, err
		}
		if p.Key() == key {
			homes = append(homes, h)
		}
	}
	return homes, nil
}
