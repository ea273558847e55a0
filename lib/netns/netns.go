// SPDX-License-Identifier: Apache-2.0

// Package netns runs functions in network namespaces. It keeps nothing: a namespace lives as long as a process, a descriptor or
// a mount of somebody's holds it.
package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Own is the path of the network namespace of the calling thread, which others of the process may open, too. The caller is locked to
// its thread.
func Own() string { return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()) }

// New runs fn on a thread in a new network namespace, whose loopback is up.
func New(fn func() error) error {
	return inNewThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if err := LoopbackUp(); err != nil {
			return err
		}
		return fn()
	})
}

// In runs fn on a thread that is in the network namespace at path.
func In(path string, fn func() error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return inNewThread(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return fn()
	})
}

// inNewThread runs fn on a thread that ends with it, so that fn may change what a thread has of its own.
func inNewThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends, and what it has is taken for the process's. It is kept from the next goroutine.
			done <- inNewThread(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn() // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}

// LoopbackUp sets lo up in the thread's network namespace (netdevice(7)).
func LoopbackUp() error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("set the loopback device up: %w", err)
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}
