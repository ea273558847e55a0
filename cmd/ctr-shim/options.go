// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// options are what the command line says.
type options struct {
	action           string
	namespace, id    string
	bundle           string
	sockets, socket  string
	events           string
	root, state      string
	address, publish string
	debug, info      bool
	containerd       bool
}

const defaultSockets = "/run/ctrd/s"

// parse reads a command line in the manner of containerd's shims: options with one hyphen or two, each with its
// value in the next argument or after =, then the action.
func parse(args []string) (o options, err error) {
	values := map[string]*string{
		"namespace": &o.namespace, "id": &o.id, "bundle": &o.bundle, "sockets": &o.sockets, "events": &o.events,
		"root": &o.root, "state": &o.state, "address": &o.address, "publish-binary": &o.publish,
		"socket": &o.socket,
	}
	switches := map[string]*bool{"debug": &o.debug, "info": &o.info, "containerd": &o.containerd}
	for len(args) > 0 {
		name, value, joined := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(args[0], "-"), "-"), "=")
		isOption := strings.HasPrefix(args[0], "-")
		args = args[1:]
		switch {
		case !isOption && o.action == "":
			o.action = name
		case !isOption:
			return o, fmt.Errorf("unexpected argument %q", name)
		case name == "h" || name == "help":
			return options{action: "help"}, nil
		case name == "v" || name == "version":
			return options{action: "version"}, nil
		case switches[name] != nil && !joined:
			*switches[name] = true
		case values[name] == nil:
			return o, fmt.Errorf("unknown option -%s: see ctr-shim -h", name)
		case joined:
			*values[name] = value
		case len(args) == 0:
			return o, fmt.Errorf("option -%s needs a value", name)
		default:
			*values[name], args = args[0], args[1:]
		}
	}
	return o, o.complete()
}

// complete checks the options and adds what is not said.
func (o *options) complete() (err error) {
	switch o.action {
	case "serve", "start", "delete":
	case "help":
		return nil
	case "":
		if o.info {
			o.action = "info"
			return nil
		}
		return errors.New("no action: see ctr-shim -h")
	default:
		return fmt.Errorf("unknown action %q: see ctr-shim -h", o.action)
	}
	if o.namespace == "" || o.id == "" {
		return fmt.Errorf("%s needs -namespace and -id", o.action)
	}
	if o.bundle == "" {
		if o.bundle, err = os.Getwd(); err != nil {
			return err
		}
	}
	if !filepath.IsAbs(o.bundle) {
		return fmt.Errorf("bundle %q is not an absolute path", o.bundle)
	}
	o.bundle = filepath.Clean(o.bundle)
	return nil
}

// loggerURI gives the log's address when the arguments are those of a logging program, else "". They come from
// the query of an address, as pairs in any order.
func loggerURI(args []string) string {
	if len(args) != 4 {
		return ""
	}
	pairs := map[string]string{args[0]: args[1], args[2]: args[3]}
	if value, ok := pairs["logger"]; !ok || value != "" {
		return ""
	}
	return pairs["uri"]
}
