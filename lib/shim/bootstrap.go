// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"

	"ctrd.dev/ctrd/lib/taskapi"
)

// Bootstrap is how containerd starts and cleans up a shim (containerd's docs/runtime-v2.md): by command line and
// environment, and since 2.3 by a message on stdin.
type Bootstrap struct {
	Namespace, ID string
	Bundle        string       // absolute
	Address       string       // of containerd's API; part of what the socket's name is made of
	TTRPC         string       // address on which containerd takes events
	Sockets       string       // directory of the socket; empty: /run/containerd/s
	Debug         bool         // containerd wants to read more
	Options       *taskapi.Any // of the engine
	// Answer is the form of the answer to start: containerd's before 1.7 read a bare address, those before 2.3
	// JSON, and later ones a message.
	Answer Answer
}

// Answer is a form of the answer to start.
type Answer int

// The forms.
const (
	AnswerAddress Answer = iota
	AnswerJSON
	AnswerMessage
)

// containerdSockets is where containerd's shims have their sockets.
const containerdSockets = "/run/containerd/s"

// ReadInput takes what containerd writes to the stdin of start: a message that names the container
// (containerd.runtime.bootstrap.v1.BootstrapParams), or, before 2.3, the options alone or nothing. What the
// message says wins.
func (b *Bootstrap) ReadInput(input []byte) error {
	p, message, err := taskapi.ParseStart(input, b.ID, b.Namespace)
	if err != nil {
		return err
	}
	for i := range p.Extensions {
		if p.Extensions[i].Is(taskapi.RuncOptionsURL) {
			b.Options = &p.Extensions[i]
		}
	}
	if !message {
		return nil
	}
	b.Answer = AnswerMessage
	b.Debug = b.Debug || p.LogLevel < 0
	b.TTRPC = cmp.Or(p.TTRPCAddress, b.TTRPC)
	b.Address = cmp.Or(p.GRPCAddress, b.Address)
	b.Sockets = cmp.Or(p.SocketDir, b.Sockets)
	return nil
}

// result tells where the supervisor listens. containerd 1.7 refuses any version of the task API but 2.
func (b *Bootstrap) result(address string) taskapi.Bootstrap {
	r := taskapi.Bootstrap{Version: 2, Address: address, Protocol: "ttrpc"}
	if b.Answer == AnswerMessage {
		r.Version = Version
	}
	return r
}

// answer is what start writes to stdout.
func (b *Bootstrap) answer(address string) []byte {
	switch b.Answer {
	case AnswerMessage:
		return b.result(address).Message()
	case AnswerJSON:
		return b.result(address).JSON()
	}
	return []byte(address)
}

// Info is what -info writes (containerd.types.RuntimeInfo): who the shim is and what its engine can do. options is
// what came on stdin, a google.protobuf.Any or nothing; features tells what the engine that they name can do.
func Info(version string, options []byte, features func(binary string) ([]byte, error)) ([]byte, error) {
	info := taskapi.RuntimeInfo{Name: runtimeName, Version: &taskapi.RuntimeVersion{Version: version}}
	if len(options) > 0 {
		info.Options = new(taskapi.Any)
		if err := taskapi.Unmarshal(options, info.Options); err != nil {
			return nil, err
		}
	}
	o, err := readOptions(info.Options)
	if err != nil {
		return nil, err
	}
	value, err := features(o.BinaryName)
	if err != nil {
		return nil, err
	}
	info.Features = &taskapi.Any{TypeURL: taskapi.OCIFeatures, Value: value}
	return taskapi.Marshal(&info), nil
}

const runtimeName = "io.ctrd.ctr.v1"

// socket is the path of the socket of the supervisor of a group of containers. Names that clients have chosen must
// not be able to lead to another supervisor's.
func (b *Bootstrap) socket(group string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{b.Address, b.Namespace, group}, "\x00")))
	return filepath.Join(cmp.Or(b.Sockets, containerdSockets), hex.EncodeToString(sum[:16]))
}
