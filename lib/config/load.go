// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// DefaultText is a file with every setting, its default and what it is for.
//
//go:embed default.toml
var DefaultText string

// Default is the configuration where there is no file.
func Default() *Config {
	c := &Config{}
	if err := toml.Unmarshal([]byte(DefaultText), c); err != nil {
		panic("config: default.toml: " + err.Error())
	}
	return c
}

// maxFile bounds a file, in bytes.
const maxFile = 1 << 20

// Load reads a file and its drop-ins over the defaults, and checks the result. An empty name is [File], which need not be there;
// another one that is not there is errdefs.ErrNotFound. All that is wrong is told, an error a line, with file and line, as
// errdefs.ErrInvalidArgument.
func Load(file string) (*Config, error) {
	required := file != ""
	if !required {
		file = File
	}
	c, w := Default(), where{}
	err := c.read(file, w)
	if errors.Is(err, fs.ErrNotExist) && !required {
		err = nil
	}
	drops, globErr := filepath.Glob(filepath.Join(filepath.Dir(file), "config.d", "*.toml")) // sorted
	if globErr != nil {
		return nil, fmt.Errorf("configuration %q: %w: %w", file, globErr, errdefs.ErrInvalidArgument)
	}
	for _, d := range drops {
		err = errors.Join(err, c.read(d, w))
	}
	if err == nil {
		err = c.check(w)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// read reads a file over what c has.
func (c *Config) read(file string, w where) error {
	data, err := readSmall(file)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return c.parse(data, file, w)
}

// parse reads the text of a file over what c has, and notes where its keys are.
func (c *Config) parse(data []byte, file string, w where) error {
	// The decoder merges into maps and structs, and begins a list anew.
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var all []error
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			all = append(all, fmt.Errorf("%s:%d: unknown key %q%s: %w", file, line, keyText(e.Key()), nearest(e.Key()), errdefs.ErrInvalidArgument))
		}
		return errors.Join(all...)
	}
	if err != nil {
		return badTOML(file, err)
	}
	return w.add(data, file)
}

// Parse reads one text over the defaults and checks the result; file is what errors call it.
func Parse(data []byte, file string) (*Config, error) {
	c, w := Default(), where{}
	if err := c.parse(data, file, w); err != nil {
		return nil, err
	}
	if err := c.check(w); err != nil {
		return nil, err
	}
	return c, nil
}

// Text writes the configuration as a file that Parse reads as the same.
func (c *Config) Text() ([]byte, error) {
	var b bytes.Buffer
	e := toml.NewEncoder(&b)
	e.SetTablesInline(false)
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return b.Bytes(), nil
}

func readSmall(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, fmt.Errorf("%s: no regular file of at most %d bytes: %w", path, maxFile, errdefs.ErrInvalidArgument)
	}
	return os.ReadFile(path)
}

func badTOML(file string, err error) error {
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		key := ""
		if len(at.Key()) > 0 {
			key = keyText(at.Key()) + ": "
		}
		return fmt.Errorf("%s:%d: %s%s: %w", file, line, key, oneLine(strings.TrimPrefix(at.Error(), "toml: ")), errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%s: %s: %w", file, oneLine(err.Error()), errdefs.ErrInvalidArgument)
}

// oneLine keeps a text from looking like several messages.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
