// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 engines run prestart hooks, though they are deprecated

package ask

import (
	"math"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestHookTime(t *testing.T) {
	hooks := func(timeouts ...int) (all []specs.Hook) {
		for _, s := range timeouts {
			all = append(all, specs.Hook{Timeout: &s})
		}
		return all
	}
	for name, c := range map[string]struct {
		hooks *specs.Hooks
		want  time.Duration
	}{
		"none":      {nil, 0},
		"poststop":  {&specs.Hooks{Poststop: []specs.Hook{{}}}, 0},
		"each":      {&specs.Hooks{Prestart: hooks(1), CreateRuntime: hooks(2, 3), CreateContainer: hooks(4), StartContainer: hooks(5), Poststart: hooks(6)}, 21 * time.Second},
		"negative":  {&specs.Hooks{Prestart: hooks(-1, 2)}, 2 * time.Second},
		"unbounded": {&specs.Hooks{Prestart: hooks(1), Poststart: []specs.Hook{{}}}, Unbounded},
		"one long":  {&specs.Hooks{Prestart: hooks(math.MaxInt)}, Unbounded},
		"many long": {&specs.Hooks{Prestart: hooks(2_000_000_000, 2_000_000_000)}, Unbounded},
	} {
		if got := HookTime(c.hooks); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if got := PoststopTime(c.hooks); name == "poststop" && got != Unbounded || name != "poststop" && got != 0 {
			t.Errorf("%s: %v after the stop", name, got)
		}
	}
}
