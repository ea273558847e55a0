// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"sync"
	"time"
)

// rates are what containers and pods use of the processors at the moment: the difference between two questions about them.
// Nothing runs between the questions. The zero value is ready for use.
type rates struct {
	mu  sync.Mutex
	all map[string]sample
}

type sample struct {
	at   time.Time
	used uint64 // nanoseconds
	rate uint64 // nanoseconds in a second, over the time before at
	has  bool   // there is a rate
}

// of gives the rate of what is called key, which has used so much by now. The first question is answered with the rate since
// begun, when it began to run; when that is not known, with nothing. A rate is taken over the time least at least; a sample is
// kept for the next one for the time most.
func (r *rates) of(key string, begun, now time.Time, used uint64, least, most time.Duration) (rate uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, known := r.all[key]
	passed := now.Sub(last.at)
	if known && passed < least && used >= last.used {
		return last.rate, last.has
	}
	next := sample{at: now, used: used}
	if !(known && used >= last.used && passed < most) {
		last, passed = sample{}, 0
		if !begun.IsZero() {
			passed = now.Sub(begun)
		}
	}
	if passed > 0 {
		next.rate, next.has = uint64(float64(used-last.used)/passed.Seconds()), true
	}
	if r.all == nil {
		r.all = map[string]sample{}
	}
	r.all[key] = next
	if !known {
		for other, s := range r.all {
			if now.Sub(s.at) > most {
				delete(r.all, other)
			}
		}
	}
	return next.rate, next.has
}
