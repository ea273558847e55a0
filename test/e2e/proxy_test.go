// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// proxy stands before the registry, counts what blobs cost and makes them arrive badly.
type proxy struct {
	addr   string
	server *http.Server

	mu    sync.Mutex
	mode  string
	n     int64
	times int // how often the fault happens; < 0: always
	bytes map[string]int64
	gets  map[string]int
}

func newProxy(to string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: l.Addr().String(), bytes: map[string]int64{}, gets: map[string]int{}}
	back := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to})
	back.ModifyResponse = p.modify
	back.FlushInterval = -1
	back.ErrorLog = log.New(io.Discard, "", 0)
	p.server = &http.Server{Handler: back}
	go p.server.Serve(l)
	return p, nil
}

func (p *proxy) close() { p.server.Close() }

// modify counts and spoils the bodies of blobs.
func (p *proxy) modify(r *http.Response) error {
	path := r.Request.URL.Path
	if r.Request.Method != http.MethodGet || !strings.Contains(path, "/blobs/") {
		return nil
	}
	blob := path[strings.LastIndex(path, "/")+1:]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gets[blob]++
	mode := ""
	if p.mode != "" && p.times != 0 && r.ContentLength > 4096 {
		mode = p.mode
		p.times--
	}
	if mode == "status" {
		r.Body.Close()
		r.StatusCode, r.Status = int(p.n), ""
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(nil)), 0
		r.Header = http.Header{"Content-Length": {"0"}, "Retry-After": {"0"}}
		return nil
	}
	r.Body = &spoiled{ReadCloser: r.Body, p: p, blob: blob, mode: mode, n: p.n}
	return nil
}

type spoiled struct {
	io.ReadCloser
	p    *proxy
	blob string
	mode string
	n    int64
	read int64
}

func (s *spoiled) Read(b []byte) (int, error) {
	switch s.mode {
	case "truncate":
		if s.read >= s.n {
			return 0, io.ErrUnexpectedEOF // the connection is cut
		}
		b = b[:min(int64(len(b)), s.n-s.read)]
	case "slow":
		b = b[:min(int64(len(b)), max(1, s.n/50))]
		time.Sleep(20 * time.Millisecond)
	}
	n, err := s.ReadCloser.Read(b)
	if s.mode == "corrupt" && s.read <= s.n && s.n < s.read+int64(n) {
		b[s.n-s.read] ^= 0x40
	}
	s.read += int64(n)
	s.p.mu.Lock()
	s.p.bytes[s.blob] += int64(n)
	s.p.mu.Unlock()
	return n, err
}

// fault MODE [N [TIMES]] makes blobs of more than 4 KiB arrive badly through $PROXY:
//
//	truncate N: cut after N bytes   corrupt N: byte N is wrong   slow N: N bytes a second
//	status N: answered with N       none
func fault(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value("proxy").(*proxy)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode, p.n, p.times = arg(args, 0), 0, -1
	switch p.mode {
	case "none":
		p.mode = ""
		return
	case "truncate", "corrupt", "slow", "status":
	default:
		ts.Fatalf("no such fault: %q", p.mode)
	}
	var err error
	if p.n, err = strconv.ParseInt(arg(args, 1), 10, 64); err != nil {
		ts.Fatalf("fault: %v", err)
	}
	if len(args) > 2 {
		if p.times, err = strconv.Atoi(args[2]); err != nil {
			ts.Fatalf("fault: %v", err)
		}
	}
}

// traffic reset: forget what was counted.
// traffic bytes <= N, traffic bytes >= N: what all blobs together cost, in bytes that were sent.
// traffic gets <= N: how often one blob was asked for, at most.
// traffic once [N]: no byte of a blob was sent twice; N bytes more may have been on the way to one who was killed.
func traffic(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value("proxy").(*proxy)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch arg(args, 0) {
	case "reset":
		clear(p.bytes)
		clear(p.gets)
		return
	case "once":
		more, _ := strconv.ParseInt(arg(args, 1), 10, 64)
		for blob, n := range p.bytes {
			if size := blobSize(ts, blob); n > size+more {
				ts.Fatalf("%s of %d bytes cost %d", blob, size, n)
			}
		}
		return
	}
	var have int64
	for _, n := range p.bytes {
		have += n
	}
	if arg(args, 0) == "gets" {
		have = 0
		for _, n := range p.gets {
			have = max(have, int64(n))
		}
	}
	want, err := strconv.ParseInt(arg(args, 2), 10, 64)
	if err != nil {
		ts.Fatalf("traffic: %v", err)
	}
	ok := map[string]bool{"<=": have <= want, ">=": have >= want}[arg(args, 1)]
	if !ok {
		ts.Fatalf("traffic: %s is %d, not %s %d", args[0], have, args[1], want)
	}
}

func blobSize(ts *testscript.TestScript, digest string) int64 {
	for _, repository := range []string{"busybox", "redis", "nginx", "multi"} {
		r, err := http.Head(fmt.Sprintf("http://%s/v2/%s/blobs/%s", registry, repository, digest))
		if err != nil {
			ts.Fatalf("%v", err)
		}
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return r.ContentLength
		}
	}
	ts.Fatalf("the registry has no blob %s", digest)
	return 0
}
