// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	attempts      = 6
	firstPause    = 200 * time.Millisecond
	longestPause  = 10 * time.Second
	longestRetry  = 90 * time.Second // of a server's Retry-After
	retryBudget   = 5 * time.Minute  // of all pauses of one repository at one host
	drainedAnswer = 64 << 10
)

// retry repeats requests that failed for a reason that may pass, as long as the budget of pauses lasts.
type retry struct {
	inner    http.RoundTripper
	attempts int
	longest  time.Duration // the longest Retry-After that is waited for
	hasty    bool          // what has timed out is not waited for again
	left     atomic.Int64  // nanoseconds of pauses that may still be made
	pause    func(context.Context, time.Duration) error
}

// RoundTrip implements http.RoundTripper. The last answer is given to the caller, whatever it is.
func (r *retry) RoundTrip(in *http.Request) (*http.Response, error) {
	for n := 1; ; n++ {
		resp, err := r.inner.RoundTrip(in)
		if n >= r.attempts || in.Context().Err() != nil || !mayPass(resp, err) || r.hasty && isTimeout(err) {
			return resp, err
		}
		again, ok := fromStart(in)
		if !ok {
			return resp, err
		}
		in = again
		wait := backOff(n)
		if resp != nil {
			after := retryAfter(resp.Header.Get("Retry-After"), time.Now())
			if after > r.longest {
				return resp, nil
			}
			wait = max(wait, after)
		}
		if r.left.Add(-int64(wait)) < 0 {
			return resp, err
		}
		if resp != nil {
			// What is read to its end leaves the connection usable.
			io.CopyN(io.Discard, resp.Body, drainedAnswer)
			resp.Body.Close()
		}
		if err := r.pause(in.Context(), wait); err != nil {
			return nil, err
		}
	}
}

// wait pauses after the nth failure of something that RoundTrip does not repeat, for as long as the server asks.
// The error is the failure itself when that is too long or the budget is spent.
func (r *retry) wait(ctx context.Context, n int, failure error) error {
	d := backOff(n)
	var later *laterError
	if errors.As(failure, &later) {
		if later.after > r.longest {
			return failure
		}
		d = max(d, later.after)
	}
	if r.left.Add(-int64(d)) < 0 {
		return failure
	}
	return r.pause(ctx, d)
}

// mayPass tells whether the same request may succeed later.
func mayPass(resp *http.Response, err error) bool {
	if err != nil {
		return isBroken(err)
	}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// isBroken tells whether err says that a connection was lost or too slow. A refused connection or a
// handshake that was turned down is an answer, not an accident.
func isBroken(err error) bool {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errIdle), errors.Is(err, errSlow),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return true
	}
	return isCutOff(err) || isTimeout(err)
}

// isCutOff tells whether an answer ended within its header, of which package net/http only says that it is
// malformed. What was never HTTP does not begin with an H.
func isCutOff(err error) bool {
	text := err.Error()
	if !strings.Contains(text, "transport connection broken") {
		return false
	}
	for _, what := range []string{"malformed MIME header", `malformed HTTP response "H`, `malformed HTTP version "H`, "malformed HTTP status code"} {
		if strings.Contains(text, what) {
			return true
		}
	}
	return false
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// backOff is the pause after the nth failure: it doubles, and half of it is random so that many
// pulls that failed together do not come back together.
func backOff(n int) time.Duration {
	d := min(firstPause<<min(n-1, 16), longestPause)
	return d/2 + rand.N(d/2+1)
}

// retryAfter reads a Retry-After header (RFC 9110 section 10.2.3): seconds or a date. It is zero for
// what cannot be read.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
