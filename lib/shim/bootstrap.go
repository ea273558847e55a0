// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"

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
	var first string
	fields := map[protowire.Number][]byte{}
	var extensions [][]byte
	for rest := input; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return badInput(n)
		}
		rest = rest[n:]
		if n = protowire.ConsumeFieldValue(num, typ, rest); n < 0 {
			return badInput(n)
		}
		if typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(rest)
			if num == 1 {
				first = string(v)
			}
			if num == 8 {
				extensions = append(extensions, v)
			}
			fields[num] = v
		}
		if typ == protowire.VarintType && num == 3 {
			level, _ := protowire.ConsumeVarint(rest)
			b.Debug = b.Debug || int32(level) < 0
		}
		rest = rest[n:]
	}
	switch {
	case len(input) == 0:
		return nil
	case first != b.ID:
		// google.protobuf.Any: type_url, value
		b.Options = &taskapi.Any{TypeURL: first, Value: append([]byte(nil), fields[2]...)}
		return nil
	}
	b.Answer = AnswerMessage
	b.Namespace = cmp.Or(string(fields[2]), b.Namespace)
	b.TTRPC = cmp.Or(string(fields[5]), b.TTRPC)
	b.Address = cmp.Or(string(fields[6]), b.Address)
	b.Sockets = cmp.Or(string(fields[9]), b.Sockets)
	for _, e := range extensions {
		if a := extension(e); a != nil && a.TypeURL == taskapi.RuncOptionsURL {
			b.Options = a
		}
	}
	return nil
}

func badInput(n int) error {
	return fmt.Errorf("bootstrap message: %w: %w", protowire.ParseError(n), errdefs.ErrInvalidArgument)
}

// extension reads the value of a containerd.runtime.bootstrap.v1.Extension; nil when it has none.
func extension(b []byte) *taskapi.Any {
	for _, f := range bytesFields(b) {
		if f.num != 1 {
			continue
		}
		a := new(taskapi.Any)
		if taskapi.Unmarshal(f.b, a) == nil {
			return a
		}
	}
	return nil
}

type bytesField struct {
	num protowire.Number
	b   []byte
}

// bytesFields gives the fields of a message that are strings, bytes or messages, up to what is malformed.
func bytesFields(b []byte) (all []bytesField) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return all
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return all
		}
		if typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b)
			all = append(all, bytesField{num, v})
		}
		b = b[n:]
	}
	return all
}

// answer is what start writes to stdout.
func (b *Bootstrap) answer(socket string) []byte {
	address := "unix://" + socket
	switch b.Answer {
	case AnswerMessage: // containerd.runtime.bootstrap.v1.BootstrapResult
		m := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), Version)
		m = protowire.AppendString(protowire.AppendTag(m, 2, protowire.BytesType), address)
		return protowire.AppendString(protowire.AppendTag(m, 3, protowire.BytesType), "ttrpc")
	case AnswerJSON:
		return answerJSON(address, oldVersion)
	}
	return []byte(address)
}

// oldVersion is the version of the task API that containerd 1.7 takes; the supervisor answers to both.
const oldVersion = 2

func answerJSON(address string, version int) []byte {
	j, err := json.Marshal(struct {
		Version  int    `json:"version"`
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}{version, address, "ttrpc"})
	if err != nil {
		return nil // three plain values
	}
	return j
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

// socket is the path of the socket of the supervisor of a group of containers.
func (b *Bootstrap) socket(group string) string {
	key := strings.Join([]string{b.Address, b.Namespace, group}, "\x00")
	return filepath.Join(cmp.Or(b.Sockets, containerdSockets), taskapi.SocketName(key))
}
