// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseLocks(t *testing.T) {
	table := parseLocks([]byte("1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF\n" +
		"1: -> FLOCK  ADVISORY  WRITE 1300 fe:00:5678 0 EOF\n" +
		"1:  -> FLOCK  ADVISORY  READ 1301 fe:00:5678 0 EOF\n" +
		"2: OFDLCK ADVISORY  WRITE -1 00:1f:9 0 EOF\n" +
		"2: OFDLCK ADVISORY  WRITE -1 00:1f:9 0 EOF\n" + // shown twice
		"3: POSIX  ADVISORY  WRITE 77 fe:00:5678 0 EOF\n" +
		"4: FLOCK  ADVISORY  READ 5 103:05:18446744073709551615 0 EOF\n" +
		"5: FLOCK  ADVISORY  READ 6 103:05:18446744073709551615 0 EOF\n" +
		"6: LEASE  ACTIVE    READ 8 00:1f:9 0 EOF\n"))
	want := map[fileID]kernelLock{
		{0xfe, 0, 5678}:       {holders: []int{1234}, waiters: []int{1300, 1301}},
		{0, 0x1f, 9}:          {holders: []int{-1}},
		{0x103, 5, 1<<64 - 1}: {holders: []int{5, 6}, shared: true},
	}
	if !reflect.DeepEqual(table, want) {
		t.Errorf("got %+v, want %+v", table, want)
	}
}

// The kernel's table is read in pages while hundreds of other locks come and go: the holder is named each time.
func TestHoldersBesideOthers(t *testing.T) {
	dir := t.TempDir()
	l, err := Dir{Path: dir, Wait: -1}.Acquire(t.Context(), nil, Container, "h", Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	defer release(t, l)
	var stop atomic.Bool
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for !stop.Load() {
				var some []*os.File
				for n := range 50 {
					f, err := os.Create(filepath.Join(dir, fmt.Sprint("other", i, ".", n)))
					if err == nil {
						err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
					}
					if err != nil {
						t.Error(err)
						return
					}
					some = append(some, f)
				}
				for _, f := range some {
					f.Close()
				}
			}
		})
	}
	for range 1000 {
		if who, err := holders(l.path); err != nil || len(who) != 1 || who[0].PID != os.Getpid() {
			t.Errorf("held by %v, %v; want this process", who, err)
			break
		}
	}
	stop.Store(true)
	all.Wait()
}

// What was understood of any text is understood again when it is written as the kernel would.
func FuzzParseLocks(f *testing.F) {
	f.Add([]byte("1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 1300 fe:00:5678 0 EOF\n"))
	f.Add([]byte("2: OFDLCK ADVISORY  READ -1 00:1f:9 0 EOF"))
	f.Add([]byte("1: ->\n->\n1: FLOCK a b c d:e:f\n1: FLOCK 1 2 3 1:2:3:4\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table := parseLocks(data)
		var text bytes.Buffer
		for id, k := range table {
			mode := "WRITE"
			if k.shared {
				mode = "READ"
			}
			for _, pid := range k.holders {
				fmt.Fprintf(&text, "1: FLOCK  ADVISORY  %s %d %02x:%02x:%d 0 EOF\n", mode, pid, id.major, id.minor, id.ino)
			}
			for _, pid := range k.waiters {
				fmt.Fprintf(&text, "1: -> FLOCK  ADVISORY  READ %d %02x:%02x:%d 0 EOF\n", pid, id.major, id.minor, id.ino)
			}
		}
		if again := parseLocks(text.Bytes()); !reflect.DeepEqual(again, table) {
			t.Errorf("%q: %+v, again %+v", data, table, again)
		}
	})
}

// A lock file holds what any process wrote: a signature or something else.
func FuzzReadOwner(f *testing.F) {
	f.Add([]byte("12\t2026-01-02T03:04:05Z\tctr-pull redis:7\n"))
	f.Add([]byte("12\t2026-01-02T03:04:05Z\tctr-pull\nimage default/x\n"))
	f.Add([]byte("-1\t\t\n"))
	path := filepath.Join(f.TempDir(), "lock")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if o := readOwner(path); bytes.ContainsRune([]byte(o.Command), '\n') {
			t.Errorf("command %q", o.Command)
		}
	})
}
