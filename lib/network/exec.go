// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
)

// pluginTime bounds one run of a plugin.
const pluginTime = 2 * time.Minute

// maxAnswer bounds what a plugin may say, in bytes.
const maxAnswer = 4 << 20

// chain keeps the result of each plugin of a network as it comes, so that DEL has it also when a later plugin, or
// this process, did not come to its end. libcni keeps that of the last one alone, and in memory (see Host.cni).
type chain struct {
	last json.RawMessage             // the last result of ADD
	keep func(json.RawMessage) error // hears of each
}

// plugins runs plugins for libcni (it is an invoke.Exec). Each has a session of its own, so that no terminal interrupts
// it, and inherits the network's lock. Once begun it is let run to its end: what an interrupted one leaves,
// nobody knows.
type plugins struct {
	version.PluginDecoder
	held  *lock.Lock // is inherited
	bin   []string
	enter string // the network namespace that plays the host; empty: the caller's
	chain *chain
}

// FindInPath finds a plugin.
func (p *plugins) FindInPath(plugin string, paths []string) (string, error) {
	path, err := invoke.FindInPath(plugin, paths)
	if err != nil {
		return "", &PluginError{Plugin: plugin, Bin: p.bin}
	}
	return path, nil
}

// ExecPlugin runs a plugin. Its error is a *types.Error with what the plugin says.
func (p *plugins) ExecPlugin(_ context.Context, path string, conf []byte, env []string) ([]byte, error) {
	command := value(env, "CNI_COMMAND")
	if command != "ADD" && p.chain != nil {
		conf = withPrevious(conf, p.chain.last)
	}
	answer, err := p.run(path, conf, env)
	if command == "DEL" && err != nil && isGone(err, value(env, "CNI_NETNS")) {
		return nil, nil
	}
	if command == "ADD" && err == nil && p.chain != nil {
		p.chain.last = answer
		err = p.chain.keep(answer)
	}
	return answer, err
}

// value gives a variable of an environment; the last one counts.
func value(env []string, name string) string {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// withPrevious gives a configuration for DEL or CHECK the result of ADD where libcni has none, because ADD did not come to its
// end, or the machine has booted: some plugins find by it what they have made.
func withPrevious(conf []byte, result json.RawMessage) []byte {
	var all map[string]json.RawMessage
	if len(result) == 0 || json.Unmarshal(conf, &all) != nil || all == nil || all["prevResult"] != nil {
		return conf
	}
	all["prevResult"] = result
	out, err := json.Marshal(all)
	if err != nil {
		return conf
	}
	return out
}

// isGone tells whether a plugin fails to delete what is not there any more. The specification wants success, and not
// all plugins know. containerd takes these for success, too.
func isGone(err error, netns string) bool {
	text := err.Error()
	return netns == "" && strings.Contains(text, "no such file or directory") || strings.Contains(text, "not found")
}

func (p *plugins) run(path string, conf []byte, env []string) ([]byte, error) {
	var out, said bounded
	var cmd *exec.Cmd
	for wait := time.Millisecond; ; wait *= 2 {
		cmd = exec.Command(path)
		cmd.Env, cmd.Dir = env, "/"
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &out, &said
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if p.held != nil {
			cmd.ExtraFiles = []*os.File{p.held.File()}
		}
		err := in(p.enter, cmd.Start)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ETXTBSY) || wait > time.Second { // it is being installed
			return nil, err
		}
		time.Sleep(wait)
	}
	late := time.AfterFunc(pluginTime, func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	err := cmd.Wait()
	if !late.Stop() {
		return nil, fmt.Errorf("it was killed after %s", pluginTime)
	}
	if err == nil {
		return out.Bytes(), nil
	}
	return nil, explain(err, out.Bytes(), said.Bytes())
}

// explain makes an error of what a plugin has said on stdout, as the specification has it, or on stderr.
func explain(err error, out, said []byte) error {
	var e types.Error
	if json.Unmarshal(out, &e) == nil && e.Msg != "" {
		return &e
	}
	if text := bytes.TrimSpace(said); len(text) > 0 {
		return fmt.Errorf("%w: %.1000s", err, text)
	}
	return fmt.Errorf("%w: %.1000s", err, bytes.TrimSpace(out))
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

// Write takes everything and keeps maxAnswer bytes at most.
func (b *bounded) Write(p []byte) (int, error) {
	if room := maxAnswer - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
