// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Bounds of blkio.weight.
const (
	minWeight = 10
	maxWeight = 1000
)

func (o Limits) blockIO() (*specs.LinuxBlockIO, error) {
	b := &specs.LinuxBlockIO{}
	set := false
	if o.BlkioWeight != 0 {
		if o.BlkioWeight < minWeight || o.BlkioWeight > maxWeight {
			return nil, invalid("blkio-weight", itoa(o.BlkioWeight), "want a number from %d to %d", minWeight, maxWeight)
		}
		weight := uint16(o.BlkioWeight)
		b.Weight, set = &weight, true
	}
	for _, text := range o.BlkioWeightDevice {
		name, value, err := deviceValue("blkio-weight-device", text)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || n < minWeight || n > maxWeight {
			return nil, invalid("blkio-weight-device", text, "want /dev/NAME:WEIGHT with a weight from %d to %d", minWeight, maxWeight)
		}
		weight := uint16(n)
		d := specs.LinuxWeightDevice{Weight: &weight}
		if d.Major, d.Minor, err = blockDevice("blkio-weight-device", text, name); err != nil {
			return nil, err
		}
		b.WeightDevice, set = append(b.WeightDevice, d), true
	}
	for _, f := range []struct {
		flag   string
		values []string
		to     *[]specs.LinuxThrottleDevice
		parse  func(flag, text string) (ThrottleDevice, error)
	}{
		{"device-read-bps", o.DeviceReadBps, &b.ThrottleReadBpsDevice, parseBps},
		{"device-write-bps", o.DeviceWriteBps, &b.ThrottleWriteBpsDevice, parseBps},
		{"device-read-iops", o.DeviceReadIOps, &b.ThrottleReadIOPSDevice, parseIOps},
		{"device-write-iops", o.DeviceWriteIOps, &b.ThrottleWriteIOPSDevice, parseIOps},
	} {
		for _, text := range f.values {
			t, err := f.parse(f.flag, text)
			if err != nil {
				return nil, err
			}
			d := specs.LinuxThrottleDevice{Rate: t.Rate}
			if d.Major, d.Minor, err = blockDevice(f.flag, text, t.Path); err != nil {
				return nil, err
			}
			*f.to, set = append(*f.to, d), true
		}
	}
	if !set {
		return nil, nil
	}
	return b, nil
}

// ThrottleDevice is a block device and how much of it may be used: bytes or operations a second.
type ThrottleDevice struct {
	Path string
	Rate uint64
}

// ParseBps parses docker's --device-read-bps: /dev/NAME:SIZE, with a size such as 1m, in bytes a second and
// above 0. The device is not looked at.
func ParseBps(text string) (ThrottleDevice, error) { return parseBps("device-read-bps", text) }

func parseBps(flag, text string) (ThrottleDevice, error) {
	name, value, err := deviceValue(flag, text)
	if err != nil {
		return ThrottleDevice{}, err
	}
	n, err := units.RAMInBytes(value)
	if err != nil || n <= 0 {
		return ThrottleDevice{}, invalid(flag, text, "want /dev/NAME:SIZE with a size such as 1m")
	}
	return ThrottleDevice{name, uint64(n)}, nil
}

func parseIOps(flag, text string) (ThrottleDevice, error) {
	name, value, err := deviceValue(flag, text)
	if err != nil {
		return ThrottleDevice{}, err
	}
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 0 {
		return ThrottleDevice{}, invalid(flag, text, "want /dev/NAME:NUMBER with a number of operations a second")
	}
	return ThrottleDevice{name, n}, nil
}

func deviceValue(flag, text string) (name, value string, err error) {
	i := strings.LastIndex(text, ":")
	if i < 0 || !filepath.IsAbs(text[:i]) || strings.ContainsRune(text, 0) {
		return "", "", invalid(flag, text, "want /dev/NAME:VALUE")
	}
	return filepath.Clean(text[:i]), text[i+1:], nil
}

func blockDevice(flag, text, name string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return 0, 0, invalid(flag, text, "%s: %v", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, invalid(flag, text, "%s is no block device", name)
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}
