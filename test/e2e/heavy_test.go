// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/test/world"
)

// mostMemory is what a transfer may need, in bytes, however large the image is.
const mostMemory = 100 << 20

// isLarge tells whether images are as large as they can be asked for: CTRD_HEAVY=1. It takes minutes, and 10 GB of disk.
func isLarge() bool { return os.Getenv("CTRD_HEAVY") != "" }

// measure runs a command and prints the most memory that it had, in KiB, as the last line. It is a process of its own, as
// the kernel counts for a child what its parent had when it started it.
func measure(args []string) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	os.Exit(0)
}

// within runs a command of the world, which must succeed within the memory that a transfer may need.
func within(t *testing.T, w *world.World, args ...string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = w.Environ("CTRD_TEST_MEASURE=" + strings.Join(append([]string{filepath.Join(bin, args[0])}, args[1:]...), "\n"))
	var errs strings.Builder
	cmd.Stderr = &errs
	began := time.Now()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, errs.String())
	}
	var kib int64
	if _, err := fmt.Sscan(string(out), &kib); err != nil {
		t.Fatalf("%q: %q: %v", args, out, err)
	}
	t.Logf("%s: %s, %d MB of memory", args[0], time.Since(began).Round(10*time.Millisecond), kib>>10)
	if kib<<10 > mostMemory {
		t.Errorf("%q needs %d KiB of memory", args, kib)
	}
}

// blobs is a registry of one image, whose blobs are files. It serves ranges, and takes nothing.
type blobs map[string]string

func (b blobs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := b[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
	switch {
	case r.URL.Path == "/v2/":
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		}
		http.ServeFile(w, r, path)
	}
}

// image serves an image of one layer, whose tar fill writes and pack compresses. It gives the image's name.
func (b blobs) image(t *testing.T, dir, media string, pack func(io.Writer) (io.WriteCloser, error), fill func(*tar.Writer) error) string {
	t.Helper()
	add := func(media string, write func(io.Writer) error) ocispec.Descriptor {
		f, err := os.CreateTemp(dir, "blob-")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		sum := digest.Canonical.Digester()
		if err := write(io.MultiWriter(f, sum.Hash())); err != nil {
			t.Fatal(err)
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		b[sum.Digest().String()] = f.Name()
		return ocispec.Descriptor{MediaType: media, Digest: sum.Digest(), Size: st.Size()}
	}
	document := func(media string, v any) ocispec.Descriptor {
		return add(media, func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
	}
	plain := digest.Canonical.Digester()
	layer := add(media, func(w io.Writer) error {
		packed, err := pack(w)
		if err != nil {
			return err
		}
		archive := tar.NewWriter(io.MultiWriter(packed, plain.Hash()))
		if err := fill(archive); err != nil {
			return err
		}
		if err := archive.Close(); err != nil {
			return err
		}
		return packed.Close()
	})
	config := document(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{plain.Digest()}},
	})
	manifest := document(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
	})
	b["1"] = b[manifest.Digest.String()]
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://") + "/app:1"
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

var packers = map[string]struct {
	media string
	pack  func(io.Writer) (io.WriteCloser, error)
}{
	"tar":  {ocispec.MediaTypeImageLayer, func(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil }},
	"gzip": {ocispec.MediaTypeImageLayerGzip, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestSpeed) }},
	"zstd": {ocispec.MediaTypeImageLayerZstd, func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
	}},
}

// A layer of 2 GB, in each compression, needs no more memory than a small one: to pull, to push and to export.
func TestLargeLayer(t *testing.T) {
	size := int64(64 << 20)
	if isLarge() {
		size = 2 << 30
	}
	for name, p := range packers {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, bin)
			noise := rand.NewChaCha8([32]byte{1})
			image := blobs{}.image(t, w.Dir, p.media, p.pack, func(archive *tar.Writer) error {
				if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Mode: 0o644, Size: size}); err != nil {
					return err
				}
				_, err := io.CopyN(archive, noise, size)
				return err
			})
			within(t, w, "ctr-pull", "-q", image)
			if found, err := filepath.Glob(w.Root + "/snapshots/overlayfs/*/fs/large"); err != nil || len(found) != 1 {
				t.Errorf("%q, %v", found, err)
			} else if st, err := os.Stat(found[0]); err != nil || st.Size() != size {
				t.Errorf("%v, %v", st, err)
			}
			w.Must(t, "ctrd", "fsck", "--deep")
			within(t, w, "ctr-push", "-q", image, registry+"/"+strings.ToLower(filepath.Base(w.Dir))+":1")
			within(t, w, "ctr-image", "export", "-o", filepath.Join(w.Dir, "out.tar"), image)
			w.Must(t, "ctr-image", "rm", image)
			within(t, w, "ctr-image", "import", filepath.Join(w.Dir, "out.tar"))
		})
	}
}

// A layer of 5,000 files comes whole, and goes whole; so does one of 100,000.
func TestManyFiles(t *testing.T) {
	dirs := 50
	if isLarge() {
		dirs = 1000
	}
	t.Run(fmt.Sprint(dirs*100), func(t *testing.T) { manyFiles(t, dirs, 100) })
}

func manyFiles(t *testing.T, dirs, files int) {
	w := world.New(t, bin)
	gz := packers["gzip"]
	image := blobs{}.image(t, w.Dir, gz.media, gz.pack, func(archive *tar.Writer) error {
		for d := range dirs {
			for f := range files {
				name := fmt.Sprintf("d%d/a-file-with-an-ordinary-name-%d", d, f)
				if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(name)), Uid: f}); err != nil {
					return err
				}
				if _, err := archive.Write([]byte(name)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	within(t, w, "ctr-pull", "-q", image)
	found, err := filepath.Glob(w.Root + "/snapshots/overlayfs/*/fs/d*/*")
	if err != nil || len(found) != dirs*files {
		t.Fatalf("%d files, %v", len(found), err)
	}
	for _, path := range []string{found[0], found[len(found)-1]} {
		if data, err := os.ReadFile(path); err != nil || !bytes.HasSuffix([]byte(path), data) {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	within(t, w, "ctr-image", "rm", image)
	if left, err := filepath.Glob(w.Root + "/snapshots/overlayfs/*"); err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}
