// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// Mistakes are all that is wrong with a configuration, each as FILE:LINE: KEY: what is wrong. They are errdefs.ErrInvalidArgument.
type Mistakes []string

// Error has a mistake a line.
func (m Mistakes) Error() string { return strings.Join(m, "\n") }

// Unwrap gives the kind.
func (m Mistakes) Unwrap() error { return errdefs.ErrInvalidArgument }

// mistakes gives what is wrong with the text of a file by the decoder's error.
func mistakes(file string, err error) (all Mistakes) {
	var unknown *toml.StrictMissingError
	var at *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			all = append(all, fmt.Sprintf("%s:%d: unknown key %s%s", file, line, keyText(e.Key()), nearest(e.Key())))
		}
	case errors.As(err, &at):
		line, _ := at.Position()
		key := ""
		if len(at.Key()) > 0 {
			key = keyText(at.Key()) + ": "
		}
		all = Mistakes{fmt.Sprintf("%s:%d: %s%s", file, line, key, oneLine(strings.TrimPrefix(at.Error(), "toml: ")))}
	default:
		all = Mistakes{file + ": " + oneLine(err.Error())}
	}
	return all
}

// oneLine keeps a text from looking like several messages.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
