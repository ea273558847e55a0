// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ctrd.dev/ctrd/lib/state"
)

var texts = state.Table[string]{Name: "texts"}

// contents reads all of a table by every way there is, and compares them.
func contents(t *testing.T, tx *state.Tx, table state.Table[string]) map[string]string {
	t.Helper()
	found := map[string]string{}
	names, err := table.Namespaces(tx)
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range names {
		for row, err := range table.All(tx, ns) {
			if err != nil {
				t.Fatal(err)
			}
			one, err := table.Get(tx, ns, row.Key)
			if err != nil || one != row.Value {
				t.Fatalf("%s/%s: listed %d bytes, got %d, %v", ns, row.Key, len(row.Value), len(one), err)
			}
			found[ns+"/"+row.Key] = row.Value
		}
	}
	return found
}

// What a view reads is what was written: few and many namespaces, small and large records, in trees of several levels.
func TestViewReadsWhatWasWritten(t *testing.T) {
	d := fresh(t)
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	for range 40 {
		err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
			for range 100 {
				ns, key := fmt.Sprintf("ns%d", rng.IntN(5)), fmt.Sprintf("key%d", rng.IntN(3000))
				if _, there := want[ns+"/"+key]; there && rng.IntN(3) == 0 {
					delete(want, ns+"/"+key)
					if err := texts.Delete(tx, ns, key); err != nil {
						return err
					}
					continue
				}
				size := rng.IntN(300)
				if rng.IntN(50) == 0 {
					size = rng.IntN(20000)
				}
				want[ns+"/"+key] = strings.Repeat(string(rune('a'+rng.IntN(26))), size)
				if err := texts.Put(tx, ns, key, want[ns+"/"+key]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = d.View(t.Context(), func(tx *state.Tx) error {
			if got := contents(t, tx, texts); !maps.Equal(got, want) {
				t.Fatalf("%d records, want %d", len(got), len(want))
			}
			_, err := texts.Get(tx, "ns0", "none")
			if err == nil {
				t.Error("a record that was never written")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// While others commit, what a view shows is always of one commit: each commit gives all records the same text.
func TestViewIsOfOneCommit(t *testing.T) {
	d := fresh(t)
	keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	write := func(n int) error {
		return d.UpdateRun(context.Background(), nil, func(tx *state.Tx) error {
			for _, k := range keys {
				if err := texts.Put(tx, "default", k, strings.Repeat(fmt.Sprint(n, " "), 300)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done := make(chan error)
	go func() {
		n := 1
		for ; ctx.Err() == nil; n++ {
			if err := write(n); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	var again atomic.Int64
	for views := 0; ctx.Err() == nil; views++ {
		calls := 0
		var seen []string
		err := d.View(context.Background(), func(tx *state.Tx) error {
			seen = nil
			if calls++; calls > 1 {
				again.Add(1)
			}
			for _, k := range keys {
				v, err := texts.Get(tx, "default", k)
				if err != nil {
					return err
				}
				seen = append(seen, v)
				if views%2 == 0 { // long enough for a commit or two
					time.Sleep(50 * time.Microsecond)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if calls > 2 {
			t.Errorf("a view was begun %d times", calls)
		}
		if slices.Sort(seen); len(seen) != len(keys) || seen[0] != seen[len(seen)-1] {
			t.Fatalf("a view shows %.20q beside %.20q", seen[0], seen[len(seen)-1])
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if again.Load() == 0 {
		t.Error("no view had to begin again")
	}
}

// An update that reads the other database begins again when that has changed, and what it had written is undone.
func TestUpdateBeginsAgain(t *testing.T) {
	d := fresh(t)
	put := func(update func(context.Context, func(*state.Tx) error) error, v string) error {
		return update(t.Context(), func(tx *state.Tx) error {
			return errors.Join(texts.Put(tx, "default", "x"+v, v), texts.Put(tx, "default", "y"+v, v))
		})
	}
	meta := func(ctx context.Context, fn func(*state.Tx) error) error { return d.Update(ctx, nil, fn) }
	run := func(ctx context.Context, fn func(*state.Tx) error) error { return d.UpdateRun(ctx, nil, fn) }
	if err := put(meta, "m"); err != nil {
		t.Fatal(err)
	}
	calls := 0
	err := run(t.Context(), func(tx *state.Tx) error {
		calls++
		if err := texts.Put(tx, "default", fmt.Sprint("call", calls), "1"); err != nil {
			return err
		}
		if _, err := texts.Get(tx, "default", "xm"); err != nil {
			return err
		}
		if calls == 1 { // somebody else commits, twice, so that pages are used again
			if err := errors.Join(put(meta, "n"), put(meta, "o")); err != nil {
				return err
			}
		}
		_, err := texts.Get(tx, "default", "ym")
		return err
	})
	if err != nil || calls != 2 {
		t.Fatalf("%d calls, %v", calls, err)
	}
	err = d.View(t.Context(), func(tx *state.Tx) error {
		first, err := texts.Has(tx, false, "default", "call1")
		second, err2 := texts.Has(tx, false, "default", "call2")
		if first || !second {
			t.Errorf("of the first call %v, of the second %v", first, second)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Error(err)
	}
}

// FuzzTree reads databases with damaged pages: there is an end, and no panic.
func FuzzTree(f *testing.F) {
	dir := f.TempDir()
	d, err := state.Open(state.Config{Root: dir, State: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	for i := range 30 {
		err := d.Update(context.Background(), nil, func(tx *state.Tx) error {
			return texts.Put(tx, fmt.Sprint("ns", i%3), fmt.Sprint("key", i), strings.Repeat("v", 30*i*i))
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	data, err := os.ReadFile(d.Path("meta.db"))
	if err != nil {
		f.Fatal(err)
	}
	u32 := func(n ...uint32) (b []byte) {
		for _, x := range n {
			b = binary.NativeEndian.AppendUint32(b, x)
		}
		return b
	}
	f.Add(uint32(16), uint32(0), []byte{0})
	f.Add(uint32(4096*3+8), uint32(4096*4+8), []byte{1, 0, 255, 255})
	f.Add(uint32(4096*5+12), uint32(4096*2+16), u32(1<<31, 3<<29, 1<<30))
	f.Fuzz(func(t *testing.T, one, two uint32, with []byte) {
		broken := slices.Clone(data)
		for _, at := range []uint32{one, two} {
			copy(broken[int(at)%len(broken):], with)
		}
		state.ReadAll(broken, int64(two), func(string, string, []byte) {})
	})
}
