// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cli"
	"ctrd.dev/ctrd/lib/pull"
)

// display shows the progress of one image after the other.
type display interface {
	begin()
	event(pull.Event)
	end()
}

func newDisplay(how string) (display, error) {
	switch how {
	case "auto":
		if cli.IsTerminal(os.Stderr) && os.Getenv("TERM") != "dumb" {
			return &bars{}, nil
		}
		return none{}, nil
	case "none":
		return none{}, nil
	case "plain":
		return &plain{}, nil
	case "json":
		return lines{}, nil
	}
	return nil, cli.Usagef("--progress: %q is none of auto, plain, json, none", how)
}

type none struct{}

func (none) begin()           {}
func (none) event(pull.Event) {}
func (none) end()             {}

// lines writes every event as a line of JSON.
type lines struct{ none }

func (lines) event(e pull.Event) {
	if data, err := json.Marshal(e); err == nil {
		os.Stderr.Write(append(data, '\n'))
	}
}

// plain writes a line at each change of status.
type plain struct {
	none
	last map[digest.Digest]pull.Status
}

func (p *plain) begin() { p.last = map[digest.Digest]pull.Status{} }

func (p *plain) event(e pull.Event) {
	if p.last[e.Descriptor.Digest] == e.Status {
		return
	}
	p.last[e.Descriptor.Digest] = e.Status
	if e.Status == pull.Resolving {
		cli.Say("%s: resolving", e.Image)
		return
	}
	cli.Say("%s: %s %s, %s", e.Image, short(e.Descriptor.Digest), e.Status, size(e.Descriptor.Size))
}

// bars draws a line for each blob and draws them anew as they change. When the image is through
// nothing is left of them.
type bars struct {
	mu    sync.Mutex
	rows  []pull.Event
	drawn int // lines on the screen, above the cursor
	stop  chan struct{}
	done  chan struct{}
}

const redraw = 100 * time.Millisecond

func (b *bars) begin() {
	b.rows, b.stop, b.done = nil, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(b.done)
		t := time.NewTicker(redraw)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				b.draw()
			case <-b.stop:
				return
			}
		}
	}()
}

func (b *bars) event(e pull.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.rows {
		if b.rows[i].Descriptor.Digest == e.Descriptor.Digest {
			b.rows[i] = e
			return
		}
	}
	b.rows = append(b.rows, e)
}

func (b *bars) end() {
	close(b.stop)
	<-b.done
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write(nil)
}

func (b *bars) draw() {
	b.mu.Lock()
	defer b.mu.Unlock()
	width, height := terminal()
	b.write(picture(b.rows, width, height))
}

// write replaces the lines that are on the screen.
func (b *bars) write(text []string) {
	if b.drawn == 0 && len(text) == 0 {
		return
	}
	var s strings.Builder
	if b.drawn > 0 {
		fmt.Fprintf(&s, "\x1b[%dA\r", b.drawn)
	}
	s.WriteString("\x1b[J")
	for _, l := range text {
		s.WriteString(l + "\n")
	}
	b.drawn = len(text)
	os.Stderr.WriteString(s.String())
}

func terminal() (width, height int) {
	ws, err := unix.IoctlGetWinsize(int(os.Stderr.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 || ws.Row == 0 {
		return 80, 24
	}
	return int(ws.Col), int(ws.Row)
}

// picture gives the lines to draw: those that move, when there is no room for all.
func picture(rows []pull.Event, width, height int) []string {
	room := max(1, height-2)
	finished := 0
	var text []string
	for _, r := range rows {
		switch {
		case r.Status == pull.Resolving && len(rows) > 1:
		case len(rows) > room && (r.Status == pull.Done || r.Status == pull.Exists):
			finished++
		default:
			text = append(text, row(r, width))
		}
	}
	if finished > 0 {
		text = append([]string{cut(fmt.Sprintf("%d done", finished), width)}, text...)
	}
	return text[:min(len(text), room)]
}

// row is one line, never as wide as the terminal: some wrap at the last column.
func row(e pull.Event, width int) string {
	if e.Status == pull.Resolving {
		return cut(e.Image+": resolving", width)
	}
	text := fmt.Sprintf("%s  %-11s", short(e.Descriptor.Digest), e.Status)
	if e.Status != pull.Downloading || e.Descriptor.Size <= 0 {
		return cut(text+"  "+size(e.Descriptor.Size), width)
	}
	amount := fmt.Sprintf("%s of %s", size(e.Current), size(e.Descriptor.Size))
	n := min(40, width-1-len(text)-2-2-2-len(amount))
	if n < 5 {
		return cut(text+"  "+amount, width)
	}
	full := int(int64(n) * min(e.Current, e.Descriptor.Size) / e.Descriptor.Size)
	return text + "  [" + strings.Repeat("=", full) + strings.Repeat(" ", n-full) + "]  " + amount
}

func cut(s string, width int) string {
	if r := []rune(s); len(r) >= width {
		return string(r[:max(0, width-1)])
	}
	return s
}

func short(d digest.Digest) string {
	if _, hex, ok := strings.Cut(d.String(), ":"); ok {
		return hex[:min(12, len(hex))]
	}
	return d.String()
}

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
