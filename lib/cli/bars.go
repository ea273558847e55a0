// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/progress"
)

// screen is what is drawn on stderr below the last line. Lines of any origin in this process go above it.
var screen struct {
	sync.Mutex
	text  []string
	drawn int // lines on the terminal, above the cursor
}

// draw replaces what is drawn; nothing takes it away.
func draw(text []string) {
	screen.Lock()
	defer screen.Unlock()
	if screen.drawn == 0 && len(text) == 0 {
		return
	}
	screen.text = text
	os.Stderr.WriteString(erased() + drawing())
}

// toStderr writes whole lines. What is drawn is taken away before and drawn again after, in one write.
func toStderr(lines string) {
	screen.Lock()
	defer screen.Unlock()
	os.Stderr.WriteString(erased() + lines + drawing())
}

// erased takes the drawing off the terminal. screen must be locked.
func erased() string {
	if screen.drawn == 0 {
		return ""
	}
	s := fmt.Sprintf("\x1b[%dA\r\x1b[J", screen.drawn)
	screen.drawn = 0
	return s
}

func drawing() string {
	screen.drawn = len(screen.text)
	if screen.drawn == 0 {
		return ""
	}
	return strings.Join(screen.text, "\n") + "\n"
}

func terminalSize() (width, height int) {
	ws, err := unix.IoctlGetWinsize(int(os.Stderr.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 || ws.Row == 0 {
		return 80, 24
	}
	return int(ws.Col), int(ws.Row)
}

// picture gives the lines to draw: a title, a row for each blob, and the total. Where there is no room for all
// rows, those that have ended become one.
func picture(title string, t *tally, now time.Time, width, height int) []string {
	room := max(1, height-2)
	var rows []progress.Event
	for _, r := range t.rows {
		if r.Status != progress.Resolving {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return []string{cut(title+": resolving", width)}
	}
	text := []string{cut(title, width)}
	ended := 0
	var moving []string
	for _, r := range rows {
		if len(rows)+2 > room && r.Status.Ended() {
			ended++
			continue
		}
		moving = append(moving, row(r, width))
	}
	if ended > 0 {
		text = append(text, cut(fmt.Sprintf("%d done", ended), width))
	}
	text = append(text, moving...)
	total := t.total(now)
	if total == "" {
		return text[:min(len(text), room)]
	}
	return append(text[:min(len(text), max(0, room-1))], cut("total "+total, width))
}

// row is one line, never as wide as the terminal: some wrap at the last column.
func row(e progress.Event, width int) string {
	text := fmt.Sprintf("%s  %-11s", shortDigest(e.Descriptor.Digest), statusText(e))
	if !e.Status.Moves() || e.Descriptor.Size <= 0 {
		return cut(text+"  "+bytesText(e.Descriptor.Size), width)
	}
	amount := fmt.Sprintf("%s of %s", bytesText(e.Current), bytesText(e.Descriptor.Size))
	n := min(40, width-1-len(text)-2-2-2-len(amount))
	if n < 5 {
		return cut(text+"  "+amount, width)
	}
	full := int(int64(n) * min(max(0, e.Current), e.Descriptor.Size) / e.Descriptor.Size)
	return text + "  [" + strings.Repeat("=", full) + strings.Repeat(" ", n-full) + "]  " + amount
}

func cut(s string, width int) string {
	if r := []rune(s); len(r) >= width {
		return string(r[:max(0, width-1)])
	}
	return s
}
