// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// credentials finds what to log in with at the repository's registry, or authn.Anonymous. Credential
// helpers that a configuration file names are run.
func (o Options) credentials(repo name.Repository) (authn.Authenticator, error) {
	switch {
	case o.Username != "" || o.Password != "":
		return authn.FromConfig(authn.AuthConfig{Username: o.Username, Password: o.Password}), nil
	case o.AuthFile != "":
		return fromFile(o.AuthFile, repo)
	}
	return authn.DefaultKeychain.Resolve(repo)
}

func fromFile(path string, repo name.Repository) (authn.Authenticator, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conf, err := config.LoadFromReader(f)
	if err != nil {
		return nil, fmt.Errorf("%q: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	for _, key := range []string{repo.String(), repo.RegistryStr()} {
		if key == name.DefaultRegistry {
			key = authn.DefaultAuthKey
		}
		c, err := conf.GetAuthConfig(key)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		c.ServerAddress = ""
		if c != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: c.Username, Password: c.Password, Auth: c.Auth,
				IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}
