// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/state"
)

// two gives the paths of a root and a state directory that are in use with each other.
func two(t *testing.T) (root, run string) {
	t.Helper()
	base := t.TempDir()
	root, run = filepath.Join(base, "root"), filepath.Join(base, "run")
	d := open(t, root, run)
	if err := d.UpdateRun(context.Background(), nil, func(tx *state.Tx) error { return bump(tx, "x") }); err != nil {
		t.Fatal(err)
	}
	return root, run
}

// everything lists all that is below a directory, with its content.
func everything(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		data := []byte(nil)
		if e.Type().IsRegular() {
			data, err = os.ReadFile(path)
		}
		list = append(list, path+" "+string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// refused wants two directories to be refused, both to be named, nothing to be written below base, and the
// hint to be some of the texts.
func refused(t *testing.T, base, root, run string, hint ...string) {
	t.Helper()
	before := everything(t, base)
	_, err := state.Open(state.Config{Root: root, State: run})
	var apart *state.PairError
	if !errors.As(err, &apart) || !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("root %s, state %s: %v", root, run, err)
	}
	if text := err.Error(); !strings.Contains(text, root) || !strings.Contains(text, run) {
		t.Errorf("it does not name both: %s", text)
	}
	for _, h := range hint {
		if !strings.Contains(apart.Hint(), h) {
			t.Errorf("hint %q, want %q", apart.Hint(), h)
		}
	}
	if !slices.Equal(everything(t, base), before) {
		t.Error("something was written")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A root and a state directory that are in use open with each other alone, whatever they are called.
func TestPair(t *testing.T) {
	root, run := two(t)
	base := filepath.Dir(root)
	other, second := filepath.Join(base, "other"), filepath.Join(base, "second")
	refused(t, base, root, second, "--state "+run)
	refused(t, base, other, run, "--root "+root)
	open(t, other, second)
	refused(t, base, root, second, "--state "+run)
	refused(t, base, other, run, "--state "+second)
	// Both can be moved.
	must(t, os.Rename(root, root+".moved"))
	refused(t, base, root, run, "--root")
	must(t, os.Rename(run, run+".moved"))
	d := open(t, root+".moved", run+".moved")
	if get(t, d, "x") != 1 {
		t.Error("the records of this boot are gone")
	}
	refused(t, base, root+".moved", run, "--state", filepath.Join(root+".moved", "pair"))
	open(t, root, run) // nothing is left of the first pair there
}

// A directory that was removed, or is another one now, is not taken for the old one. What the hint says is
// the way out.
func TestPairLost(t *testing.T) {
	for _, lost := range []string{"root", "state"} {
		for _, empty := range []bool{false, true} {
			root, run := two(t)
			gone, kept := root, run
			if lost == "state" {
				gone, kept = run, root
			}
			must(t, os.RemoveAll(gone))
			if empty {
				must(t, os.Mkdir(gone, 0o711))
			}
			pair := filepath.Join(kept, "pair")
			refused(t, filepath.Dir(root), root, run, "pgrep ctr-shim", "remove "+pair)
			must(t, os.Remove(pair))
			open(t, root, run)
			open(t, root, run)
		}
	}
}

// A copy is not the original.
func TestPairCopied(t *testing.T) {
	root, run := two(t)
	for _, dir := range []string{root, run} {
		if out, err := exec.Command("cp", "-a", dir, dir+".copy").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	base := filepath.Dir(root)
	refused(t, base, root+".copy", run, "remove "+filepath.Join(root+".copy", "pair"))
	refused(t, base, root, run+".copy", "--state")
	must(t, os.Remove(filepath.Join(root+".copy", "pair")))
	refused(t, base, root+".copy", run, "--root "+root)
	open(t, root+".copy", filepath.Join(base, "new"))
	open(t, root, run)
}

// reboot makes the files of directories those of another boot.
func reboot(t *testing.T, dirs ...string) {
	t.Helper()
	boot, err := state.BootID()
	must(t, err)
	for _, dir := range dirs {
		for _, name := range []string{"boot", "pair", "pairing"} {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			must(t, err)
			must(t, os.WriteFile(path, bytes.ReplaceAll(data, []byte(boot), []byte("another-boot")), 0o600))
		}
	}
}

// What was a pair in another boot is none in this one.
func TestPairAfterReboot(t *testing.T) {
	root, run := two(t)
	second, other := run+"2", root+"2"
	reboot(t, root, run)
	open(t, root, second)
	refused(t, filepath.Dir(root), root, run)
	d := open(t, other, run)
	if get(t, d, "x") != 0 {
		t.Error("a record of another boot")
	}
	// The kernel cut off what was written last.
	for _, dir := range []string{root, second} {
		must(t, os.Truncate(filepath.Join(dir, "pair"), 0))
	}
	reboot(t, second)
	open(t, root, second)
}

// Directories of a program that knew no pairs are taken as they are.
func TestPairOlder(t *testing.T) {
	root, run := two(t)
	must(t, errors.Join(os.Remove(filepath.Join(root, "pair")), os.Remove(filepath.Join(run, "pair"))))
	d := open(t, root, run)
	if get(t, d, "x") != 1 {
		t.Error("the records of this boot are gone")
	}
	refused(t, filepath.Dir(root), root, run+"2", "--state "+run)
}

// A command killed on the way leaves what the next one ends, also with another root or state directory as
// long as the root knows of nothing.
func TestPairKilled(t *testing.T) {
	root, run := two(t)
	begun := func() {
		must(t, os.Rename(filepath.Join(run, "pair"), filepath.Join(run, "pairing")))
	}
	begun()
	refused(t, filepath.Dir(root), root, run+"2")
	open(t, root, run)
	begun()
	must(t, os.Remove(filepath.Join(root, "pair")))
	open(t, root+"2", run)
	open(t, root, run+"2")
}

// Of many commands that are the first ones all open, and of two state directories one gets the root.
func TestPairAtOnce(t *testing.T) {
	for range 5 {
		base := t.TempDir()
		root := filepath.Join(base, "root")
		failed := map[string]int{}
		var all []*exec.Cmd
		for i := range 12 {
			c := exec.Command("/proc/self/exe")
			run := filepath.Join(base, []string{"a", "b"}[i%2])
			c.Env = append(os.Environ(), "CTRD_TEST_ROLE=open", "CTRD_ROOT="+root, "CTRD_STATE="+run)
			must(t, c.Start())
			all = append(all, c)
		}
		for i, c := range all {
			if c.Wait() != nil {
				failed[[]string{"a", "b"}[i%2]]++
			}
		}
		if len(failed) != 1 || failed["a"]+failed["b"] != 6 {
			t.Errorf("refused: %v", failed)
		}
	}
}

// On a read-only file system what only reads works and writes nothing, and what writes says why it cannot.
func TestReadOnly(t *testing.T) {
	for _, paired := range []bool{true, false} {
		for _, which := range []string{"root", "state", "both"} {
			root, run := two(t)
			d := open(t, root, run)
			must(t, d.Update(t.Context(), nil, func(tx *state.Tx) error { return bump(tx, "kept") }))
			if !paired {
				must(t, errors.Join(os.Remove(filepath.Join(root, "pair")), os.Remove(filepath.Join(run, "pair"))))
			}
			for dir, is := range map[string]bool{root: which != "state", run: which != "root"} {
				if is {
					readOnly(t, dir)
				}
			}
			d = open(t, root, run)
			if get(t, d, "kept") != 1 || get(t, d, "x") != 1 {
				t.Errorf("%s: records are not read", which)
			}
			err := d.Update(t.Context(), nil, func(tx *state.Tx) error { return bump(tx, "kept") })
			if !errors.Is(err, unix.EROFS) || errdefs.IsDataLoss(err) {
				t.Errorf("%s: an update: %v", which, err)
			}
			_, err = state.Open(state.Config{Root: root, State: run + "2"})
			if which == "root" && !paired && err == nil {
				continue // nothing can be begun with this root
			}
			var apart *state.PairError
			if paired && !errors.As(err, &apart) {
				t.Errorf("%s: with another state directory: %v", which, err)
			}
		}
	}
}

// Who only looks makes nothing, and opens what is there.
func TestLook(t *testing.T) {
	root, run := two(t)
	base := filepath.Dir(root)
	look := func(root, run string) error {
		before := everything(t, base)
		d, err := state.Open(state.Config{Root: root, State: run, Look: true})
		if err == nil && get(t, d, "x") != 1 {
			t.Error("records are not read")
		}
		if !slices.Equal(everything(t, base), before) {
			t.Error("something was written")
		}
		return err
	}
	must(t, look(root, run))
	must(t, errors.Join(os.Remove(filepath.Join(root, "pair")), os.Remove(filepath.Join(run, "pair"))))
	must(t, look(root, run)) // of an older program
	if err := look(root+"2", run+"2"); !errdefs.IsNotFound(err) {
		t.Errorf("nothing is there: %v", err)
	}
	reboot(t, run)
	if err := look(root, run); !errdefs.IsNotFound(err) {
		t.Errorf("another boot: %v", err)
	}
}

func readOnly(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); errors.Is(err, unix.EPERM) {
		t.Skip("mounting needs CAP_SYS_ADMIN")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	must(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}

// A file says nothing, or what a file that says it again says.
func FuzzParsePair(f *testing.F) {
	f.Add("boot ABCDEFGHIJKLMNOPQRSTUVWXYZ 7\n/run/ctrd\n", uint64(7))
	f.Add("boot ABCDEFGHIJKLMNOPQRSTUVWXYZ 0\n/run/a\nb\n", uint64(7))
	f.Add("boot ABC 7\n", uint64(7))
	f.Add("", uint64(0))
	f.Fuzz(func(t *testing.T, text string, inode uint64) {
		id, other, copied := state.ParsePair(text, "boot", inode)
		if id == "" {
			if other != "" || copied {
				t.Errorf("%q says %q, %v without an id", text, other, copied)
			}
			return
		}
		if i, o, c := state.ParsePair("boot "+id+" 0\n"+other+"\n", "boot", inode); i != id || o != other || c {
			t.Errorf("%q again: %q, %q, %v", text, i, o, c)
		}
		if i, _, _ := state.ParsePair(text, "another", inode); i != "" {
			t.Errorf("%q is of any boot", text)
		}
	})
}
