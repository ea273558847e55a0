// SPDX-License-Identifier: Apache-2.0

package shim

import "testing"

// TestEarlyEnds: the end of a child that nobody knows is kept only while an engine may still tell its pid, so that
// they do not add up and no later process with the same pid is taken for dead.
func TestEarlyEnds(t *testing.T) {
	s := newServer(Config{})
	s.helpers[10] = true
	s.prepared = &engineProcess{s: s} // it may wait for its request as long as the supervisor lives
	s.reaped(12, ending{})
	if len(s.early) != 0 {
		t.Errorf("kept: %v", s.early)
	}
	done := s.expect()
	s.reaped(10, ending{}) // an engine
	s.reaped(13, ending{status: 3})
	if len(s.early) != 1 || s.early[13].status != 3 || s.helpers[10] {
		t.Errorf("kept: %v, helpers %v", s.early, s.helpers)
	}
	done()
	if len(s.early) != 0 {
		t.Errorf("kept: %v", s.early)
	}
}
