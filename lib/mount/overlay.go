// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func plain(source, target, fstype string, flags uintptr, data []string) error {
	joined := strings.Join(data, ",")
	if len(joined) >= os.Getpagesize() {
		return fmt.Errorf("options of %d bytes, but the kernel takes %d: %w", len(joined), os.Getpagesize()-1, errdefs.ErrInvalidArgument)
	}
	return unix.Mount(source, target, fstype, flags, joined)
}

// overlay mounts an overlay. mount(2) takes one page of options, which 128 absolute names do not fit, so
// they are made relative to the directory they share when they must be.
func overlay(source, target string, flags uintptr, data []string) error {
	if len(strings.Join(data, ",")) < os.Getpagesize() {
		return plain(source, target, "overlay", flags, data)
	}
	dir, short := relative(data)
	if dir == "" {
		return plain(source, target, "overlay", flags, data)
	}
	return onThread(func() error {
		// The working directory belongs to the process; this thread gets one of its own.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare working directory: %w", err)
		}
		if err := unix.Chdir(dir); err != nil {
			return fmt.Errorf("change to %s: %w", dir, err)
		}
		return plain(source, target, "overlay", flags, short)
	})
}

// relative cuts the directory that all lower directories share off their names. dir is empty when they
// share none.
func relative(data []string) (dir string, short []string) {
	short = slices.Clone(data)
	for i, o := range short {
		list, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			continue
		}
		names := splitLower(list)
		prefix := names[0]
		for _, n := range names {
			for !strings.HasPrefix(n, prefix) {
				prefix = prefix[:max(0, strings.LastIndexByte(strings.TrimSuffix(prefix, "/"), '/')+1)]
			}
		}
		prefix = prefix[:strings.LastIndexByte(prefix, '/')+1]
		if len(prefix) < 2 || prefix[0] != '/' {
			return "", nil
		}
		for j := range names {
			if names[j] = names[j][len(prefix):]; names[j] == "" {
				names[j] = "."
			}
		}
		dir, short[i] = unescape(prefix), "lowerdir="+strings.Join(names, ":")
	}
	return dir, short
}

// splitLower splits at the colons that no backslash escapes.
func splitLower(list string) []string {
	var names []string
	start := 0
	for i := 0; i < len(list); i++ {
		switch list[i] {
		case '\\':
			i++
		case ':':
			names = append(names, list[start:i])
			start = i + 1
		}
	}
	return append(names, list[start:])
}

// Escape writes a path as overlayfs reads it in a mount option.
func Escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace(path)
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// onThread runs fn on a thread that is not used again.
func onThread(fn func() error) error {
	c := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end. While this goroutine keeps it, another one gets another.
			c <- onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		c <- fn() // ends locked, and so does the thread
	}()
	return <-c
}
