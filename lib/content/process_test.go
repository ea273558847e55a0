// SPDX-License-Identifier: Apache-2.0

package content

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/state"
)

func TestMain(m *testing.M) {
	if os.Getenv("CONTENT_TEST_CHILD") != "" {
		child()
	}
	os.Exit(m.Run())
}

// known is the same blob in every process.
func known() ([]byte, ocispec.Descriptor) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b, ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// child brings the known blob piece by piece, says how much it had to bring, and says so after each
// piece when it is to be killed.
func child() {
	slow := os.Getenv("CONTENT_TEST_CHILD") == "slow"
	d, err := state.Open(state.Config{Root: os.Getenv("ROOT"), State: os.Getenv("STATE"), Wait: -1})
	fatal(err)
	if os.Getenv("CONTENT_TEST_CHILD") == "writer" {
		writer(d)
	}
	data, desc := known()
	i, err := Begin(ctx, d, nil, desc)
	fatal(err)
	brought := int64(0)
	for _, r := range i.Missing() {
		for off := r.Start; off < r.End; {
			end := min(off+10000, r.End)
			_, err := i.WriteAt(data[off:end], off)
			fatal(err)
			brought += end - off
			off = end
			if slow {
				fmt.Println("wrote", off)
				time.Sleep(time.Millisecond)
			}
		}
	}
	fatal(i.Commit())
	fatal(i.Close())
	fmt.Println("brought", brought)
	os.Exit(0)
}

// writer writes the known blob under a ref, says so after each piece, and never commits.
func writer(d *state.Dir) {
	data, _ := known()
	w, err := OpenWriter(ctx, d, "ns", WriterOptions{Ref: "r"})
	fatal(err)
	for len(data) > 0 {
		n, err := w.Write(data[:min(len(data), 10000)])
		fatal(err)
		data = data[n:]
		fmt.Println("wrote", n)
	}
	select {}
}

func fatal(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func start(t *testing.T, dir, how string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), "CONTENT_TEST_CHILD="+how, "ROOT="+filepath.Join(dir, "root"), "STATE="+filepath.Join(dir, "state"))
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewScanner(out)
}

// Many processes want the same blob: one brings it, the others find it.
func TestProcessesShareOneIngest(t *testing.T) {
	dir := t.TempDir()
	var cmds []*exec.Cmd
	var outs []*bufio.Scanner
	for range 6 {
		c, out := start(t, dir, "quick")
		cmds, outs = append(cmds, c), append(outs, out)
	}
	var brought []string
	for n, c := range cmds {
		outs[n].Scan()
		brought = append(brought, outs[n].Text())
		if err := c.Wait(); err != nil {
			t.Error(err, outs[n].Text())
		}
	}
	all := strings.Join(brought, ",")
	if strings.Count(all, "brought 1048576") != 1 || strings.Count(all, "brought 0") != 5 {
		t.Error(all)
	}
}

// P is killed in the middle; Q brings only what P had not.
func TestKilledIngest(t *testing.T) {
	dir := t.TempDir()
	p, out := start(t, dir, "slow")
	for range 20 {
		if !out.Scan() {
			t.Fatal("P said nothing")
		}
	}
	p.Process.Kill()
	p.Wait()
	q, out := start(t, dir, "quick")
	out.Scan()
	var brought int64
	fmt.Sscanf(out.Text(), "brought %d", &brought)
	if err := q.Wait(); err != nil {
		t.Fatal(err, out.Text())
	}
	if brought == 0 || brought > 1<<20-200000 {
		t.Errorf("Q brought %d bytes", brought)
	}
	d := reopen(t, filepath.Join(dir, "root"), filepath.Join(dir, "state"))
	_, desc := known()
	if _, err := ReadAll(d, desc, 1<<20); err != nil {
		t.Error(err)
	}
}

// A writer that is killed frees its ref, and the next one goes on at the last byte.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	p, out := start(t, dir, "writer")
	for range 20 {
		if !out.Scan() {
			t.Fatal("P said nothing")
		}
	}
	d := reopen(t, filepath.Join(dir, "root"), filepath.Join(dir, "state"))
	if _, err := OpenWriter(ctx, d, "ns", WriterOptions{Ref: "r"}); !errdefs.IsUnavailable(err) {
		t.Errorf("beside P: %v", err)
	}
	p.Process.Kill()
	p.Wait()
	data, desc := known()
	w := openWriter(t, d, "ns", WriterOptions{Ref: "r", Digest: desc.Digest, Size: desc.Size})
	if got := w.Status().Offset; got < 200000 {
		t.Errorf("it begins at %d", got)
	}
	if _, err := w.Write(data[w.Status().Offset:]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(ctx, desc.Size, desc.Digest, nil); err != nil {
		t.Error(err)
	}
}
