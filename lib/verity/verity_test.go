// SPDX-License-Identifier: Apache-2.0

package verity_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/verity"
)

// sizes are those at which the tree gets another block or level. The digests of so many x are what fsverity(1) of
// fsverity-utils 1.5 gives.
var sizes = []struct {
	size   int
	digest string
}{
	{0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"},
	{1, "dbbdfa9d606f7adeaa7f16dcfb0d49161c4cfb82d9d51cfb5cb43fa3dacb9e5b"},
	{4095, "11a482c4a3012f101c9013c35072065b676d1b7366c35525f46a2894994076fa"},
	{4096, "3f128b8d5a052638172857f47f0110dc2fc2c234dc0c712c08a3bc6f6c540483"},
	{4097, "f54d7eca1ac49ae471f4abedb0d9309f0b84a51ec5c1733e3abb2aaf9f66c4ad"},
	{524288, "fcaf1ae16ac8b4ca5217ed37818cca018924841f0083e50267b7dc82bdf3adaa"},
	{524289, "7321b423e2b765c00796ae1e5b0be1dbba66e2e76f0e06e0d6ea4f14142d8783"},
	{67108864, "ec36a446d5660eb439d6224e28538a94ede56ae1611f21aaf2f5a61fb7c5e6e8"},
	{67108865, "e38b789f63f2c9405d4fd12465ec8898702d9083c47c8fcff1349de88277945c"},
	{67637248, "f7ed44de33adfde84607739155354404d545907d57da4987e213739c3b8963bc"},
}

func contents(size int) []byte { return bytes.Repeat([]byte("x"), size) }

func TestDigest(t *testing.T) {
	for _, c := range sizes {
		got, err := verity.Digest(t.Context(), bytes.NewReader(contents(c.size)))
		if err != nil || got.String() != "sha256:"+c.digest {
			t.Errorf("%d bytes: %s, %v", c.size, got, err)
		}
	}
	if got, err := verity.Digest(t.Context(), iotest.OneByteReader(bytes.NewReader(contents(4097)))); err != nil || got.Encoded() != sizes[4].digest {
		t.Errorf("byte by byte: %s, %v", got, err)
	}
	if got, err := verity.Digest(t.Context(), iotest.TimeoutReader(bytes.NewReader(contents(10000)))); !errors.Is(err, iotest.ErrTimeout) || got != "" {
		t.Errorf("of what cannot be read: %s, %v", got, err)
	}
}

// TestProtect: where the kernel and the file system have fs-verity, they agree with Digest, and keep a file from changes.
// Elsewhere a file is left as it was.
func TestProtect(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	var got string
	for _, c := range sizes[:8] {
		os.Remove(path)
		if err := os.WriteFile(path, contents(c.size), 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := verity.Measure(path); err != nil || d != "" {
			t.Errorf("of a file without: %q, %v", d, err)
		}
		d, err := verity.Protect(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		got = d.String()
		if got == "" {
			break
		}
		again, err := verity.Protect(t.Context(), path)
		known, err2 := verity.Measure(path)
		if err := errors.Join(err, err2); err != nil || got != "sha256:"+c.digest || again != d || known != d {
			t.Errorf("%d bytes: %s, again %s, measured %s, %v", c.size, got, again, known, err)
		}
	}
	_, err := os.OpenFile(path, os.O_RDWR, 0)
	if got == "" {
		if err != nil {
			t.Error("the file is not as it was: ", err)
		}
		t.Skip("no fs-verity here: a digest of the kernel was not compared")
	}
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("opened for writing: %v", err)
	}
}

// TestProtectCancelled: nothing is protected any more.
func TestProtectCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, contents(1), 0o600); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := verity.Protect(over, path); d != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v", d, err)
	}
	if d, err := verity.Measure(path); d != "" || err != nil {
		t.Errorf("%q, %v", d, err)
	}
}

// TestProtectBusy: a file that is open for writing is refused, but programs that are started meanwhile do no harm, also in user
// namespaces, whose clones have copies of all descriptors for a moment.
func TestProtectBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := verity.Protect(t.Context(), path)
	f.Close()
	if err == nil && d == "" {
		t.Skip("no fs-verity here")
	}
	if !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("%q, %v", d, err)
	}
	stop := make(chan struct{})
	var starts sync.WaitGroup
	for n := range 4 {
		starts.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					cmd := exec.Command("/proc/self/exe", "-test.run=^$")
					if n%2 > 0 {
						cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}}
					}
					_ = cmd.Run()
				}
			}
		})
	}
	for range 200 {
		f, err := os.Create(path)
		if err == nil {
			_, err = io.WriteString(f, "x")
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if d, err := verity.Protect(t.Context(), path); err != nil || d.Encoded() != sizes[1].digest {
			t.Errorf("%q, %v", d, err)
			break
		}
		os.Remove(path)
	}
	close(stop)
	starts.Wait()
}
