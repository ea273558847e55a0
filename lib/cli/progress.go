// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"ctrd.dev/ctrd/lib/progress"
)

// Progress shows on stderr how the transfers of images go, one image after the other: as bars that are drawn
// anew on a terminal, as lines, or as JSON.
type Progress struct {
	how  string        // bars, plain, slow, json, none
	word string        // what has been done in the end: pulled
	tick time.Duration // between two pictures, or two lines that tell the total

	mu    sync.Mutex
	title string
	tally tally
	lines int // that were printed of this image
	stop  chan struct{}
	done  chan struct{}
}

const (
	redraw    = 100 * time.Millisecond
	plainTick = 10 * time.Second
	// slowTick is how long a transfer lasts before a command that shows nothing says how far it is.
	slowTick = 15 * time.Second
)

// ProgressFlags adds the options -q and --progress to a command.
func ProgressFlags(cmd *cobra.Command, quiet *bool, how *string) {
	f := cmd.Flags()
	f.BoolVarP(quiet, "quiet", "q", false, "show no progress")
	f.StringVar(how, "progress", "auto", "show progress as `HOW`: auto (bars on a terminal), plain, json or none")
	CompleteOption(cmd, "progress", cobra.FixedCompletions([]string{"auto", "plain", "json", "none"}, cobra.ShellCompDirectiveNoFileComp))
}

// NewProgress makes a display of the kind that --progress names; word says in the past tense what the command
// does. A dumb terminal gets plain lines. Where stderr is no terminal, auto shows nothing of a transfer that takes
// less than 15 seconds.
func NewProgress(how, word string) (*Progress, error) {
	p := &Progress{how: how, word: word}
	switch how {
	case "auto":
		switch {
		case !IsTerminal(os.Stderr):
			p.how, p.tick = "slow", slowTick
		case os.Getenv("TERM") == "dumb":
			p.how, p.tick = "plain", plainTick
		default:
			p.how, p.tick = "bars", redraw
		}
	case "plain":
		p.tick = plainTick
	case "json", "none":
	default:
		return nil, Usagef("--progress: %q is none of auto, plain, json, none", how)
	}
	return p, nil
}

// Shows tells whether it shows who is waited for.
func (p *Progress) Shows() bool { return p.how != "none" && p.how != "slow" }

// Begin begins with an image, called name.
func (p *Progress) Begin(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.title, p.lines = visible(name), 0
	p.tally = tally{began: time.Now()}
	if p.tick == 0 {
		return
	}
	p.stop, p.done = make(chan struct{}), make(chan struct{})
	go p.run(p.stop, p.done)
}

func (p *Progress) run(stop, done chan struct{}) {
	defer close(done)
	t := time.NewTicker(p.tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.show()
		case <-stop:
			return
		}
	}
}

// show draws the picture, or tells the total.
func (p *Progress) show() {
	p.mu.Lock()
	now := time.Now()
	p.tally.sample(now)
	if p.how == "bars" {
		width, height := terminalSize()
		text := picture(p.title, &p.tally, now, width, height)
		p.mu.Unlock()
		draw(text)
		return
	}
	line := p.tally.total(now)
	if line != "" {
		p.lines++
	}
	title := p.title
	p.mu.Unlock()
	if line != "" {
		Say("%s: %s", title, line)
	}
}

// Event takes what the transfer reports.
func (p *Progress) Event(e progress.Event) {
	p.mu.Lock()
	changed := p.tally.add(e)
	if e.Status == progress.Resolving {
		p.title = e.Image
	}
	p.mu.Unlock()
	switch {
	case p.how == "json":
		if data, err := json.Marshal(e); err == nil {
			toStderr(string(append(data, '\n')))
		}
	case p.how != "plain" || !changed:
	case e.Status == progress.Resolving:
		Say("%s: resolving", e.Image)
	default:
		Say("%s: %s %s, %s", e.Image, shortDigest(e.Descriptor.Digest), statusText(e), bytesText(e.Descriptor.Size))
	}
}

// End ends with an image. What is drawn goes away. Where progress was shown, a line says what was done.
func (p *Progress) End(err error) {
	p.mu.Lock()
	stop, done := p.stop, p.done
	p.stop = nil
	p.mu.Unlock()
	if stop != nil {
		close(stop)
		<-done
	}
	p.mu.Lock()
	recap := p.tally.recap(p.word, p.title, time.Now())
	shown := p.how == "bars" || p.how == "plain" || p.how == "slow" && p.lines > 0
	p.mu.Unlock()
	if p.how == "bars" {
		draw(nil)
	}
	if shown && err == nil {
		Say("%s", recap)
	}
}

