// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"
)

// readPod reads the configuration of a pod.
func readPod(path string) (*runtime.PodSandboxConfig, error) {
	c := &runtime.PodSandboxConfig{}
	if err := readConfig(path, c); err != nil {
		return nil, err
	}
	if c.GetMetadata().GetName() == "" {
		return nil, fmt.Errorf("%s: metadata.name is not set: %w", path, errdefs.ErrInvalidArgument)
	}
	return c, nil
}

// readContainer reads the configuration of a container.
func readContainer(path string) (*runtime.ContainerConfig, error) {
	c := &runtime.ContainerConfig{}
	if err := readConfig(path, c); err != nil {
		return nil, err
	}
	switch {
	case c.GetMetadata().GetName() == "":
		return nil, fmt.Errorf("%s: metadata.name is not set: %w", path, errdefs.ErrInvalidArgument)
	case c.GetImage().GetImage() == "":
		return nil, fmt.Errorf("%s: image.image is not set: %w", path, errdefs.ErrInvalidArgument)
	}
	return c, nil
}

// maxConfig bounds a configuration, in bytes.
const maxConfig = 4 << 20

// readConfig reads a message of the protocol from a file, JSON or YAML. Fields have the names of the protocol
// (log_directory) or of its JSON form (logDirectory); an unknown one is an error.
func readConfig(path string, m proto.Message) error {
	data, err := readFile(path)
	if err != nil {
		return err
	}
	if err := parseConfig(data, m); err != nil {
		return fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// readFile reads a file of bounded size; - is stdin.
func readFile(path string) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s: longer than %d bytes: %w", path, maxConfig, errdefs.ErrInvalidArgument)
	}
	return data, nil
}

func parseConfig(data []byte, m proto.Message) error {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(asJSON, m)
}
