// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var (
	tmpfsDefaults = []string{"noexec", "nosuid", "nodev"}
	// tmpfsSwitches pairs each switch with what it undoes.
	tmpfsSwitches = map[string]string{
		"exec": "noexec", "suid": "nosuid", "dev": "nodev", "rw": "ro", "async": "sync", "atime": "noatime",
		"diratime": "nodiratime", "relatime": "norelatime", "strictatime": "nostrictatime",
	}
	tmpfsValues = []string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"}
)

// ParseTmpfs parses docker's --tmpfs: /DESTINATION[:OPTION,...] with the options of tmpfs(5) and the mount
// switches; noexec, nosuid and nodev unless they are undone.
func ParseTmpfs(text string) (Volume, error) {
	v := Volume{flag: "tmpfs", text: text}
	p, list, _ := strings.Cut(text, ":")
	dst, err := v.destination(p)
	if err != nil {
		return v, err
	}
	options := slices.Clone(tmpfsDefaults)
	set := func(o string, excludes ...string) {
		options = slices.DeleteFunc(options, func(old string) bool { return old == o || slices.Contains(excludes, old) })
		options = append(options, o)
	}
	for o := range strings.SplitSeq(list, ",") {
		key, value, hasValue := strings.Cut(o, "=")
		switch {
		case o == "":
		case hasValue && slices.Contains(tmpfsValues, key):
			if value, err = v.tmpfsValue(key, value); err != nil {
				return v, err
			}
			options = slices.DeleteFunc(options, func(old string) bool { return strings.HasPrefix(old, key+"=") })
			options = append(options, key+"="+value)
		case tmpfsSwitches[o] != "":
			set(o, tmpfsSwitches[o])
		default:
			on := ""
			for yes, no := range tmpfsSwitches {
				if no == o {
					on = yes
				}
			}
			if on == "" {
				return v, v.invalid("option %q is not one of a tmpfs", o)
			}
			set(o, on)
		}
	}
	v.Mount = specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: dst, Options: options}
	return v, nil
}

// tmpfsValue checks a value that the kernel would refuse with no more than EINVAL.
func (v Volume) tmpfsValue(key, value string) (string, error) {
	var err error
	switch key {
	case "mode":
		_, err = strconv.ParseUint(value, 8, 12)
	case "uid", "gid":
		_, err = strconv.ParseUint(value, 10, 31)
	case "size":
		if percent, ok := strings.CutSuffix(value, "%"); ok {
			_, err = strconv.ParseUint(percent, 10, 32)
			break
		}
		var n int64
		n, err = units.RAMInBytes(value)
		if err == nil && n >= 0 {
			return strconv.FormatInt(n, 10), nil
		}
		err = errors.Join(err, strconv.ErrRange)
	default:
		_, err = strconv.ParseUint(strings.TrimRight(value, "kmgKMG"), 10, 63)
	}
	if err != nil {
		return "", v.invalid("%s=%s is no value for it", key, value)
	}
	return value, nil
}
