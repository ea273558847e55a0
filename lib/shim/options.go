// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"

	"ctrd.dev/ctrd/lib/taskapi"
)

// optionsURL is the type of the options that containerd's clients send for a runc-like engine
// (containerd/api, types/runc/options/oci.proto).
const optionsURL = "containerd.runc.v1.Options"

// runcOptions is that message.
type runcOptions struct {
	noPivotRoot, noNewKeyring bool
	shimCgroup                string
	ioUID, ioGID              int
	binary, root              string // of an OCI engine
	systemdCgroup             bool
	criuImages, criuWork      string
}

// readOptions decodes the options of Create. Those of another type are not for us, and are left alone.
func readOptions(a *taskapi.Any) (o runcOptions, err error) {
	if a == nil || a.TypeURL != optionsURL {
		return o, nil
	}
	flags := map[protowire.Number]*bool{1: &o.noPivotRoot, 2: &o.noNewKeyring, 9: &o.systemdCgroup}
	numbers := map[protowire.Number]*int{4: &o.ioUID, 5: &o.ioGID}
	texts := map[protowire.Number]*string{3: &o.shimCgroup, 6: &o.binary, 7: &o.root, 10: &o.criuImages, 11: &o.criuWork}
	for b := a.Value; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return o, badOptions(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return o, badOptions(n)
		}
		switch typ {
		case protowire.VarintType:
			v, _ := protowire.ConsumeVarint(b)
			if to := flags[num]; to != nil {
				*to = v != 0
			} else if to := numbers[num]; to != nil {
				*to = int(uint32(v))
			}
		case protowire.BytesType:
			v, _ := protowire.ConsumeBytes(b)
			if to := texts[num]; to != nil {
				*to = string(v)
			}
		}
		b = b[n:]
	}
	return o, nil
}

func badOptions(n int) error {
	return fmt.Errorf("options: %w: %w", protowire.ParseError(n), errdefs.ErrInvalidArgument)
}
