// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Containerd's clients, and tools that watch its containers, know the directory in which containerd has the bundle of a task. Tasks that
// a client of the API has made are there too: each as a link, which is made after the task's directory and removed before it, under
// the container's lock. So a link never leads to nowhere.

// makeBundle makes, in the directory of a new task, what the link of the task is to lead to. It gives its name.
func (t *Task) makeBundle(made string, o StartOptions) (name string, err error) {
	r, err := t.findRuntime(o)
	if err != nil {
		return "", err
	}
	if name = taskdir.Bundle; r.foreign {
		name = t.ID() // the one that the shim is given
	}
	dir := filepath.Join(made, name)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	err = os.WriteFile(filepath.Join(dir, taskdir.BundleShim), []byte(r.shim), 0o600)
	log := filepath.Join(dir, taskdir.BundleLog)
	if r.foreign {
		return name, errors.Join(err, os.WriteFile(log, nil, 0o600))
	}
	// The log is there from the start, so that ctrd can follow it.
	return name, errors.Join(err, stdio.MakeFIFO(log), os.WriteFile(filepath.Join(made, taskdir.ShimLog), nil, 0o600),
		os.Symlink(filepath.Join("..", taskdir.Config), filepath.Join(dir, taskdir.Config)))
}

// link is where containerd has the bundle of the container's task.
func (t *Task) link() string { return t.d.Run(taskdir.Bundles, t.Namespace, t.ID()) }

// linkTries bounds how often the directory of a namespace is made that others, who leave it empty, remove.
const linkTries = 100

// linkBundle makes the link, to what is below the directory of the container's tasks. The caller holds the container's lock.
func (t *Task) linkBundle(to string) (err error) {
	path := t.link()
	to = filepath.Join("..", "..", "tasks", t.Namespace, t.ID(), to)
	for range linkTries {
		if err = os.MkdirAll(filepath.Dir(path), 0o711); err == nil {
			err = os.Symlink(to, path)
		}
		if !errors.Is(err, os.ErrNotExist) {
			crash.Point("task.linked")
			return err
		}
	}
	return err
}

// unlinkBundle removes the link and tells what it led to, below the directory of the container's tasks; nothing if there is none.
// The caller holds the container's lock.
func (t *Task) unlinkBundle() (to string, err error) {
	path := t.link()
	if to, err = os.Readlink(path); errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return "", err
	}
	crash.Point("task.unlinked")
	_ = unix.Rmdir(filepath.Dir(path)) // when no other is in it
	to, _ = strings.CutPrefix(to, filepath.Join("..", "..", "tasks", t.Namespace, t.ID())+"/")
	return to, nil
}
