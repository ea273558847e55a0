// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// breaking is a proxy to a server that breaks its first connections, each after so many bytes of the answers.
func breaking(t *testing.T, to string, cuts []int64) (address string, broken *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	broken = new(atomic.Int32)
	var n atomic.Int32
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			limit := int64(1 << 40)
			if i := int(n.Add(1)) - 1; i < len(cuts) {
				limit = cuts[i]
			}
			go func() {
				io.Copy(out, in)
				out.Close()
			}()
			go func() {
				if k, _ := io.CopyN(in, out, limit); k == limit {
					broken.Add(1)
				}
				in.Close()
				out.Close()
			}()
		}
	}()
	return l.Addr().String(), broken
}

// Connections that break at random bytes, in headers, documents and layers, of a registry with ranges and of one without:
// the image is whole in the end.
func TestConnectionsBreak(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for _, ranges := range []bool{true, false} {
		// Which connection carries how much is chance; a cut may lie behind the end of one.
		for tries := 1; pullOverBreaks(t, r, ranges) == 0; tries++ {
			if tries == 20 {
				t.Fatalf("ranges %v: no connection was broken in %d pulls", ranges, tries)
			}
		}
	}
}

// pullOverBreaks pulls an image over connections that break, and tells how many did.
func pullOverBreaks(t *testing.T, r *rand.Rand, ranges bool) int32 {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", large("a", 6<<20, 3), large("b", 5<<20, 4), files("c", "small"))
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !ranges {
			r.Header.Del("Range")
		}
		return false
	})
	cuts := []int64{r.Int64N(4 << 20), r.Int64N(4 << 20), r.Int64N(5 << 20), r.Int64N(1000)}
	if !ranges {
		cuts = cuts[:2]
	}
	host, broken := breaking(t, s.host, cuts)
	ref := host + strings.TrimPrefix(b.ref, s.host)
	img, err := pullText(ctx, d, ref, options())
	if err != nil {
		t.Fatalf("ranges %v, cuts %v: %v", ranges, cuts, err)
	}
	for n, tree := range trees(t, d, img) {
		name := string(rune('a' + n))
		if st, err := os.Stat(tree + "/" + name); err != nil || st.Size() == 0 {
			t.Errorf("ranges %v, cuts %v: %s: %v", ranges, cuts, name, err)
		}
	}
	return broken.Load()
}
