// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

const (
	// killedPulls is how many pulls are killed until they succeed; CTRD_KILL_PULLS says otherwise.
	killedPulls = 6
	// killsOfPull bounds how often one pull is killed before it is left alone.
	killsOfPull = 8
	// rate is how fast the meter lets a connection go, in bytes a second.
	rate = 8 << 20
	// lost bounds what a killed process may have been sent without having written it down, in bytes for
	// each connection: what the kernel's buffers hold, and what the meter has read and not yet sent.
	lost = 384 << 10
)

// TestKillsOfPull kills ctr-pull at random moments, also beside another that pulls the same image. The
// next one goes on where it was: the image is right in the end, nothing is visible before, and the
// registry has sent no byte twice, but for what was on its way to a process that was killed.
func TestKillsOfPull(t *testing.T) {
	t.Parallel()
	seed := number("CTRD_KILL_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CTRD_KILL_SEED=%d", seed)
	m := newMeter(t)
	image := m.address + "/" + strings.SplitN(large, "/", 2)[1]

	w := world.New(t, bin)
	usual := w.Run(t, nil, "ctr-pull", "-q", image)
	if usual.Status != 0 {
		t.Fatal(usual)
	}
	reference := tree(t, w, image)
	sizes := m.reset()
	t.Logf("a pull of %d blobs takes %s", len(sizes), usual.Took.Round(time.Millisecond))

	kills := 0
	for i := range number("CTRD_KILL_PULLS", killedPulls) {
		p := &puller{T: t, w: world.New(t, bin), r: rand.New(rand.NewPCG(seed, uint64(i))), image: image, usual: usual.Took}
		for p.kills < killsOfPull && !p.once() {
		}
		p.w.Must(t, "ctr-pull", "-q", image)
		p.w.Must(t, "ctrd", "fsck", "--deep")
		if tree(t, p.w, image) != reference {
			t.Fatalf("pull %d: the image is not what it is when nobody is killed", i)
		}
		p.w.Empty(t)
		for blob, sent := range m.reset() {
			twice := sent.total - sent.covered()
			if sent.covered() != sizes[blob].covered() {
				t.Errorf("pull %d: of %s, which has %d bytes, %d were sent", i, blob, sizes[blob].covered(), sent.covered())
			}
			if most := int64(p.kills) * lost; twice > most {
				t.Errorf("pull %d: %d bytes of %s (%d bytes) were sent twice, %d kills explain %d", i, twice, blob, sizes[blob].covered(), p.kills, most)
			}
		}
		kills += p.kills
	}
	t.Logf("%d kills", kills)
}

// puller is one image being pulled by processes that are killed.
type puller struct {
	*testing.T
	w     *world.World
	r     *rand.Rand
	image string
	usual time.Duration
	kills int
}

// once starts a pull, sometimes two, and kills one of them at a random moment. It tells whether the image
// is there.
func (p *puller) once() bool {
	all := make([]*exec.Cmd, 1+p.r.IntN(6)/5)
	for i := range all {
		all[i] = exec.Command(filepath.Join(bin, "ctr-pull"), "-q", p.image)
		all[i].Env = p.w.Environ()
		if err := all[i].Start(); err != nil {
			p.Fatal(err)
		}
	}
	// A fraction: what is left to do becomes less each time.
	time.Sleep(time.Duration(p.r.Float64() * float64(p.usual) / 3))
	all[0].Process.Kill()
	done := false
	for i, cmd := range all {
		cmd.Wait()
		status := cmd.ProcessState.ExitCode()
		switch {
		case status == 0:
			done = true
		case i == 0 && status < 0:
			p.kills++
		default:
			p.Fatalf("ctr-pull, beside one that was killed: status %d", status)
		}
	}
	listed := slices.Contains(p.w.Fields(p, "ctr-image", "ls", "-q"), p.image)
	if done && !listed {
		p.Fatal("the pull succeeded, and there is no image")
	}
	p.w.Whole(p)
	return listed
}

// meter stands before the registry, lets blobs through slowly and notes which bytes it has sent.
type meter struct {
	address string
	mu      sync.Mutex
	blobs   map[string]*sent
}

// sent is what was sent of one blob.
type sent struct {
	total int64
	spans []span
}

type span struct{ start, end int64 }

// covered counts the bytes that were sent at least once.
func (s *sent) covered() (n int64) {
	slices.SortFunc(s.spans, func(a, b span) int { return int(a.start - b.start) })
	end := int64(0)
	for _, x := range s.spans {
		n += max(0, x.end-max(end, x.start))
		end = max(end, x.end)
	}
	return n
}

func newMeter(t *testing.T) *meter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &meter{address: l.Addr().String(), blobs: map[string]*sent{}}
	back := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	back.FlushInterval = -1
	back.ModifyResponse = m.measure
	back.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	server := &http.Server{Handler: back}
	go server.Serve(smallBuffers{l})
	t.Cleanup(func() { server.Close() })
	return m
}

// smallBuffers keeps the kernel from taking much for a client that does not read.
type smallBuffers struct{ net.Listener }

func (s smallBuffers) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(32 << 10)
	}
	return c, err
}

func (m *meter) measure(r *http.Response) error {
	path := r.Request.URL.Path
	if r.Request.Method != http.MethodGet || !strings.Contains(path, "/blobs/") || r.StatusCode > 299 {
		return nil
	}
	b := &measured{ReadCloser: r.Body, m: m, blob: path[strings.LastIndex(path, "/")+1:]}
	if text := r.Header.Get("Content-Range"); text != "" {
		if _, err := fmt.Sscanf(text, "bytes %d-", &b.at); err != nil {
			return fmt.Errorf("content range %q: %w", text, err)
		}
	}
	r.Body = b
	return nil
}

// reset gives what was sent of each blob and begins anew.
func (m *meter) reset() map[string]*sent {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.blobs
	m.blobs = map[string]*sent{}
	return all
}

type measured struct {
	io.ReadCloser
	m    *meter
	blob string
	at   int64
}

func (b *measured) Read(p []byte) (int, error) {
	p = p[:min(len(p), 32<<10)]
	n, err := b.ReadCloser.Read(p)
	time.Sleep(time.Duration(n) * time.Second / rate)
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	s := b.m.blobs[b.blob]
	if s == nil {
		s = &sent{}
		b.m.blobs[b.blob] = s
	}
	s.total += int64(n)
	if last := len(s.spans) - 1; last >= 0 && s.spans[last].end == b.at {
		s.spans[last].end += int64(n)
	} else if n > 0 {
		s.spans = append(s.spans, span{b.at, b.at + int64(n)})
	}
	b.at += int64(n)
	return n, err
}
