// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/progress"
)

// Waits leads what is known of waits for locks to the pull that waits. The zero value is ready for use. It lets
// pulls that are made after each other tell for which process a layer waits.
type Waits struct {
	mu   sync.Mutex
	who  *progress.Reporter
	what map[string]ocispec.Descriptor // by rank and name of the lock
}

// Tell takes what [state.Config.Waiting] hears. It reports whether the progress of a pull shows the wait.
func (w *Waits) Tell(b *lock.BusyError) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	desc, ok := w.what[b.Rank.String()+" "+b.Name]
	if !ok || len(b.Owners) == 0 {
		return false
	}
	return w.who.Waits(desc, b.Owners[0].PID)
}

// note says which descriptor waits for a lock.
func (w *Waits) note(who *progress.Reporter, rank lock.Rank, name string, desc ocispec.Descriptor) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.who != who {
		w.who, w.what = who, map[string]ocispec.Descriptor{}
	}
	w.what[rank.String()+" "+name] = desc
}

// leastWait is the shortest bound of a lock that is worth being begun anew.
const leastWait = 10 * time.Millisecond

// patiently takes a lock that another pull may hold for as long as a layer takes to arrive. With
// Options.Patient the wait begins anew as long as the holder has got on meanwhile.
func (p *puller) patiently(ctx context.Context, take func() error) error {
	seen := map[int]int64{}
	for {
		err := take()
		var busy *lock.BusyError
		if !p.opt.Patient || !errors.As(err, &busy) || ctx.Err() != nil || busy.Waited < leastWait {
			return err
		}
		moved := len(busy.Owners) == 0 // it has just let go
		for _, o := range busy.Owners {
			n, err := transferred(o.PID)
			before, known := seen[o.PID]
			moved = moved || err == nil && (!known || n != before)
			seen[o.PID] = n
		}
		if !moved {
			return err
		}
	}
}

// transferred is how many bytes a process has read and written so far, to sockets and files alike
// (proc_pid_io(5)).
func transferred(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if key == "rchar" || key == "wchar" {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}
