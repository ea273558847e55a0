// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// hostSection is what hosts.toml says of one host (containerd, docs/hosts.md).
type hostSection struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // string or list of strings
	Client       any            `toml:"client"` // string, list of strings, list of pairs of strings
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // string or list of strings
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

type hostsFile struct {
	hostSection
	Server string                 `toml:"server"`
	Host   map[string]hostSection `toml:"host"`
}

// parseHosts reads a hosts.toml: the hosts in the order of their tables, and then the server, whose address
// is empty where the file names none. Keys that mean nothing are given back as warnings, with file and line.
// What cannot be read is errdefs.ErrInvalidArgument.
func parseHosts(data []byte, file string) (hosts []hostConfig, odd []string, err error) {
	var f hostsFile
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	err = d.Decode(&f)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			odd = append(odd, fmt.Sprintf("%s:%d: unknown key %q is ignored", file, line, strings.Join(e.Key(), ".")))
		}
		f = hostsFile{}
		err = toml.Unmarshal(data, &f)
	}
	if err != nil {
		return nil, nil, badTOML(file, err)
	}
	order, err := hostOrder(data)
	if err != nil {
		return nil, nil, badTOML(file, err)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Host)) {
		if !slices.Contains(order, name) {
			odd = append(odd, fmt.Sprintf("%s: host %q is not in a table of its own and is ignored", file, oneLine(name)))
		}
	}
	for _, name := range order {
		h, err := f.Host[name].config(name, file)
		if err == nil && name == "" {
			err = errors.New("it has no address")
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: host %q: %w: %w", file, oneLine(name), err, errdefs.ErrInvalidArgument)
		}
		hosts = append(hosts, h)
	}
	server, err := f.config(f.Server, file)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: server %q: %w: %w", file, oneLine(f.Server), err, errdefs.ErrInvalidArgument)
	}
	return append(hosts, server), odd, nil
}

func badTOML(file string, err error) error {
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, column := de.Position()
		return fmt.Errorf("%s:%d:%d: %s: %w", file, line, column, oneLine(de.Error()), errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%s: %s: %w", file, oneLine(err.Error()), errdefs.ErrInvalidArgument)
}

// hostOrder lists the tables [host."NAME"] in the order of the file.
func hostOrder(data []byte) ([]string, error) {
	var order []string
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var parts []string
		for k := e.Key(); k.Next(); {
			parts = append(parts, string(k.Node().Data))
		}
		if len(parts) >= 2 && parts[0] == "host" && !slices.Contains(order, parts[1]) {
			order = append(order, parts[1])
		}
	}
	return order, p.Error()
}

// config checks a section and takes it over. Files are relative to the directory of hosts.toml.
func (s hostSection) config(address, file string) (hostConfig, error) {
	h := hostConfig{from: file, override: s.OverridePath, caps: canAll}
	if err := h.setAddress(address); err != nil {
		return h, err
	}
	if len(s.Capabilities) > 0 {
		h.caps = 0
	}
	for _, name := range s.Capabilities {
		i := slices.IndexFunc(capabilityNames, func(n capabilityName) bool { return n.name == strings.ToLower(name) })
		if i < 0 {
			return h, fmt.Errorf("capabilities: %q is none", oneLine(name))
		}
		h.caps |= capabilityNames[i].one
	}
	var err error
	dir := filepath.Dir(file)
	if h.caFiles, err = stringsOf(s.CA); err != nil {
		return h, fmt.Errorf("ca: %w", err)
	}
	for i, p := range h.caFiles {
		h.caFiles[i] = within(dir, p)
	}
	if h.clientPairs, err = pairsOf(s.Client, dir); err != nil {
		return h, fmt.Errorf("client: %w", err)
	}
	h.skipVerify = s.SkipVerify != nil && *s.SkipVerify
	for name, v := range s.Header {
		values, err := stringsOf(v)
		if err != nil || !isHeader(name, values) {
			return h, fmt.Errorf("header %q: want a text or a list of texts", oneLine(name))
		}
		if h.header == nil {
			h.header = http.Header{}
		}
		h.header[http.CanonicalHeaderKey(name)] = values
	}
	if s.DialTimeout != "" {
		if h.dialTimeout, err = time.ParseDuration(s.DialTimeout); err != nil || h.dialTimeout < 0 {
			return h, fmt.Errorf("dial_timeout: %q is no duration", oneLine(s.DialTimeout))
		}
	}
	// A host that is named for HTTP and has certificates is tried with TLS first.
	tls := len(h.caFiles) > 0 || len(h.clientPairs) > 0 || s.SkipVerify != nil
	if h.scheme == "http" && tls && !strings.HasSuffix(h.host, ":80") {
		h.scheme = ""
	}
	return h, nil
}

// setAddress reads the address of a host: [http[s]://]HOST[:PORT][/PATH].
func (h *hostConfig) setAddress(address string) error {
	if address == "" {
		return nil
	}
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return errors.New("it is no address of the form https://HOST[:PORT][/PATH]")
	}
	h.scheme, h.host, h.path = u.Scheme, u.Host, u.Path
	if h.path != "" {
		h.path = path.Clean(h.path)
	}
	if !h.override && !strings.HasSuffix(h.path, "/v2") {
		h.path = path.Join("/", h.path, "v2")
	}
	return nil
}

func within(dir, p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(dir, p)
}

// stringsOf reads a text or a list of texts.
func stringsOf(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, len(v))
		for i, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, errors.New("want a text or a list of texts")
			}
			list[i] = s
		}
		return list, nil
	}
	return nil, errors.New("want a text or a list of texts")
}

// pairsOf reads client certificates: each is one file, or a pair of certificate and key.
func pairsOf(v any, dir string) ([]keyPair, error) {
	var pairs []keyPair
	list, ok := v.([]any)
	if s, one := v.(string); one {
		list, ok = []any{s}, true
	}
	if v != nil && !ok {
		return nil, errors.New("want a file, a list of files, or a list of pairs of files")
	}
	for _, x := range list {
		files, err := stringsOf(x)
		_, one := x.(string)
		if err != nil || len(files) != 2 && !one {
			return nil, errors.New("want a file, a list of files, or a list of pairs of files")
		}
		pairs = append(pairs, keyPair{within(dir, files[0]), within(dir, files[len(files)-1])})
	}
	return pairs, nil
}

// isHeader tells whether name and values can stand in a request.
func isHeader(name string, values []string) bool {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r > 0x7e || !isTokenByte(byte(r)) }) {
		return false
	}
	return !slices.ContainsFunc(values, func(v string) bool { return strings.ContainsAny(v, "\r\n\x00") })
}
