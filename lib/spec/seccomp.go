// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const maxProfile = 4 << 20

// loadProfile reads a seccomp profile of docker's format, of which that of the OCI is a part. It follows
// the capabilities that s has.
func loadProfile(file string, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	option := "seccomp=" + file
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, invalid("security-opt", option, "%v; want unconfined or a file", errOnly(err))
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, invalid("security-opt", option, "not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err != nil {
		return nil, invalid("security-opt", option, "%v", errOnly(err))
	}
	if len(b) > maxProfile {
		return nil, invalid("security-opt", option, "larger than %d bytes", maxProfile)
	}
	p, err := seccomp.LoadProfile(string(b), s)
	if err != nil {
		return nil, invalid("security-opt", option, "%v", err)
	}
	if p == nil {
		return nil, invalid("security-opt", option, "an empty profile; want seccomp=unconfined for none")
	}
	return p, nil
}

// WithSeccomp fills in docker's default seccomp profile for the capabilities that s grants, unless s
// has a profile. It is for the bundle on its way to an engine: see Result.DefaultSeccomp. The x32 ABI,
// which no image platform stands for, is left out: its calls give ENOSYS, as on a kernel without it.
//
// The engine has libseccomp compile a profile that it does not know yet, in a time that grows with the square of the
// number of rules. Without x32 it takes half as long, with the rules of [joinRules] another fifth less.
func WithSeccomp(s *specs.Spec) error {
	if s.Process == nil || s.Process.Capabilities == nil || s.Linux == nil {
		return fmt.Errorf("add seccomp profile: specification without process.capabilities or linux: %w", errdefs.ErrInvalidArgument)
	}
	if s.Linux.Seccomp != nil {
		return nil
	}
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return fmt.Errorf("add seccomp profile: %w", err)
	}
	p.Architectures = slices.DeleteFunc(p.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	p.Syscalls = joinRules(p.Syscalls)
	s.Linux.Seccomp = p
	return nil
}

// joinRules gives rules that say the same in fewer words: of two that compare one argument of one system
// call with values that differ in one bit, it makes one that leaves that bit out. (The default profile has
// a rule for each address family of socket.)
func joinRules(rules []specs.LinuxSyscall) []specs.LinuxSyscall {
	var out []specs.LinuxSyscall
	for _, r := range rules {
		if len(r.Args) == 1 && r.Args[0].Op == specs.OpEqualTo {
			a := r.Args[0]
			r.Args = []specs.LinuxSeccompArg{{Index: a.Index, Value: ^uint64(0), ValueTwo: a.Value, Op: specs.OpMaskedEqual}}
		}
		out = append(out, r)
	}
	for i := 0; i < len(out); i++ {
		// What has been joined may fit what has been passed over.
		for j := 0; j < i; j++ {
			if joinRule(&out[j], out[i]) {
				out = slices.Delete(out, i, i+1)
				i, j = j, -1
			}
		}
	}
	for _, r := range out {
		if len(r.Args) == 1 && r.Args[0].Op == specs.OpMaskedEqual && r.Args[0].Value == ^uint64(0) {
			r.Args[0].Op, r.Args[0].Value, r.Args[0].ValueTwo = specs.OpEqualTo, r.Args[0].ValueTwo, 0
		}
	}
	return out
}

// joinRule makes a say what both say, if one rule can.
func joinRule(a *specs.LinuxSyscall, b specs.LinuxSyscall) bool {
	masked := func(r specs.LinuxSyscall) bool { return len(r.Args) == 1 && r.Args[0].Op == specs.OpMaskedEqual }
	if !masked(*a) || !masked(b) || !slices.Equal(a.Names, b.Names) || a.Action != b.Action ||
		a.ErrnoRet != b.ErrnoRet || a.Args[0].Index != b.Args[0].Index || a.Args[0].Value != b.Args[0].Value {
		return false
	}
	bit := a.Args[0].ValueTwo ^ b.Args[0].ValueTwo
	if bits.OnesCount64(bit) != 1 {
		return false
	}
	a.Args[0].Value &^= bit // the mask
	a.Args[0].ValueTwo &^= bit
	return true
}