// tally is what is known of the transfers of one image.
type tally struct {
	began   time.Time
	rows    []progress.Event
	at      map[digest.Digest]int
	moved   int64 // bytes that came over the network
	samples []sample
}

type sample struct {
	at    time.Time
	moved int64
}

// window is the time over which the rate is measured.
const window = 5 * time.Second

// add takes an event. It reports whether the status of the descriptor has changed.
func (t *tally) add(e progress.Event) (changed bool) {
	n, known := t.at[e.Descriptor.Digest]
	if !known {
		if t.at == nil {
			t.at = map[digest.Digest]int{}
		}
		t.at[e.Descriptor.Digest] = len(t.rows)
		t.rows = append(t.rows, e)
		return true
	}
	old := t.rows[n]
	if old.Status.Moves() && (e.Status.Moves() || e.Status == progress.Unpacking || e.Status == progress.Done) {
		t.moved += max(0, e.Current-old.Current)
	}
	t.rows[n] = e
	return old.Status != e.Status || old.PID != e.PID
}

func (t *tally) sample(now time.Time) {
	t.samples = append(t.samples, sample{now, t.moved})
	for len(t.samples) > 2 && now.Sub(t.samples[0].at) > window {
		t.samples = t.samples[1:]
	}
}

// rate is in bytes a second, of the last seconds.
func (t *tally) rate(now time.Time) float64 {
	first := sample{t.began, 0}
	if len(t.samples) > 1 {
		first = t.samples[0]
	}
	if d := now.Sub(first.at).Seconds(); d > 0 {
		return float64(t.moved-first.moved) / d
	}
	return 0
}

// amounts gives the bytes that are there and the bytes of all that has to come.
func (t *tally) amounts() (have, all int64) {
	for _, r := range t.rows {
		if r.Status == progress.Resolving || r.Status == progress.Exists || r.Status == progress.Mounted {
			continue
		}
		size := max(0, r.Descriptor.Size)
		all += size
		switch r.Status {
		case progress.Done, progress.Unpacking:
			have += size
		case progress.Downloading, progress.Uploading:
			have += min(max(0, r.Current), size)
		}
	}
	return have, all
}

// total is the line about all of them together, or empty where nothing is known.
func (t *tally) total(now time.Time) string {
	have, all := t.amounts()
	if all == 0 {
		return ""
	}
	text := fmt.Sprintf("%s of %s", bytesText(have), bytesText(all))
	if rate := t.rate(now); rate >= 1 {
		text += fmt.Sprintf(", %s/s", bytesText(int64(rate)))
		if have < all {
			left := time.Duration(float64(all-have) / rate * float64(time.Second))
			text += fmt.Sprintf(", %s left", spanText(left))
		}
	}
	return text
}

// recap says what was done in the end.
func (t *tally) recap(word, title string, now time.Time) string {
	count := map[progress.Status]int{}
	for _, r := range t.rows {
		count[r.Status]++
	}
	var there []string
	if n := count[progress.Exists]; n > 0 {
		there = append(there, fmt.Sprintf("%d there already", n))
	}
	if n := count[progress.Mounted]; n > 0 {
		there = append(there, fmt.Sprintf("%d from another repository", n))
	}
	took := now.Sub(t.began)
	text := fmt.Sprintf("%s %s: %s in %s", word, title, bytesText(t.moved), spanText(took))
	if t.moved > 0 && took >= time.Second {
		text += fmt.Sprintf(", %s/s", bytesText(int64(float64(t.moved)/took.Seconds())))
	}
	if len(there) > 0 {
		text += "; " + strings.Join(there, ", ")
	}
	return text
}

func statusText(e progress.Event) string {
	if e.Status == progress.Waiting && e.PID > 0 {
		return fmt.Sprintf("waiting for process %d", e.PID)
	}
	return string(e.Status)
}

func shortDigest(d digest.Digest) string {
	if _, hex, ok := strings.Cut(d.String(), ":"); ok {
		return hex[:min(12, len(hex))]
	}
	return d.String()
}

func bytesText(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func spanText(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
