// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

const (
	// killedPushes is how many pushes are killed until they succeed; CTRD_KILL_PUSHES says otherwise.
	killedPushes = 4
	// killsOfPush bounds how often one push is killed before it is left alone.
	killsOfPush = 6
)

// TestKillsOfPush kills ctr-push at random moments, also beside another that pushes the same image. The next one brings the
// image whole to a registry that others wrote, and nothing of the uploads is left here.
func TestKillsOfPush(t *testing.T) {
	t.Parallel()
	seed := number("CTRD_KILL_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CTRD_KILL_SEED=%d", seed)
	// By another name of the registry: otherwise the blobs are there, or mounted.
	repository := func(w *world.World) string {
		return "localhost" + registry[strings.LastIndex(registry, ":"):] + "/" + strings.ToLower(filepath.Base(w.Dir)) + ":1"
	}
	first := world.New(t, bin)
	first.Must(t, "ctr-pull", "-q", large)
	reference := tree(t, first, large)
	usual := first.Run(t, nil, "ctr-push", "-q", large, repository(first))
	if usual.Status != 0 {
		t.Fatal(usual)
	}
	kills := 0
	for i := range number("CTRD_KILL_PUSHES", killedPushes) {
		w := world.New(t, bin)
		w.Must(t, "ctr-pull", "-q", large)
		p := &pusher{T: t, w: w, r: rand.New(rand.NewPCG(seed, uint64(i))), to: repository(w), usual: usual.Took}
		for p.kills < killsOfPush && !p.once() {
		}
		kills += p.kills
		want := w.Must(t, "ctr-push", "-q", large, p.to)
		if left, err := filepath.Glob(filepath.Join(w.State, "uploads", "*")); err != nil || len(left) > 0 {
			t.Errorf("push %d: left %q, %v", i, left, err)
		}
		w.Must(t, "ctr-image", "rm", large)
		if got := w.Must(t, "ctr-pull", "-q", p.to); got != want {
			t.Errorf("push %d: pushed %q, pulled %q", i, want, got)
		}
		w.Must(t, "ctrd", "fsck", "--deep")
		if tree(t, w, p.to) != reference {
			t.Errorf("push %d: the image is not what it was", i)
		}
		w.Must(t, "ctr-image", "rm", p.to)
		w.Empty(t)
	}
	t.Logf("%d kills", kills)
}

// pusher is one image being pushed by processes that are killed.
type pusher struct {
	*testing.T
	w     *world.World
	r     *rand.Rand
	to    string
	usual time.Duration
	kills int
}

// once starts a push, sometimes two, and kills one of them at a random moment. It tells whether the image was pushed.
func (p *pusher) once() (done bool) {
	all := make([]*exec.Cmd, 1+p.r.IntN(6)/5)
	for i := range all {
		all[i] = exec.Command(filepath.Join(bin, "ctr-push"), "-q", large, p.to)
		all[i].Env = p.w.Environ()
		if err := all[i].Start(); err != nil {
			p.Fatal(err)
		}
	}
	time.Sleep(time.Duration(p.r.Float64() * float64(p.usual) / 2))
	all[0].Process.Kill()
	for i, cmd := range all {
		cmd.Wait()
		switch status := cmd.ProcessState.ExitCode(); {
		case status == 0:
			done = true
		case i == 0 && status < 0:
			p.kills++
		default:
			p.Errorf("ctr-push, beside one that was killed: status %d", status)
		}
	}
	p.w.Whole(p)
	return done
}
