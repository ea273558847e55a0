// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

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

// Load reads a file and its drop-ins over the defaults, and checks the result. An empty name is what [EnvFile] names, or else
// [File], which need not be there; another one that is not there is errdefs.ErrNotFound. What is wrong with them is told as
// [Mistakes], all at once.
func Load(file string) (*Config, error) {
	texts, err := read(file)
	if err != nil {
		return nil, err
	}
	c, w := Default(), where{}
	var wrong Mistakes
	for _, t := range texts {
		wrong = append(wrong, c.parse(t.data, t.file, w)...)
	}
	if len(wrong) == 0 {
		wrong = c.check(w)
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return c, nil
}

// source is a file that was read.
type source struct {
	file string
	data []byte
}

// read reads a file and its drop-ins; see [Load].
func read(file string) (all []source, err error) {
	if file == "" {
		file = os.Getenv(EnvFile)
	}
	required := file != ""
	if !required {
		file = File
	}
	dir := filepath.Join(filepath.Dir(file), "config.d")
	drops, err := fs.Glob(os.DirFS(dir), "*.toml") // sorted
	if err != nil {
		return nil, fmt.Errorf("configuration %q: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	for i, f := range append([]string{file}, drops...) {
		if i > 0 {
			f = filepath.Join(dir, f)
		}
		data, err := Read(f)
		if i == 0 && !required && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		all = append(all, source{f, data})
	}
	return all, nil
}

// parse reads the text of a file over what c has, and notes where its keys are.
func (c *Config) parse(data []byte, file string, w where) Mistakes {
	// The decoder merges into maps and structs, and begins a list anew.
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c); err != nil {
		return mistakes(file, err)
	}
	if err := w.add(data, file); err != nil {
		return mistakes(file, err)
	}
	return nil
}

// Parse reads one text over the defaults and checks the result; file is what its [Mistakes] call it.
func Parse(data []byte, file string) (*Config, error) {
	c, w := Default(), where{}
	wrong := c.parse(data, file, w)
	if len(wrong) == 0 {
		wrong = c.check(w)
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return c, nil
}

// Text writes the configuration as a file that Parse reads as the same.
func (c *Config) Text() ([]byte, error) {
	text, err := toml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return text, nil
}

// Read reads a file, or a pipe to its end, of at most a megabyte. One that is not there is errdefs.ErrNotFound.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: it has more than %d bytes: %w", path, maxFile, errdefs.ErrInvalidArgument)
	}
	return data, err
}
