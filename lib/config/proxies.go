// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

const proxyPlugins = "proxy_plugins"

// Proxies gives the table proxy_plugins of the configuration that Load reads without a name. It is for commands that need no more
// of it: what has no such table costs a look at the file, and mistakes elsewhere than in that table are not theirs, as long as the
// files are TOML. It reads the table by itself, since the decoder that [Load] needs would be a large part of a small command.
func Proxies() (map[string]ProxyPlugin, error) {
	texts, err := read("")
	if err != nil {
		return nil, err
	}
	return proxies(texts)
}

// proxies reads the table of some files, of which a later one goes before an earlier one key by key.
func proxies(texts []source) (map[string]ProxyPlugin, error) {
	r := proxyReader{all: map[string]ProxyPlugin{}, checker: checker{w: where{}}}
	for _, t := range texts {
		if !bytes.Contains(bytes.ToLower(t.data), []byte(proxyPlugins)) { // the decoder takes any case
			continue
		}
		r.file, r.seen = t.file, map[string]origin{}
		err := walk(t.data, r.entry)
		if wrong := (syntaxError{}); errors.As(err, &wrong) {
			r.checker.all = append(r.checker.all, fmt.Sprintf("%s:%d: %s", t.file, wrong.line, oneLine(wrong.text)))
		}
	}
	if len(r.checker.all) == 0 {
		for _, name := range slices.Sorted(maps.Keys(r.all)) {
			r.proxy(r.all[name], proxyPlugins, name)
		}
	}
	if len(r.checker.all) > 0 {
		return nil, r.checker.all
	}
	return r.all, nil
}

// proxyReader reads the table proxy_plugins. What is wrong with it is in its checker.
type proxyReader struct {
	checker
	all  map[string]ProxyPlugin
	file string
	seen map[string]origin // of the keys of this file, by their text
}

// origin is what made a key.
type origin string

const (
	byHeader origin = "a header" // [KEY]
	byDots   origin = "a key"    // KEY.x = ...
	byInside origin = ""         // [KEY.x]: the header of KEY may follow
	byValue  origin = "a value"  // KEY = ...
)

// entry takes a key of a file.
func (r *proxyReader) entry(e entry) {
	if strings.ToLower(e.key[0]) != proxyPlugins {
		return
	}
	r.w[keyText(e.key)] = fmt.Sprintf("%s:%d", r.file, e.line)
	if err := r.define(e); err != nil {
		r.refuse(e.key, "%s", err)
		return
	}
	isTable := e.value == nil && !e.list || e.value != nil && e.value.Kind == unstable.InlineTable
	if len(e.key) == 1 {
		if !isTable {
			r.refuse(e.key, "want a table")
		}
		if e.value != nil { // an inline table of a later file begins anew
			clear(r.all)
		}
		return
	}
	name, of := e.key[1], e.key[2:]
	p := r.all[name]
	field := ""
	if len(of) > 0 {
		field = strings.ToLower(of[0])
	}
	switch {
	case len(of) == 0:
		if !isTable {
			r.refuse(e.key, "want a table")
		}
	case len(of) == 2 && field == "exports":
		if p.Exports == nil {
			p.Exports = map[string]string{}
		}
		p.Exports[of[1]] = r.text(e)
	case len(of) > 1:
		r.unknown(e.key)
	default:
		switch field {
		case "type":
			p.Type = r.text(e)
		case "address":
			p.Address = r.text(e)
		case "snapshotter":
			p.Snapshotter = r.text(e)
		case "platform":
			p.Platform = r.text(e)
		case "exports":
			if !isTable {
				r.refuse(e.key, "want a table")
			}
			if e.value != nil {
				p.Exports = map[string]string{}
			}
		case "capabilities":
			p.Capabilities = r.texts(e)
		default:
			r.unknown(e.key)
		}
	}
	r.all[name] = p
}

// define notes what makes a key, and tells of one that may not be made that way, as TOML has it.
func (r *proxyReader) define(e entry) error {
	for n := 1; n < len(e.key); n++ {
		above, from := keyText(e.key[:n]), byInside
		is, known := r.seen[above]
		switch {
		case n <= e.table:
			continue // its own header, or the inline table around it, has been here
		case is == byValue:
			return fmt.Errorf("%s is a value", above)
		case e.value != nil && is == byHeader:
			return fmt.Errorf("%s has a header of its own", above)
		case e.value != nil:
			from = byDots
		}
		if !known || e.value != nil {
			r.seen[above] = from
		}
	}
	name := keyText(e.key)
	is, known := r.seen[name]
	if known && (e.value != nil || is != byInside) {
		return errors.New("it is there twice")
	}
	if r.seen[name] = byHeader; e.value != nil {
		r.seen[name] = byValue
	}
	return nil
}

func (r *proxyReader) unknown(key []string) {
	text := fmt.Sprintf("unknown key %s", keyText(key))
	if at := r.w[keyText(key)]; at != "" {
		text = at + ": " + text
	}
	r.checker.all = append(r.checker.all, text)
}

// text is the value of an entry that is to be a text.
func (r *proxyReader) text(e entry) string {
	if e.value == nil || e.value.Kind != unstable.String {
		r.refuse(e.key, "want a text")
		return ""
	}
	return string(e.value.Data)
}

// texts is the value of an entry that is to be a list of texts.
func (r *proxyReader) texts(e entry) []string {
	all := []string{}
	if e.value == nil || e.value.Kind != unstable.Array {
		r.refuse(e.key, "want a list of texts")
		return nil
	}
	for it := e.value.Children(); it.Next(); {
		if it.Node().Kind == unstable.Comment {
			continue
		}
		all = append(all, r.text(entry{key: e.key, value: it.Node()}))
	}
	return all
}
