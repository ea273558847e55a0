// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"os"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// readAuthFile reads the file with credentials; nil when none is named.
func (o Options) readAuthFile() (*configfile.ConfigFile, error) {
	if o.AuthFile == "" {
		return nil, nil
	}
	f, err := os.Open(o.AuthFile)
	if err != nil {
		return nil, badFile("--authfile", o.AuthFile, err)
	}
	defer f.Close()
	conf, err := config.LoadFromReader(f)
	if err != nil {
		return nil, badFile("--authfile", o.AuthFile, err)
	}
	return conf, nil
}

// credentials finds what to log in with at the repository's registry, or authn.Anonymous. Credential
// helpers that a configuration file names are run.
func (r *Repository) credentials(repo name.Repository) (authn.Authenticator, error) {
	switch {
	case r.opt.Username != "" || r.opt.Password != "":
		return authn.FromConfig(authn.AuthConfig{Username: r.opt.Username, Password: r.opt.Password}), nil
	case r.auth != nil:
		return fromFile(r.auth, repo)
	}
	return authn.DefaultKeychain.Resolve(repo)
}

func fromFile(conf *configfile.ConfigFile, repo name.Repository) (authn.Authenticator, error) {
	for _, key := range []string{repo.String(), repo.RegistryStr()} {
		if key == name.DefaultRegistry {
			key = authn.DefaultAuthKey
		}
		c, err := conf.GetAuthConfig(key)
		if err != nil {
			return nil, err
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
