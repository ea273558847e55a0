// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"os"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is one of protobuf that is being written. What has its zero value is left out.
type message []byte

func (m *message) uint(n protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, n, protowire.VarintType), v)
}

func (m *message) bool(n protowire.Number, v bool) {
	if v {
		m.uint(n, 1)
	}
}

func (m *message) string(n protowire.Number, s string) {
	if s != "" {
		m.message(n, message(s))
	}
}

func (m *message) message(n protowire.Number, v message) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, n, protowire.BytesType), v)
}

// file names an open file: criu opens it by our /proc.
func (m *message) file(n protowire.Number, f *os.File) {
	if f != nil {
		m.uint(n, uint64(f.Fd()))
	}
}

// marshal encodes a message criu_opts. images_dir_fd must be there.
func (o *Options) marshal() (m message) {
	m.file(1, o.Images)
	m.file(17, o.Work)
	if o.Pid != 0 {
		m.uint(2, uint64(o.Pid))
	}
	m.bool(3, o.LeaveRunning)
	m.bool(4, o.Unix)
	m.bool(5, o.TCP)
	m.bool(6, o.EvasiveDevices)
	m.bool(7, o.ShellJob)
	m.bool(8, o.FileLocks)
	m.uint(9, logLevel)
	m.string(10, o.Log)
	m.bool(12, true) // notify_scripts: the notices
	m.string(13, o.Root)
	m.string(14, o.Parent)
	m.bool(15, o.Parent != "")
	for _, e := range o.Mounts {
		m.message(23, pair(e.Inside, e.Outside))
	}
	m.bool(24, true) // manage_cgroups
	for _, r := range o.CgroupRoots {
		m.message(25, pair(r.Controller, r.Path))
	}
	m.bool(26, o.Sibling)
	for _, i := range o.Inherit {
		in := pair(i.Key, "")
		in.uint(2, uint64(i.Fd))
		m.message(27, in)
	}
	m.uint(34, uint64(o.Cgroups))
	for _, e := range o.External {
		m.string(37, e)
	}
	if o.EmptyNamespaces != 0 {
		m.uint(38, uint64(o.EmptyNamespaces))
	}
	for _, j := range o.Join {
		m.message(39, pair(j.Type, j.Path))
	}
	m.string(44, o.Freezer)
	m.bool(50, true) // orphan_pts_master
	m.string(51, o.Config)
	m.bool(66, o.AnyMode)
	return m
}

// pair is a message of two strings.
func pair(one, two string) (m message) {
	m.string(1, one)
	m.string(2, two)
	return m
}

// answer is a message criu_resp.
type answer struct {
	verb    Verb
	ok      bool
	errno   uint64
	notice  Notice
	version int
	tracks  bool // mem_track of the features
}

// parse reads an answer. What it does not know it passes over.
func parse(data []byte) (a answer, err error) {
	err = fields(data, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 1:
			a.verb = Verb(v)
		case 2:
			a.ok = v != 0
		case 5:
			return fields(b, func(n protowire.Number, v uint64, b []byte) error {
				switch n {
				case 1:
					a.notice.Name = string(b)
				case 2:
					a.notice.Pid = int(int32(v))
				}
				return nil
			})
		case 7:
			a.errno = v // its text, field 9, is the first error of the log, which is there also when all goes well
		case 8:
			return fields(b, func(n protowire.Number, v uint64, _ []byte) error {
				a.tracks = a.tracks || n == 1 && v != 0
				return nil
			})
		case 10:
			return fields(b, func(n protowire.Number, v uint64, _ []byte) error {
				switch n {
				case 1:
					a.version += int(int32(v)) * 10000
				case 2:
					a.version += int(int32(v)) * 100
				case 4:
					a.version += int(int32(v))
				}
				return nil
			})
		}
		return nil
	})
	return a, err
}

// fields calls fn with each field of a message: a number, or bytes.
func fields(data []byte, fn func(n protowire.Number, v uint64, b []byte) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := fn(num, v, b); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
